"""Energies: networks that map a datum to one number, low where data is.

    p(x) = exp(-U(x)) / Z

No batch normalisation anywhere: it would tie the energies of a batch together, and a chain's
gradient would depend on its neighbours. This file needs torch alone.

References:
    [1] Su Jianlin, https://kexue.fm/archives/6612
    [2] Du & Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019.
        https://arxiv.org/abs/1903.08689
    [3] Miyato et al., Spectral Normalization for GANs, 2018. https://arxiv.org/abs/1802.05957
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["EBM", "FLOAT32_KEYS", "EBMConfig", "EnergyMLP", "EnergyMLPConfig", "SpectralNorm"]

#: What is published in float32: vectors, which weigh nothing; and rounding the singular vectors of
#: spectral normalisation would change every weight.
FLOAT32_KEYS = ("*.bias", "*.left", "*.right")

#: Of LeakyReLU below zero.
SLOPE = 0.2

Activation = Literal["swish", "leaky-relu"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "swish": nn.SiLU,
    "leaky-relu": lambda: nn.LeakyReLU(SLOPE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EBMConfig:
    """Architecture of a convolutional energy.

    Attributes:
        size: Side of the images in pixels, at least 8.
        channels: 3 for RGB, 1 for grey.
        width: Channels of the first convolution; the MNIST net of [2] has 64.
        net: ``"conv"``, the MNIST net of [2]: a 3x3 convolution, three of 4x4 with stride 2 to 1,
            2 and 4 times the width, two linear layers. ``"resnet"``: a convolution, then residual
            blocks with an average pool each, and a sum over the pixels.
        activation: ``"swish"`` has a smooth gradient, which the chains follow.
        spectral_norm: Divide every weight by its spectral norm [3], as [2] does. It bounds the
            slope of the energy, and so the forces in the chains.
        replay: Samples of the training's replay buffer kept with the weights, to start chains from.
    """

    size: int = 28
    channels: int = 1
    width: int = 64
    net: Literal["conv", "resnet"] = "conv"
    activation: Activation = "swish"
    spectral_norm: bool = False
    replay: int = 0

    def __post_init__(self) -> None:
        if self.size < 8 or min(self.channels, self.width) < 1 or self.replay < 0:
            raise ValueError("size must be >= 8, channels and width >= 1, replay >= 0")
        if self.net not in ("conv", "resnet"):
            raise ValueError(f"net must be conv or resnet, not {self.net!r}")
        _check_activation(self.activation)


class EBM(nn.Module):
    """The energy of an image.

    Args:
        config: The architecture.

    Attributes:
        replay: uint8, (config.replay, C, H, W): where chains may start from instead of noise.
    """

    replay: Tensor

    def __init__(self, config: EBMConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or EBMConfig()
        self.net = _conv_net(c) if c.net == "conv" else _res_net(c)
        if c.spectral_norm:
            for module in self.net.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    _normalize(module)
        self.register_buffer(
            "replay", torch.zeros((c.replay, c.channels, c.size, c.size), dtype=torch.uint8)
        )

    @property
    def data_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.config.channels, self.config.size, self.config.size

    def forward(self, x: Tensor) -> Tensor:
        """The energy in nats up to a constant, (n,), of images (n, C, H, W) in [0, 1]."""
        energy: Tensor = self.net(2 * x - 1)
        return energy.squeeze(1)

    def energy(self, x: Tensor) -> Tensor:
        """U(x) in nats up to a constant, (n,), of images (n, C, H, W) in [0, 1]."""
        energy: Tensor = self(x)
        return energy


def _conv_net(c: EBMConfig) -> nn.Sequential:
    """The net of [2] for MNIST at ``width=64``."""
    widths = [c.width, c.width, 2 * c.width, 4 * c.width]
    layers: list[nn.Module] = [nn.Conv2d(c.channels, c.width, 3, padding=1), _act(c.activation)]
    side = c.size
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), _act(c.activation)]
        side //= 2
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(widths[-1] * side * side, 2 * c.width),
        _act(c.activation),
        nn.Linear(2 * c.width, 1),
    )


def _res_net(c: EBMConfig) -> nn.Sequential:
    """The net of [2] for colour images in outline: residual blocks, pooling, a sum."""
    blocks: list[nn.Module] = []
    width, side = c.width, c.size
    while side >= 8:
        blocks += [
            ResidualBlock(width, min(2 * width, 4 * c.width), c.activation),
            nn.AvgPool2d(2),
        ]
        width, side = min(2 * width, 4 * c.width), side // 2
    return nn.Sequential(
        nn.Conv2d(c.channels, c.width, 3, padding=1),
        *blocks,
        ResidualBlock(width, width, c.activation),
        _act(c.activation),
        SumPool(),
        nn.Linear(width, 1),
    )


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), the branch about zero at the start."""

    def __init__(self, before: int, after: int, activation: str) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _act(activation),
            nn.Conv2d(before, after, 3, padding=1),
            _act(activation),
            nn.Conv2d(after, after, 3, padding=1),
        )
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        # [2] starts the second convolution at about zero, so that a block begins as its skip. Under
        # spectral normalisation, which undoes any scale, it begins as any other.
        last = self.branch[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.normal_(last.weight, std=1e-5)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, H, W) to (n, after, H, W)."""
        out: Tensor = self.skip(x) + self.branch(x)
        return out


class SumPool(nn.Module):
    """The sum over all pixels: the energy of an image is the sum of its parts'."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, C)."""
        return x.sum((2, 3))


class SpectralNorm(nn.Module):
    """W / sigma(W) as a parametrisation of a weight, after [3].

    A kernel (out, in, h, w) counts as a matrix (out, in h w). In training mode each reading of the
    weight does one round of power iteration: so a training step has to read it once, which one pass
    over data and samples together does, while chains run in eval mode, where nothing moves.

    Sums of products in place of matrix products: their bits do not depend on where in memory a
    weight lies, so that weights that were saved and loaded give the same energies.

    Args:
        weight: The weight at the start, from which the singular vectors are found.

    Attributes:
        left, right: The singular vectors u (out,) and v (in h w,).
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("left", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("right", F.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(15):
            self._iterate(matrix)

    def forward(self, weight: Tensor) -> Tensor:
        """A weight of any shape to the same over its spectral norm."""
        matrix = weight.flatten(1)
        if self.training:
            self._iterate(matrix.detach())
        # Copies, since the graph keeps them while the next reading moves the buffers.
        left, right = self.left.clone(), self.right.clone()
        return weight / (left * (matrix * right).sum(1)).sum()

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.left.copy_(F.normalize((matrix * self.right).sum(1), dim=0))
        self.right.copy_(F.normalize((matrix * self.left[:, None]).sum(0), dim=0))


def _normalize(module: nn.Conv2d | nn.Linear) -> None:
    parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight))


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyMLPConfig:
    """Architecture of the energy of a vector.

    Attributes:
        dim: Length of a datum.
        hidden: Width of the hidden layers.
        layers: Hidden layers, at least 1.
        activation: See :class:`EBMConfig`.
        spectral_norm: See :class:`EBMConfig`.
        base_scale: Adds |x|^2 / (2 base_scale^2): the density is relative to a wide Gaussian, and
            so has a finite Z whatever the network does far out. ``None`` adds nothing.
    """

    dim: int = 2
    hidden: int = 128
    layers: int = 2
    activation: Activation = "swish"
    spectral_norm: bool = False
    base_scale: float | None = None

    def __post_init__(self) -> None:
        if min(self.dim, self.hidden, self.layers) < 1:
            raise ValueError("dim, hidden and layers must be at least 1")
        if self.base_scale is not None and not self.base_scale > 0:
            raise ValueError(f"base_scale must be positive or None, not {self.base_scale}")
        _check_activation(self.activation)


class EnergyMLP(nn.Module):
    """The energy of a vector, for densities that can be looked at.

    Args:
        config: The architecture.
    """

    def __init__(self, config: EnergyMLPConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or EnergyMLPConfig()
        widths = [c.dim, *[c.hidden] * c.layers]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), _act(c.activation)]
        self.net = nn.Sequential(*layers, nn.Linear(c.hidden, 1))
        if c.spectral_norm:
            for module in self.net:
                if isinstance(module, nn.Linear):
                    _normalize(module)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """(dim,)."""
        return (self.config.dim,)

    def forward(self, x: Tensor) -> Tensor:
        """The energy in nats up to a constant, (n,), of vectors (n, dim)."""
        energy: Tensor = self.net(x).squeeze(1)
        if self.config.base_scale is not None:
            energy = energy + x.square().sum(1) / (2 * self.config.base_scale**2)
        return energy

    def energy(self, x: Tensor) -> Tensor:
        """U(x) in nats up to a constant, (n,), of vectors (n, dim)."""
        energy: Tensor = self(x)
        return energy

    @torch.no_grad()
    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U(x), (n,), and its gradient in x, (n, dim), without a graph.

        The chain rule by hand: at this size autograd's bookkeeping costs as much as the sums.
        """
        linears = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        activate, derive = _BY_HAND[self.config.activation]
        hidden, inner = x, []
        for linear in linears[:-1]:
            inner.append(F.linear(hidden, linear.weight, linear.bias))
            hidden = activate(inner[-1])
        energy = F.linear(hidden, linears[-1].weight, linears[-1].bias).squeeze(1)
        gradient = linears[-1].weight.expand(len(x), -1)
        for linear, before in zip(linears[-2::-1], inner[::-1], strict=True):
            gradient = derive(gradient, before) @ linear.weight
        if self.config.base_scale is not None:
            energy = energy + x.square().sum(1) / (2 * self.config.base_scale**2)
            gradient = gradient + x / self.config.base_scale**2
        return energy, gradient


#: Activation -> itself, and (gradient after it, what went into it) to the gradient before it.
_BY_HAND: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "swish": (F.silu, torch.ops.aten.silu_backward),
    "leaky-relu": (
        partial(F.leaky_relu, negative_slope=SLOPE),
        lambda gradient, x: torch.where(x > 0, gradient, SLOPE * gradient),
    ),
}


def _act(name: str) -> nn.Module:
    return _ACTIVATIONS[name]()


def _check_activation(name: str) -> None:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, not {name!r}")
