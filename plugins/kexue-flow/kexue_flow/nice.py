"""NICE: a normalizing flow of additive couplings and one scale. Needs torch and glow.py alone.

References:
    [1] Dinh, Krueger & Bengio, NICE, 2014. https://arxiv.org/abs/1410.8516
    [2] Su Jianlin, https://kexue.fm/archives/5776

Example:
    >>> nice = NICE(NICEConfig(size=8, hidden=32, depth=2))
    >>> images = nice.decode(nice.prior(4, temperature=0.7))  # (4, 1, 8, 8) in [0, 1]
    >>> bits = nice.bits_per_dim(images)  # (4,)
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Relative, so that the two files run in whatever folder they are copied to.
from .glow import LOGSCALE_FACTOR, Flow, apply_steps, check_choices, check_range, check_sizes

__all__ = ["FLOAT32_KEYS", "NICE", "NICEConfig"]

# State-dict patterns (fnmatch) that stay float32 when weights are published in float16.
FLOAT32_KEYS = ("logs", "*.bias")

# Smallest deviation that a scale starts from. A pixel that is black in all images of the first
# batch may be white in the next, and that costs the square of their ratio.
START_STD = 0.1

CHOICES = {
    "partition": ("parity", "halves", "shuffle"),
    "prior": ("normal", "logistic"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NICEConfig:
    """Shape of a NICE; the defaults are the paper's for MNIST [1, section 5.1], 19M parameters.

    Args:
        size: side of the square image in pixels; the image, flattened, needs an even length.
        couplings: additive couplings; every other one changes the other half.
        hidden, depth: width and number of the hidden layers of the coupling nets.
        bits: bits a channel that `bits_per_dim` and `dequantize` quantise to.
        partition: the halves. "parity" takes every other number [1], "halves" the first and the
            last ones, "shuffle" draws halves anew for each coupling.
        prior: "normal" [2], or "logistic", which [1] found smoother to train; then a latent is
            not N(0, I), but logistic of scale 1.
    """

    size: int = 28
    channels: int = 1
    couplings: int = 4
    hidden: int = 1000
    depth: int = 5
    bits: int = 8
    partition: str = "parity"
    prior: str = "normal"

    def __post_init__(self) -> None:
        check_sizes(self, "size", "channels", "couplings", "hidden", "depth", "bits")
        check_choices(self, CHOICES)
        if (dims := self.channels * self.size**2) % 2:
            raise ValueError(
                f"{self.channels} x {self.size} x {self.size} = {dims} numbers do not fall into "
                "halves; use an even size or number of channels"
            )


class Linear(nn.Module):
    """x W + b in the number type of x (N, inputs); W starts with He's deviation, or at zero."""

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__()
        std = 0.0 if zero else math.sqrt(2 / inputs)
        self.weight = nn.Parameter(std * torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


def coupling_net(half: int, config: NICEConfig) -> nn.Sequential:
    """Rectified layers, then a linear one: (N, half) -> (N, half), zero at the start."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([half, *[config.hidden] * config.depth]):
        layers += [Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, Linear(config.hidden, half, zero=True))


class AdditiveCoupling(nn.Module):
    """Shift one half by what the other says [1, section 3.2]: y1 = x1, y2 = x2 + m(x1)."""

    order: Tensor
    back: Tensor

    def __init__(self, dims: int, number: int, config: NICEConfig) -> None:
        super().__init__()
        half = dims // 2
        if config.partition == "shuffle":
            order = torch.randperm(dims)
        else:
            order = torch.arange(dims)
            if config.partition == "parity":
                order = order.view(half, 2).T.flatten()
            order = order.roll(half * (number % 2))
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())
        self.net = coupling_net(half, config)

    def forward(self, x: Tensor, net_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """x (N, D) -> y (N, D) and log |dy/dx| = 0 (N,): it keeps the volume."""
        x1, x2 = x[:, self.order].chunk(2, dim=1)
        y = torch.cat([x1, x2 + self._shift(x1, net_dtype)], dim=1)
        return y[:, self.back], x.new_zeros(len(x))

    def inverse(self, y: Tensor, net_dtype: torch.dtype | None = None) -> Tensor:
        """y -> x."""
        y1, y2 = y[:, self.order].chunk(2, dim=1)
        return torch.cat([y1, y2 - self._shift(y1, net_dtype)], dim=1)[:, self.back]

    def _shift(self, x1: Tensor, net_dtype: torch.dtype | None) -> Tensor:
        return self.net(x1.to(net_dtype or x1.dtype)).to(x1.dtype)  # type: ignore[no-any-return]


class NICE(Flow):
    """Couplings that keep the volume, then a scale for every dimension; one latent (D,).

    Without the scale the model could only move the density about. With it, a dimension that the
    data do not need gets a small deviation, as in a principal component analysis
    [1, section 3.3].
    """

    config: NICEConfig

    def __init__(self, config: NICEConfig) -> None:
        super().__init__(config)
        dims = config.channels * config.size**2
        self.couplings = nn.ModuleList(
            AdditiveCoupling(dims, number, config) for number in range(config.couplings)
        )
        self.logs = nn.Parameter(torch.zeros(dims))  # a third of log |S_ii| [1, section 3.3]

    @property
    def latent_shapes(self) -> tuple[tuple[int], ...]:
        """(D,) of the only latent."""
        return ((len(self.logs),),)

    def _encode(
        self, x: Tensor, net_dtype: torch.dtype | None, *, reversible: bool
    ) -> tuple[list[Tensor], Tensor]:
        x = x.flatten(1) - 0.5
        h, log_det = apply_steps(self.couplings, x, net_dtype, reversible=reversible)
        log_scale = LOGSCALE_FACTOR * self.logs
        return [h * log_scale.exp()], log_det + log_scale.sum()

    def _decode(self, latents: Sequence[Tensor], net_dtype: torch.dtype | None) -> Tensor:
        h = latents[0] * (-LOGSCALE_FACTOR * self.logs).exp()
        for coupling in reversed(self.couplings):
            h = coupling.inverse(h, net_dtype)  # type: ignore[operator]  # ModuleList has no types
        return h.view(-1, *self.data_shape) + 0.5

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the scales from a batch of dequantised images in [0, 1], for deviations below 1."""
        check_range(x)
        h, _ = apply_steps(self.couplings, x.to(self._dtype).flatten(1) - 0.5, None)
        std = h.std(0, correction=0).clamp(min=START_STD)
        self.logs.copy_(-std.log() / LOGSCALE_FACTOR)

    def _noise_log_prob(self, z: Tensor) -> Tensor:
        if self.config.prior == "normal":
            return super()._noise_log_prob(z)
        return -F.softplus(z) - F.softplus(-z)  # [1, section 3.4]

    def _draw_noise(self, z: Tensor, generator: torch.Generator | None) -> None:
        if self.config.prior == "normal":
            super()._draw_noise(z, generator)
        else:
            # Where the distribution function has a uniform value; not at 0, where it is infinite.
            z.uniform_(torch.finfo(z.dtype).tiny, 1.0, generator=generator).logit_()
