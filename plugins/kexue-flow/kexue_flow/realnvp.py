"""RealNVP: a normalizing flow of affine couplings. Needs torch and glow.py alone.

References:
    [1] Dinh, Sohl-Dickstein & Bengio, Density estimation using Real NVP, 2016.
        https://arxiv.org/abs/1605.08803 and its code,
        https://github.com/tensorflow/models/tree/master/research/real_nvp ("the code" below)
    [2] Su Jianlin, https://kexue.fm/archives/5807

Example:
    >>> realnvp = RealNVP(RealNVPConfig(size=8, levels=2, hidden=8))
    >>> images = realnvp.decode(realnvp.prior(4, temperature=0.7))  # (4, 3, 8, 8) in [0, 1]
    >>> bits = realnvp.bits_per_dim(images)  # (4,)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Relative, so that the two files run in whatever folder they are copied to.
from .glow import (
    Conv,
    Flow,
    Prior,
    apply_steps,
    check_choices,
    check_range,
    check_sizes,
    squeeze,
    unsqueeze,
)

__all__ = ["FLOAT32_KEYS", "RealNVP", "RealNVPConfig"]

# State-dict patterns (fnmatch) that stay float32 when weights are published in float16.
FLOAT32_KEYS = ("*.mean", "*.variance", "*.prior.*", "*.bias", "*.logs", "*.scale")

# Added to the variance that batch normalisation divides by.
EPSILON = 1e-5

CHOICES = {"split_prior": ("standard", "learned"), "top_prior": ("standard", "learned")}


@dataclass(frozen=True, slots=True, kw_only=True)
class RealNVPConfig:
    """Shape of a RealNVP; the defaults are the paper's couplings, with smaller nets.

    Args:
        size: side of the square image in pixels, a multiple of ``2**(levels - 1)``.
        levels: scales of [1, section 3.6]; each but the last ends in a squeeze and a split.
        couplings: couplings of a kind in a scale: as many with a checkerboard, then as many with
            halves of the channels. The last scale has one more with a checkerboard, and no other.
        checkerboard: whether there are checkerboards. Without, halves of the channels stand in
            for them, as [2] recommends.
        hidden: width of the coupling nets of the first scale; every squeeze doubles it.
        blocks: residual blocks of a coupling net.
        bits: bits a channel that `bits_per_dim` and `dequantize` quantise to.
        alpha: how far from 0 and 1 the logit is taken [1, section 4.1].
        batch_norm: normalise the output of every coupling [1, section 3.7].
        momentum: weight of a batch in the running statistics of that.
        split_prior: prior of what a scale splits off, "standard" [1] or, as explained in [2],
            "learned" from what it keeps.
        top_prior: prior of the last scale, "learned" a mean and deviation for every channel.
    """

    size: int = 32
    channels: int = 3
    levels: int = 3
    couplings: int = 3
    checkerboard: bool = True
    hidden: int = 32
    blocks: int = 2
    bits: int = 8
    alpha: float = 0.05
    batch_norm: bool = True
    momentum: float = 0.1
    split_prior: str = "standard"
    top_prior: str = "standard"

    def __post_init__(self) -> None:
        check_sizes(self, "size", "channels", "levels", "couplings", "hidden", "bits")
        check_choices(self, CHOICES)
        if self.blocks < 0:
            raise ValueError(f"blocks must be at least 0, got {self.blocks}")
        halvings = self.levels - 1
        # 2**halvings of a broken config may be too long a number to compute.
        if halvings > self.size.bit_length() or self.size % 2**halvings:
            raise ValueError(
                f"size {self.size} is not a multiple of 2**(levels - 1) with {self.levels} levels; "
                "use fewer levels or pad the images"
            )
        if self.checkerboard and self.size == 2**halvings:
            raise ValueError(
                f"the last scale is a single pixel, which is no checkerboard: use fewer levels "
                f"than {self.levels}, or checkerboard=False"
            )
        if not self.checkerboard and self.channels << (self.levels - 1) < 2:
            raise ValueError(
                "one channel has no halves: without checkerboard use more levels or channels"
            )
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha must be in (0, 0.5), got {self.alpha}")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum must be in (0, 1], got {self.momentum}")


class ResidualBlock(nn.Module):
    """x plus two convolutions of it, the second zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # He's deviation: it keeps the variance through a rectifier.
        std = math.sqrt(2 / (9 * width))
        self.first = Conv(width, width, 3, std=std, scaled=False, edges=False)
        self.second = Conv(width, width, 3, std=0.0, scaled=False, edges=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same."""
        return x + self.second(self.first(x.relu()).relu_())  # type: ignore[no-any-return]


class ResidualNet(nn.Module):
    """Residual convolutional network [1, section 4.1], the last convolution zero at the start.

    A gain on that convolution stands in for the paper's weight normalisation.
    """

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        std = math.sqrt(1 / (9 * inputs))
        self.first = Conv(inputs, width, 3, std=std, scaled=False, edges=False)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.last = Conv(width, outputs, 3, std=0.0, scaled=True, edges=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W), in the number type of `x`."""
        return self.last(self.blocks(self.first(x)).relu())  # type: ignore[no-any-return]


class Coupling(nn.Module):
    """Scale and shift one part by what the other says [1, eq 9]: y = x exp(s) + t.

    The parts are the squares of a checkerboard, or halves of the channels. `swap` says which of
    the two is changed; s and t are zero in the other.
    """

    def __init__(
        self, channels: int, width: int, config: RealNVPConfig, *, checkerboard: bool, swap: bool
    ) -> None:
        super().__init__()
        self.checkerboard, self.swap = checkerboard, swap
        halves = (channels // 2, channels - channels // 2)
        self.kept, changed = (channels, channels) if checkerboard else halves[:: -1 if swap else 1]
        self.net = ResidualNet(self.kept, 2 * changed, width, config.blocks)
        # s is this times a hyperbolic tangent, so that no outlier of the net reaches the exp.
        self.scale = nn.Parameter(torch.ones(changed))

    def forward(self, x: Tensor, net_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W) -> y (N, C, H, W) and log |dy/dx| (N,)."""
        shift, log_scale = self._shift_and_log_scale(x, net_dtype)
        return x * log_scale.exp() + shift, log_scale.sum((1, 2, 3))  # [1, eq 6]

    def inverse(self, y: Tensor, net_dtype: torch.dtype | None = None) -> Tensor:
        """y -> x. The part that the net sees is the same in both."""
        shift, log_scale = self._shift_and_log_scale(y, net_dtype)
        return (y - shift) * (-log_scale).exp()

    def initialize(self, x: Tensor) -> Tensor:
        """Nothing is set; returns y."""
        return self(x)[0]  # type: ignore[no-any-return]

    def _shift_and_log_scale(
        self, x: Tensor, net_dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor]:
        # Both (N, C, H, W).
        if self.checkerboard:
            changed = _checkerboard(x, self.swap)
            shift, log_scale = self._net(x * (1 - changed), net_dtype)
            return shift * changed, log_scale * changed
        rest = x.shape[1] - self.kept
        seen = x[:, rest:] if self.swap else x[:, : self.kept]
        zeros = (0, 0, 0, 0, 0, self.kept) if self.swap else (0, 0, 0, 0, self.kept, 0)
        shift, log_scale = (F.pad(part, zeros) for part in self._net(seen, net_dtype))
        return shift, log_scale

    def _net(self, seen: Tensor, net_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        out = self.net(seen.to(net_dtype or seen.dtype)).to(seen.dtype)
        shift, logits = out.chunk(2, dim=1)
        return shift, self.scale[:, None, None] * torch.tanh(logits)


class BatchNorm(nn.Module):
    """Normalise every channel by running statistics that include the batch [1, appendix E].

    With these as constants of the map, training and evaluation have the same Jacobian, and what
    was trained on is what is inverted; gradients flow through the share of the batch in them.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor, net_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W) -> y (N, C, H, W) and log |dy/dx| (N,)."""
        if self.training and len(x):
            variance, mean = torch.var_mean(x.detach(), dim=(0, 2, 3), correction=0)
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(variance, self.momentum)
        return self.replay(x)

    def replay(self, x: Tensor, net_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """`forward` once more: without counting the batch again."""
        mean, variance = self.mean, self.variance
        if self.training and len(x) and torch.is_grad_enabled():
            # The value of the running statistics with the gradient of the batch's share.
            var, mu = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            mean = mean + self.momentum * (mu - mu.detach())
            variance = variance + self.momentum * (var - var.detach())
        logs = 0.5 * (variance + EPSILON).log()
        y = (x - mean[:, None, None]) * (-logs).exp()[:, None, None]
        return y, (-logs.sum() * (x.shape[2] * x.shape[3])).expand(len(x))

    def inverse(self, y: Tensor, net_dtype: torch.dtype | None = None) -> Tensor:
        """y -> x."""
        deviation = (self.variance + EPSILON).sqrt()
        return y * deviation[:, None, None] + self.mean[:, None, None]

    def initialize(self, x: Tensor) -> Tensor:
        """Take the statistics of the batch `x`; returns y."""
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        return (x - mean[:, None, None]) * (variance + EPSILON).rsqrt()[:, None, None]


class Scale(nn.Module):
    """Couplings with checkerboards, squeeze, couplings with channels, split [1, section 3.6]."""

    def __init__(self, channels: int, width: int, config: RealNVPConfig, *, last: bool) -> None:
        super().__init__()
        self.last = last
        n = config.couplings
        if last:
            fine, coarse = n + 1, 0
        else:
            fine, coarse = (n, n) if config.checkerboard else (0, 2 * n)
        self.fine = _steps(channels, width, config, fine, checkerboard=config.checkerboard)
        self.coarse = _steps(4 * channels, 2 * width, config, coarse, checkerboard=False)
        self.prior = (
            Prior(channels, config.top_prior, split=False)
            if last
            else Prior(2 * channels, config.split_prior, split=True, edges=False)
        )

    def forward(
        self, x: Tensor, net_dtype: torch.dtype | None, reversible: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """x (N, C, 2H, 2W) -> kept, noise (both (N, 2C, H, W)) and log-det (N,).

        The last scale keeps nothing, and its noise has the shape of x.
        """
        x, log_det = apply_steps(self.fine, x, net_dtype, reversible=reversible)
        kept = None
        if not self.last:
            x, change = apply_steps(self.coarse, squeeze(x), net_dtype, reversible=reversible)
            kept, x = x.chunk(2, dim=1)
            log_det = log_det + change
        noise, change = self.prior(x, kept)
        return kept, noise, log_det + change

    def inverse(self, kept: Tensor | None, noise: Tensor, net_dtype: torch.dtype | None) -> Tensor:
        """kept and noise -> x."""
        x: Tensor = self.prior.inverse(noise, kept)
        if kept is not None:
            x = torch.cat([kept, x], dim=1)
            for step in reversed(self.coarse):
                x = step.inverse(x, net_dtype)  # type: ignore[operator]
            x = unsqueeze(x)
        for step in reversed(self.fine):
            x = step.inverse(x, net_dtype)  # type: ignore[operator]
        return x

    def initialize(self, x: Tensor) -> Tensor:
        """Set the running statistics from the batch `x`; returns kept."""
        for step in self.fine:
            x = step.initialize(x)  # type: ignore[operator]
        if self.last:
            return x
        x = squeeze(x)
        for step in self.coarse:
            x = step.initialize(x)  # type: ignore[operator]
        return x.chunk(2, dim=1)[0]


class RealNVP(Flow):
    """The logit of an image, then scales of couplings; one latent a scale."""

    config: RealNVPConfig

    def __init__(self, config: RealNVPConfig) -> None:
        super().__init__(config)
        self.scales = nn.ModuleList(
            Scale(
                config.channels << level,
                config.hidden << level,
                config,
                last=level == config.levels - 1,
            )
            for level in range(config.levels)
        )

    @property
    def latent_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(C, H, W) of every latent, from the finest scale to the last."""
        channels, size, last = self.config.channels, self.config.size, self.config.levels - 1
        split = [(channels << level, size >> level, size >> level) for level in range(1, last + 1)]
        return *split, (channels << last, size >> last, size >> last)

    def _encode(
        self, x: Tensor, net_dtype: torch.dtype | None, *, reversible: bool
    ) -> tuple[list[Tensor], Tensor]:
        kept, log_det = self._logit(x)
        latents = []
        for scale in self.scales:
            kept, noise, change = scale(kept, net_dtype, reversible)
            latents.append(noise)
            log_det = log_det + change
        return latents, log_det

    def _decode(self, latents: Sequence[Tensor], net_dtype: torch.dtype | None) -> Tensor:
        x: Tensor | None = None
        for scale, z in zip(reversed(self.scales), reversed(latents), strict=True):
            noise = z.contiguous(memory_format=torch.channels_last)
            x = scale.inverse(x, noise, net_dtype)  # type: ignore[operator]
        assert x is not None  # there is at least one scale
        alpha = self.config.alpha
        return (x.sigmoid() - alpha) / (1 - 2 * alpha)

    def _logit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The code's: symmetric, where the formula of the paper sends a white pixel to infinity.
        alpha = self.config.alpha
        y = torch.logit(alpha + (1 - 2 * alpha) * x)
        log_det = F.softplus(y) + F.softplus(-y) + math.log(1 - 2 * alpha)
        return y.contiguous(memory_format=torch.channels_last), log_det.sum((1, 2, 3))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the running statistics from a batch of dequantised images in [0, 1]."""
        check_range(x)
        kept, _ = self._logit(x.to(self._dtype))
        for scale in self.scales:
            kept = scale.initialize(kept)  # type: ignore[operator]


def _steps(
    channels: int, width: int, config: RealNVPConfig, n: int, *, checkerboard: bool
) -> nn.ModuleList:
    # Couplings that change one part and the other in turn, each followed by its normalisation.
    steps = nn.ModuleList()
    for number in range(n):
        swap = number % 2 == 1
        steps.append(Coupling(channels, width, config, checkerboard=checkerboard, swap=swap))
        if config.batch_norm:
            steps.append(BatchNorm(channels, config.momentum))
    return steps


def _checkerboard(x: Tensor, swap: bool) -> Tensor:
    # (H, W), 1 on the squares of one colour.
    rows = torch.arange(x.shape[2], device=x.device)[:, None]
    columns = torch.arange(x.shape[3], device=x.device)
    return ((rows + columns + swap) % 2).to(x.dtype)
