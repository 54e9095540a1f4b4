"""The residual generator and discriminator of SN-GAN, for square images of any size.

As in [1, tables 4 and 5]: the generator doubles the size block by block, with batch norm; the
discriminator halves it in all blocks but the last two, without any normalisation but the spectral
one that the recipe puts on, and sums what is left over the image. ``levels`` blocks of the
generator: three at 32x32 as in the paper, four at 64x64.

A residual block x + f(x) is bounded by 1 + L_f, so spectral normalisation bounds this network too,
though not by 1 [2].

This file needs nothing but torch and :mod:`kexue_sngan.cnn`, whose prior it shares.

References:
    [1] Miyato et al., Spectral Normalization for GANs, 2018. https://arxiv.org/abs/1802.05957
    [2] Su Jianlin, https://kexue.fm/archives/6051
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_sngan.cnn import draw_latents

__all__ = ["ResNetDiscriminator", "ResNetGenerator", "SNGANResNetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SNGANResNetConfig:
    """A generator, and the discriminator it was trained against.

    Attributes:
        size: Side of the images in pixels, a multiple of 2^levels.
        channels: 3 for RGB, 1 for grey.
        latent: Dimensions of the latent z ~ N(0, I).
        width: Channels of the generator.
        critic_width: Channels of the discriminator.
        levels: Blocks of the generator; the discriminator has one more.
    """

    size: int = 32
    channels: int = 3
    latent: int = 128
    width: int = 256
    critic_width: int = 128
    levels: int = 3

    def __post_init__(self) -> None:
        if min(self.size, self.channels, self.latent, self.width, self.critic_width) < 1:
            raise ValueError("size, channels, latent and widths must be at least 1")
        # 2**levels of a broken config may be too long a number to compute.
        if not 1 <= self.levels <= self.size.bit_length() or self.size % 2**self.levels:
            raise ValueError(f"size {self.size} is no multiple of 2^levels, levels {self.levels}")


class ResNetGenerator(nn.Module):
    """Latents (n, latent) to images (n, channels, size, size).

    As a module it maps to [-1, 1], which it is trained in; :meth:`decode` gives [0, 1].
    """

    def __init__(self, config: SNGANResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.start = config.size // 2**config.levels
        self.project = nn.Linear(config.latent, config.width * self.start**2)
        self.body = nn.Sequential(
            *[UpBlock(config.width) for _ in range(config.levels)],
            nn.BatchNorm2d(config.width),
            nn.ReLU(),
            nn.Conv2d(config.width, config.channels, 3, padding=1),
        )
        _initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        """Images in [-1, 1], (n, channels, size, size), of latents (n, latent)."""
        x = self.project(z).unflatten(1, (-1, self.start, self.start))
        return torch.tanh(self.body(x.contiguous(memory_format=torch.channels_last)))

    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Latents (n, latent) from N(0, temperature^2 I)."""
        weight = self.project.weight
        return draw_latents(n, self.config.latent, temperature, condition, generator).to(weight)

    def decode(self, latent: Tensor) -> Tensor:
        """Images in [0, 1], (n, channels, size, size), of latents (n, latent)."""
        image: Tensor = self(latent)
        return image.add(1).div(2).contiguous()


class ResNetDiscriminator(nn.Module):
    """Images in [-1, 1], (n, channels, size, size), to scores (n,): high where they look real."""

    def __init__(self, config: SNGANResNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.critic_width
        self.body = nn.Sequential(
            FirstBlock(config.channels, width),
            *[DownBlock(width, halve=True) for _ in range(config.levels - 2)],
            *[DownBlock(width, halve=False) for _ in range(2)],
            nn.ReLU(),
        )
        self.score = nn.Linear(width, 1)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n,), real numbers."""
        h = self.body(x.contiguous(memory_format=torch.channels_last))
        score: Tensor = self.score(h.sum((2, 3)))
        return score.squeeze(1)


class UpBlock(nn.Module):
    """BN, ReLU, double, 3x3, BN, ReLU, 3x3; beside it double, 1x1 [1, figure 8]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) to (n, width, 2 h, 2 w)."""
        h: Tensor = F.interpolate(F.relu(self.norm1(x)), scale_factor=2.0)
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        # A 1x1 convolution of repeated pixels is the repeated 1x1 convolution, at a quarter of it.
        return h + F.interpolate(self.shortcut(x), scale_factor=2.0)


class DownBlock(nn.Module):
    """ReLU, 3x3, ReLU, 3x3, then halve by means; beside it 1x1 and halve, or nothing."""

    def __init__(self, width: int, *, halve: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width, width, 1) if halve else nn.Identity()
        self.halve = nn.AvgPool2d(2) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) to (n, width, h / 2, w / 2), or the same size."""
        h: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        # Halving commutes with a 1x1 convolution, which costs a quarter behind it.
        halved: Tensor = self.halve(h) + self.shortcut(self.halve(x))
        return halved


class FirstBlock(nn.Module):
    """The first block of the discriminator: no activation before its first convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, width, 1)
        self.halve = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, width, h / 2, w / 2)."""
        h: Tensor = self.conv2(F.relu(self.conv1(x)))
        halved: Tensor = self.halve(h) + self.shortcut(self.halve(x))
        return halved


def _initialize(module: nn.Module) -> None:
    """Xavier with a gain of sqrt(2) in residual branches, 1 elsewhere; no bias."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            residual = name.endswith(("conv1", "conv2"))
            nn.init.xavier_uniform_(layer.weight, math.sqrt(2) if residual else 1.0)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
