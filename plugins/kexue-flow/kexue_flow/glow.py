"""Glow: a normalizing flow with invertible 1x1 convolutions. One file, needs torch alone.

Since it is to run when copied out alone, what NICE and RealNVP share with it is defined here too:
`Flow`, `apply_steps`, `Prior`, `Conv`, `dequantize`, `squeeze`.

References:
    [1] Kingma & Dhariwal, Glow, 2018. https://arxiv.org/abs/1807.03039
        and its code, https://github.com/openai/glow ("the code" below)
    [2] Dinh et al., Density estimation using Real NVP, 2016. https://arxiv.org/abs/1605.08803
    [3] Su Jianlin, https://kexue.fm/archives/5807 (explains the conditional prior of a split)

Example:
    >>> glow = Glow(GlowConfig(size=8, levels=2, steps=2, hidden=16))
    >>> images = glow.decode(glow.prior(4, temperature=0.7))  # (4, 3, 8, 8) in [0, 1]
    >>> bits = glow.bits_per_dim(images)  # (4,)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = [
    "FLOAT32_KEYS",
    "LOGSCALE_FACTOR",
    "Conv",
    "Flow",
    "Glow",
    "GlowConfig",
    "Prior",
    "apply_steps",
    "check_choices",
    "check_range",
    "check_sizes",
    "dequantize",
    "squeeze",
    "unsqueeze",
]

# State-dict patterns (fnmatch) that stay float32 when weights are published in float16: what is
# exponentiated, inverted or summed over every pixel. What remains is the convolutions.
FLOAT32_KEYS = ("*.actnorm.*", "*.mixing.*", "*.prior.*", "*.bias", "*.logs")

# The code stores log-scales divided by 3, which makes an optimiser step on them 3 times larger.
LOGSCALE_FACTOR = 3.0

# Dequantised 8-bit data has a standard deviation of at least 2^-8 / sqrt(12) = 1.1e-3; what is
# below it is a constant channel, which would otherwise start with an infinite scale.
MIN_STD = 1e-3

# A learned deviation is between 1e-3 and 1e3: an outlier in one level, sent through exp, would be
# an infinity in the next.
MAX_PRIOR_LOGS = 7.0

CHOICES = {
    "coupling": ("affine", "additive"),
    "permutation": ("conv-lu", "conv", "shuffle", "reverse"),
    "scale": ("sigmoid", "exp-tanh"),
    "split_prior": ("learned", "standard"),
    "top_prior": ("learned", "standard"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GlowConfig:
    """Shape of a Glow; the defaults are a 6.4M-parameter model of 64x64 faces.

    Args:
        size: side of the square image in pixels, a multiple of ``2**levels``.
        levels, steps: L and K of [1, Figure 2b]; `hidden` is the width of the coupling nets.
        bits: bits a channel that `bits_per_dim` and `dequantize` quantise to.
        coupling: "additive" is NICE's z2 + t(z1), with a log-determinant of zero.
        permutation: "conv" is a dense 1x1 matrix, "conv-lu" its LU form [1, eq 11].
        scale: "sigmoid" as in the code, s in (scale_floor, 1); "exp-tanh" as in [2],
            s in (scale_floor, 1 / scale_floor).
        scale_floor: smallest s. Sampling divides by s, so a floor of zero (the code's) lets an
            outlier grow without bound on its way back to an image.
        split_prior: prior of what a level splits off, "learned" from what it keeps.
        top_prior: prior of the last level, "learned" a mean and deviation for every channel.
        net_actnorm: actnorm inside the coupling nets, as in the code.
        edges: tell 3x3 convolutions where the image ends, as in the code.
    """

    size: int = 64
    channels: int = 3
    levels: int = 4
    steps: int = 16
    hidden: int = 128
    bits: int = 5
    coupling: str = "affine"
    permutation: str = "conv-lu"
    scale: str = "sigmoid"
    scale_floor: float = 0.05
    split_prior: str = "learned"
    top_prior: str = "learned"
    net_actnorm: bool = True
    edges: bool = True

    def __post_init__(self) -> None:
        check_sizes(self, "size", "channels", "levels", "steps", "hidden", "bits")
        # 2**levels of a broken config may be too long a number to compute.
        if self.levels > self.size.bit_length() or self.size % 2**self.levels:
            raise ValueError(
                f"size {self.size} is not a multiple of 2**levels with {self.levels} levels; "
                "use fewer levels or pad the images"
            )
        check_choices(self, CHOICES)
        if not 0 <= self.scale_floor < 1:
            raise ValueError(f"scale_floor must be in [0, 1), got {self.scale_floor}")
        if self.scale == "exp-tanh" and self.scale_floor == 0:
            raise ValueError("scale 'exp-tanh' is bounded by scale_floor, which must be above 0")


def dequantize(x: Tensor, noise: Tensor, bits: int) -> Tensor:
    """Round 8-bit images in [0, 1] down to `bits` bits, fill the bins with noise in [0, 1).

    The result is real-valued in [0, 1]; log p of it is below the log-probability of the bin on
    average [1, eq 2], so a density cannot win by putting infinite peaks on the pixel values.
    """
    bins = 1 << bits
    levels: Tensor = (x * 255).round().div(256 // bins, rounding_mode="floor")
    return (levels + noise) / bins


class Actnorm(nn.Module):
    """Shift, then scale, every channel [1, section 3.1]: y = (x + shift) * exp(3 logs)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.logs = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Give every channel of `x` (N, C, H, W) zero mean and unit deviation."""
        shift, logs = _whitening(x)
        self.shift.copy_(shift)
        self.logs.copy_(logs)


class Mixing(nn.Module):
    """Mix the channels of a pixel by an invertible matrix [1, section 3.2]."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "reverse":
            self.register_buffer("permutation", torch.arange(channels - 1, -1, -1))
        elif kind == "shuffle":
            self.register_buffer("permutation", torch.randperm(channels))
        else:
            rotation = torch.linalg.qr(torch.randn(channels, channels))[0]  # log |det| = 0
            if kind == "conv":
                self.weight = nn.Parameter(rotation.contiguous())
            else:
                # W = P L (U + diag(s)) [1, eq 10], packed as LAPACK does: L below the diagonal,
                # U above it, log |s| on it. P and the sign of s stay as they start.
                p, lower, upper = torch.linalg.lu(rotation)
                diagonal = upper.diagonal()
                packed = lower.tril(-1) + upper.triu(1) + diagonal.abs().log().diag()
                self.lu = nn.Parameter(packed)
                self.register_buffer("permutation", p.argmax(1))  # P A = A[permutation]
                self.register_buffer("sign", diagonal.sign())

    def forward(self) -> tuple[Tensor, Tensor]:
        """The matrix W (C, C) and log |det W|, in float64: W is small, its errors add up."""
        if self.kind == "conv":
            weight = self.weight.double()
            return weight, torch.linalg.slogdet(weight)[1]
        order = self.permutation
        identity = torch.eye(len(order), dtype=torch.float64, device=order.device)
        if self.kind == "conv-lu":
            lu = self.lu.double()
            log_s = lu.diagonal()
            matrix = (lu.tril(-1) + identity) @ (lu.triu(1) + (self.sign * log_s.exp()).diag())
            return matrix[order], log_s.sum()  # [1, eq 11]
        return identity[order], identity.new_zeros(())


class Conv(nn.Module):
    """Convolution, then a shift and a scale of every channel: (conv(x) + bias) * exp(3 logs).

    With data-dependent values this is the code's convolution followed by actnorm, with zeros its
    "conv2d_zeros"; `scaled=False` is an ordinary convolution. The scale is folded into the kernel,
    which is much smaller than the image.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, std: float, scaled: bool, edges: bool
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(std * torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.logs = nn.Parameter(torch.zeros(outputs)) if scaled else None
        # The code pads with zeros and appends a channel that is 1 in the padding. Its part of the
        # convolution does not depend on x: it is added as a bias for every position instead, since
        # an odd number of input channels is slow.
        self.edge = nn.Parameter(std * torch.randn(outputs, 1, 3, 3)) if edges else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W), in the number type of `x`."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        edge: Tensor | None = self.edge
        if self.logs is not None:
            scale = (LOGSCALE_FACTOR * self.logs).exp()
            weight, bias = weight * scale[:, None, None, None], bias * scale
            edge = None if edge is None else edge * scale[:, None, None, None]
        padding = weight.shape[-1] // 2
        if edge is None:
            return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=padding)
        inside = edge.new_zeros(1, 1, *x.shape[2:])
        position = F.conv2d(F.pad(inside, (1, 1, 1, 1), value=1.0), edge, bias)  # (1, out, H, W)
        position = position.to(x.dtype, memory_format=torch.channels_last)
        return F.conv2d(x, weight.to(x.dtype), padding=padding).add_(position)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        """Whiten the output for the batch `x`; returns that output."""
        if self.logs is not None:
            self.bias.zero_()
            self.logs.zero_()
            bias, logs = _whitening(self(x))
            self.bias.copy_(bias)
            self.logs.copy_(logs)
        return self(x)  # type: ignore[no-any-return]


class CouplingNet(nn.Module):
    """3x3, 1x1, 3x3 convolutions, the last one zero at the start [1, section 3.3]."""

    def __init__(self, inputs: int, outputs: int, config: GlowConfig) -> None:
        super().__init__()
        width, norm, edges = config.hidden, config.net_actnorm, config.edges
        self.first = Conv(inputs, width, 3, std=0.05, scaled=norm, edges=edges)
        self.middle = Conv(width, width, 1, std=0.05, scaled=norm, edges=False)
        self.last = Conv(width, outputs, 3, std=0.0, scaled=True, edges=edges)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.first(x).relu_()).relu_()
        return self.last(x)  # type: ignore[no-any-return]  # a module's call has no types

    def initialize(self, x: Tensor) -> None:
        self.middle.initialize(self.first.initialize(x).relu_())


class Step(nn.Module):
    """One step of flow: actnorm, mixing, coupling [1, table 1]."""

    def __init__(self, channels: int, config: GlowConfig) -> None:
        super().__init__()
        self.config = config
        self.actnorm = Actnorm(channels)
        self.mixing = Mixing(channels, config.permutation)
        half = channels // 2  # channels are a multiple of 4 after a squeeze
        self.net = CouplingNet(half, channels if config.coupling == "affine" else half, config)

    def forward(self, x: Tensor, net_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W) -> y (N, C, H, W) and log |dy/dx| (N,)."""
        matrix, log_det = self._matrix()
        x = _pointwise(x, matrix, matrix @ self.actnorm.shift.double())
        x1, x2 = x.chunk(2, dim=1)
        shift, log_scale = self._coupling(x1, net_dtype)
        y2 = x2 + shift
        log_det = (log_det * (x.shape[2] * x.shape[3])).to(x.dtype).expand(len(x))
        if log_scale is not None:
            y2 = y2 * log_scale.exp()
            log_det = log_det + log_scale.sum((1, 2, 3))
        return torch.cat([x1, y2], dim=1), log_det

    def inverse(self, y: Tensor, net_dtype: torch.dtype | None = None) -> Tensor:
        """y -> x."""
        x1, y2 = y.chunk(2, dim=1)
        shift, log_scale = self._coupling(x1, net_dtype)
        if log_scale is not None:
            y2 = y2 * (-log_scale).exp()
        inverse = torch.linalg.inv(self._matrix()[0])
        return _pointwise(torch.cat([x1, y2 - shift], dim=1), inverse, -self.actnorm.shift.double())

    def initialize(self, x: Tensor) -> Tensor:
        """Set every actnorm from the batch `x`; returns y."""
        self.actnorm.initialize(x)
        matrix, _ = self._matrix()
        self.net.initialize(
            _pointwise(x, matrix, matrix @ self.actnorm.shift.double()).chunk(2, dim=1)[0]
        )
        y, _ = self(x)
        return y  # type: ignore[no-any-return]

    def _matrix(self) -> tuple[Tensor, Tensor]:
        # The 1x1 matrix times the scale of actnorm: one pass over the image in place of two.
        matrix, log_det = self.mixing()
        logs = LOGSCALE_FACTOR * self.actnorm.logs.double()
        return matrix * logs.exp(), log_det + logs.sum()

    def _coupling(self, x1: Tensor, net_dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
        # Shift and log-scale of the second half, as functions of the first [1, table 1].
        out = self.net(x1.to(net_dtype or x1.dtype)).to(x1.dtype)
        if self.config.coupling == "additive":
            return out, None
        (shift, logits), floor = out.chunk(2, dim=1), self.config.scale_floor
        if self.config.scale == "exp-tanh":
            bound = -math.log(floor)
            return shift, bound * torch.tanh(logits / bound)
        log_scale = F.logsigmoid(logits + 2.0)  # the code starts at s = sigmoid(2) = 0.88
        if floor > 0:
            log_scale = (floor + (1 - floor) * log_scale.exp()).log()
        return shift, log_scale


class Prior(nn.Module):
    """Normal of a latent; what a level splits off gets its mean and deviation from what it keeps.

    [3] explains it: a standard normal would force both halves to be independent. The flow goes on
    to the noise (z - mean) / deviation, so that every latent is N(0, I). The kind is "learned" or
    "standard", a normal whatever is kept.
    """

    def __init__(self, channels: int, kind: str, *, split: bool, edges: bool = True) -> None:
        super().__init__()
        self.conv = self.mean = self.logs = None
        if kind == "learned" and split:
            self.conv = Conv(channels, 2 * channels, 3, std=0.0, scaled=True, edges=edges)
        elif kind == "learned":
            self.mean = nn.Parameter(torch.zeros(channels))
            self.logs = nn.Parameter(torch.zeros(channels))

    def forward(self, z: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (N, C, H, W) -> noise (N, C, H, W) and log |d noise / dz| (N,)."""
        mean, logs = self._moments(z, kept)
        return (z - mean) * (-logs).exp(), -logs.expand(z.shape).sum((1, 2, 3))

    def inverse(self, noise: Tensor, kept: Tensor | None = None) -> Tensor:
        """noise -> z."""
        mean, logs = self._moments(noise, kept)
        return mean + noise * logs.exp()

    def _moments(self, z: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.conv is not None:
            mean, logs = self.conv(kept).chunk(2, dim=1)
            return mean, logs.clamp(-MAX_PRIOR_LOGS, MAX_PRIOR_LOGS)
        if self.mean is not None and self.logs is not None:
            return self.mean[:, None, None], LOGSCALE_FACTOR * self.logs[:, None, None]
        return z.new_zeros(1, 1, 1), z.new_zeros(1, 1, 1)


class Level(nn.Module):
    """Squeeze, K steps, and, but for the last level, a split [1, figure 2b]."""

    def __init__(self, channels: int, config: GlowConfig, *, last: bool) -> None:
        super().__init__()
        self.last = last
        self.steps = nn.ModuleList(Step(channels, config) for _ in range(config.steps))
        self.prior = Prior(
            channels if last else channels // 2,
            config.top_prior if last else config.split_prior,
            split=not last,
            edges=config.edges,
        )

    def forward(
        self, x: Tensor, net_dtype: torch.dtype | None, reversible: bool = False
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """x (N, C / 4, 2H, 2W) -> kept (N, C / 2, H, W), noise (the same shape), log-det (N,)."""
        x, log_det = apply_steps(self.steps, squeeze(x), net_dtype, reversible=reversible)
        kept, z = (None, x) if self.last else x.chunk(2, dim=1)
        noise, change = self.prior(z, kept)
        return kept, noise, log_det + change

    def inverse(self, kept: Tensor | None, noise: Tensor, net_dtype: torch.dtype | None) -> Tensor:
        """kept and noise -> x."""
        z = self.prior.inverse(noise, kept)
        x = z if kept is None else torch.cat([kept, z], dim=1)
        for step in reversed(self.steps):
            x = step.inverse(x, net_dtype)  # type: ignore[operator]  # ModuleList has no types
        return unsqueeze(x)

    def initialize(self, x: Tensor) -> Tensor:
        """Set every actnorm from the batch `x`; returns kept."""
        x = squeeze(x)
        for step in self.steps:
            x = step.initialize(x)  # type: ignore[operator]
        return x if self.last else x.chunk(2, dim=1)[0]


class Flow(nn.Module, ABC):
    """An exact density of images in [0, 1] with an exact inverse: what is no matter of layers.

    Images are (N, C, size, size), computed in the number type of the parameters. Latents are a
    tuple of noise tensors, each N(0, I) under the model.

    Attributes:
        net_dtype: Number type of the coupling nets, for `forward` in training mode alone.
            torch.bfloat16 is about twice as fast, but then the inverse is exact to 5e-3 only:
            right for training and for looking at samples.
        reversible: Whether training keeps no activations of the steps of flow, but inverts and
            runs every step once more on the way back: memory that does not grow with their number,
            for less than twice the time. The gradients are equal to rounding; with `net_dtype`,
            to the rounding of that.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config  # has `size`, `channels` and `bits`, whatever else
        self.net_dtype: torch.dtype | None = None
        self.reversible = False

    @property
    @abstractmethod
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of every latent, without the batch dimension."""

    @abstractmethod
    def _encode(
        self, x: Tensor, net_dtype: torch.dtype | None, *, reversible: bool
    ) -> tuple[list[Tensor], Tensor]:
        """Images -> latents and log |d latents / dx| (N,)."""

    @abstractmethod
    def _decode(self, latents: Sequence[Tensor], net_dtype: torch.dtype | None) -> Tensor:
        """Latents -> images."""

    @abstractmethod
    def initialize(self, x: Tensor) -> None:
        """Start from the statistics of a batch of dequantised images in [0, 1]."""

    @property
    def data_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.config.channels, self.config.size, self.config.size

    def transform(
        self, x: Tensor, *, net_dtype: torch.dtype | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Images x (N, C, H, W) -> latents and log |d latents / dx| (N,) in nats."""
        if x.ndim != 4 or x.shape[1:] != self.data_shape:
            raise ValueError(f"images must be (N, *{self.data_shape}), got {tuple(x.shape)}")
        x = x.to(self._dtype)
        reversible = self.reversible and self.training
        exact = x.is_cuda and net_dtype is None and not self.training
        with _ieee_convolutions() if exact else nullcontext():
            latents, log_det = self._encode(x, net_dtype, reversible=reversible)
        return tuple(latents), log_det

    def inverse(
        self, latents: tuple[Tensor, ...], *, net_dtype: torch.dtype | None = None
    ) -> Tensor:
        """Latents -> images (N, C, H, W), not clamped: the inverse of `transform`."""
        shapes = [tuple(z.shape[1:]) for z in latents]
        if shapes != list(self.latent_shapes):
            raise ValueError(f"latents must be (N, ...) with {self.latent_shapes}, got {shapes}")
        latents = tuple(z.to(self._dtype) for z in latents)
        exact = latents[0].is_cuda and net_dtype is None and not self.training
        with _ieee_convolutions() if exact else nullcontext():
            return self._decode(latents, net_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """log p(x) (N,) in nats, of images dequantised to real values in [0, 1]; for training."""
        return self._log_prob(x, self.net_dtype if self.training else None)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) (N,) in nats of images x in [0, 1], coupling nets in full precision.

        A density of real values: dequantise integer data, or see `bits_per_dim`.
        """
        check_range(x)
        return self._log_prob(x, None)

    def _log_prob(self, x: Tensor, net_dtype: torch.dtype | None) -> Tensor:
        latents, log_prob = self.transform(x, net_dtype=net_dtype)
        for z in latents:
            log_prob = log_prob + self._noise_log_prob(z).flatten(1).sum(1)
        return log_prob

    def _noise_log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi))

    def _draw_noise(self, z: Tensor, generator: torch.Generator | None) -> None:
        z.normal_(generator=generator)

    def dequantize(
        self, x: Tensor, *, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """`dequantize` to this model's bits, with `noise` or noise drawn one image at a time."""
        check_range(x)
        if noise is None:
            noise = torch.empty(x.shape, dtype=x.dtype)
            for row in noise:
                row.uniform_(generator=generator)
        return dequantize(x, noise.to(x.device), self.config.bits)

    @torch.no_grad()
    def bits_per_dim(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """-log2 p (N,) a dimension, of 8-bit images in [0, 1] rounded down to `bits` bits.

        An upper bound [1, eq 2]; one number of bits cannot be compared with another.
        """
        nats: Tensor = -self.log_prob(self.dequantize(x, generator=generator))
        bits: int = self.config.bits
        return nats / (math.prod(self.data_shape) * math.log(2)) + bits

    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ...]:
        """Latents of `n` samples, their deviation times `temperature` [1, section 6].

        Drawn on the CPU, one sample after the other: sample i of a seed is the same for every `n`.
        """
        if condition is not None:
            raise ValueError("this flow is unconditional: condition must be None")
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        latents = [torch.empty(n, *shape) for shape in self.latent_shapes]
        for i in range(n):
            for z in latents:
                self._draw_noise(z[i], generator)
                z[i].mul_(temperature)
        device = next(self.parameters()).device
        return tuple(z.to(device, self._dtype) for z in latents)

    @torch.no_grad()
    def decode(
        self, latents: tuple[Tensor, ...], *, net_dtype: torch.dtype | None = None
    ) -> Tensor:
        """Latents -> images (N, C, H, W), clamped to [0, 1]."""
        return self.inverse(latents, net_dtype=net_dtype).clamp(0, 1)

    @torch.no_grad()
    def to_latent(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images x in [0, 1] -> latents; `decode` gives the images back."""
        check_range(x)
        return self.transform(x)[0]

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class Glow(Flow):
    """Levels of actnorm, 1x1 convolution and coupling; one latent a level."""

    config: GlowConfig

    def __init__(self, config: GlowConfig) -> None:
        super().__init__(config)
        self.levels = nn.ModuleList(
            Level(config.channels << (level + 1), config, last=level == config.levels)
            for level in range(1, config.levels + 1)
        )

    @property
    def latent_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(C, H, W) of every latent, from the finest level to the last."""
        channels, size, levels = self.config.channels, self.config.size, self.config.levels
        split = [(channels << level, size >> level, size >> level) for level in range(1, levels)]
        return *split, (channels << (levels + 1), size >> levels, size >> levels)

    def _encode(
        self, x: Tensor, net_dtype: torch.dtype | None, *, reversible: bool
    ) -> tuple[list[Tensor], Tensor]:
        kept = x - 0.5
        log_det, latents = kept.new_zeros(len(x)), []
        for level in self.levels:
            kept, noise, change = level(kept, net_dtype, reversible)
            latents.append(noise)
            log_det = log_det + change
        return latents, log_det

    def _decode(self, latents: Sequence[Tensor], net_dtype: torch.dtype | None) -> Tensor:
        x: Tensor | None = None
        for level, z in zip(reversed(self.levels), reversed(latents), strict=True):
            noise = z.contiguous(memory_format=torch.channels_last)
            x = level.inverse(x, noise, net_dtype)  # type: ignore[operator]
        assert x is not None  # there is at least one level
        return x + 0.5

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set every actnorm from a batch of dequantised images in [0, 1]; the code takes 256.

        Without it training starts from a poor scale. Saved weights carry the result.
        """
        check_range(x)
        kept = x.to(self._dtype) - 0.5
        for level in self.levels:
            kept = level.initialize(kept)  # type: ignore[operator]


def apply_steps(
    steps: Iterable[nn.Module],
    x: Tensor,
    net_dtype: torch.dtype | None,
    *,
    reversible: bool = False,
) -> tuple[Tensor, Tensor]:
    """x (N, ...) -> y and log |dy/dx| (N,), through steps of flow one after the other.

    A step maps (x, net_dtype) to y and its log-determinant and has an `inverse`; one that changes
    in its forward pass has a `replay` too, the same map without the change. With `reversible` the
    backward pass finds the activations by the inverse instead of keeping them.
    """
    if reversible and torch.is_grad_enabled() and (kept := list(steps)):
        learned = [p for step in kept for p in _learned(step)]
        y, log_det = _Reversible.apply(kept, net_dtype, x, *learned)  # type: ignore[no-untyped-call]
        return y, log_det
    log_det = x.new_zeros(len(x))
    for step in steps:
        x, change = step(x, net_dtype)
        log_det = log_det + change
    return x, log_det


def _learned(step: nn.Module) -> list[nn.Parameter]:
    return [p for p in step.parameters() if p.requires_grad]


class _Reversible(torch.autograd.Function):
    # Keeps the output of the last step alone, and walks back from it.

    @staticmethod
    def forward(
        ctx: Any,
        steps: list[Any],
        net_dtype: torch.dtype | None,
        x: Tensor,
        *learned: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y, log_det = apply_steps(steps, x, net_dtype)
        ctx.steps, ctx.net_dtype = steps, net_dtype
        # Parameters and buffers take no memory of their own; kept like this, autograd refuses to
        # go back through steps that have changed since.
        ctx.save_for_backward(y, *learned, *(b for step in steps for b in step.buffers()))
        return y, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple[Any, ...]:
        y = ctx.saved_tensors[0]
        # Room for all gradients at once: made one by one among the activations, they leave holes
        # in the heap that cost as much as the activations of many steps.
        room = {p: torch.empty_like(p) for step in ctx.steps for p in _learned(step)}
        gradients: dict[nn.Parameter, Tensor | None] = dict(room)
        for step in reversed(ctx.steps):
            x = step.inverse(y, ctx.net_dtype).requires_grad_()
            learned = _learned(step)
            with torch.enable_grad():
                outputs = getattr(step, "replay", step)(x, ctx.net_dtype)
            pairs = zip(outputs, (grad_y, grad_log_det), strict=True)
            asked, given = zip(*((out, g) for out, g in pairs if out.requires_grad), strict=True)
            # A step may change a part of x alone, and leave parameters of the others unused.
            grad_y, *found = torch.autograd.grad(asked, [x, *learned], given, allow_unused=True)
            for p, gradient in zip(learned, found, strict=True):
                gradients[p] = None if gradient is None else room[p].copy_(gradient)
            y = x.detach()
        return None, None, grad_y, *gradients.values()


def squeeze(x: Tensor) -> Tensor:
    """(N, C, 2H, 2W) -> (N, 4C, H, W) [2, section 3.6], channels last: faster to convolve."""
    # What pixel_unshuffle does, but for an empty batch, which it returns unchanged.
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(n, h // 2, w // 2, 4 * c).permute(0, 3, 1, 2)


def unsqueeze(x: Tensor) -> Tensor:
    """(N, 4C, H, W) -> (N, C, 2H, 2W), the inverse of `squeeze`."""
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h, w, c // 4, 2, 2)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(n, c // 4, 2 * h, 2 * w)


def _pointwise(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    # A 1x1 convolution; as a matrix product over channels-last memory it is faster.
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # (N H W, C)
    rows = torch.addmm(bias.to(x.dtype), rows, matrix.to(x.dtype).T)
    return rows.view(len(x), *x.shape[2:], len(matrix)).permute(0, 3, 1, 2)


@contextmanager
def _ieee_convolutions() -> Iterator[None]:
    # By default cuDNN rounds what it convolves to the 10 bits of TF32. What differs in the last
    # bit of float32 between a pass and its inverse may then round to either side.
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made at import
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    # The shift and logs for which (x + shift) * exp(3 logs) has mean 0 and deviation 1.
    std, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0)
    return -mean, -std.clamp(min=MIN_STD).log() / LOGSCALE_FACTOR


def check_range(x: Tensor) -> None:
    """Refuse images that are not in [0, 1]."""
    # A NaN fails the comparison too.
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"images must be in [0, 1], got [{x.min():.4g}, {x.max():.4g}]")


def check_sizes(config: Any, *names: str) -> None:
    """Refuse a config with a size below 1, or with more than the 8 bits of an image file."""
    for name in names:
        if (value := getattr(config, name)) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if config.bits > 8:
        raise ValueError(f"bits must be at most 8, got {config.bits}")


def check_choices(config: Any, choices: Mapping[str, Sequence[str]]) -> None:
    """Refuse a config with a value that is none of its choices."""
    for name, valid in choices.items():
        if (value := getattr(config, name)) not in valid:
            raise ValueError(f"{name} must be one of {', '.join(valid)}, got {value!r}")
