"""The convolutional generator and discriminator of SN-GAN, for square images of any size.

The discriminator is [1, table 3]: pairs of a 3x3 convolution and a 4x4 one of stride 2, LeakyReLU
of slope 0.1, no normalisation but the spectral one, which the recipe puts on
(``spectral_norm(discriminator)``). The generator mirrors it with transposed convolutions, batch
norm and ReLU. ``levels`` of them halve or double the size: three at 32x32 as in the paper, two at
28x28, four at 64x64.

This file needs nothing but torch: copy it out and it runs.

References:
    [1] Miyato et al., Spectral Normalization for GANs, 2018. https://arxiv.org/abs/1802.05957
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["CNNDiscriminator", "CNNGenerator", "SNGANCNNConfig", "draw_latents"]

#: Negative slope of the discriminator's activations [1, table 3].
SLOPE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SNGANCNNConfig:
    """A generator, and the discriminator it was trained against.

    Attributes:
        size: Side of the images in pixels, a multiple of 2^levels.
        channels: 3 for RGB, 1 for grey.
        latent: Dimensions of the latent z ~ N(0, I).
        width: Channels of the generator at full size; twice as many at each level below.
        critic_width: The same of the discriminator.
        levels: How often the size is halved.
    """

    size: int = 32
    channels: int = 3
    latent: int = 128
    width: int = 64
    critic_width: int = 64
    levels: int = 3

    def __post_init__(self) -> None:
        if min(self.size, self.channels, self.latent, self.width, self.critic_width) < 1:
            raise ValueError("size, channels, latent and widths must be at least 1")
        # 2**levels of a broken config may be too long a number to compute.
        if not 1 <= self.levels <= self.size.bit_length() or self.size % 2**self.levels:
            raise ValueError(f"size {self.size} is no multiple of 2^levels, levels {self.levels}")


class CNNGenerator(nn.Module):
    """Latents (n, latent) to images (n, channels, size, size).

    As a module it maps to [-1, 1], which it is trained in; :meth:`decode` gives [0, 1].
    """

    def __init__(self, config: SNGANCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.start = config.size // 2**config.levels
        wide = config.width * 2**config.levels
        self.project = nn.Linear(config.latent, wide * self.start**2)
        layers: list[nn.Module] = [nn.BatchNorm2d(wide), nn.ReLU()]
        for level in reversed(range(config.levels)):
            narrow = config.width * 2**level
            layers += [
                nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(narrow),
                nn.ReLU(),
            ]
            wide = narrow
        self.body = nn.Sequential(*layers, nn.Conv2d(wide, config.channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Images in [-1, 1], (n, channels, size, size), of latents (n, latent)."""
        x = self.project(z).unflatten(1, (-1, self.start, self.start))
        # The kernels of CPUs and tensor cores want the channels last; values are the same.
        return torch.tanh(self.body(x.contiguous(memory_format=torch.channels_last)))

    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Latents (n, latent) from N(0, temperature^2 I); see :func:`draw_latents`."""
        weight = self.project.weight
        return draw_latents(n, self.config.latent, temperature, condition, generator).to(weight)

    def decode(self, latent: Tensor) -> Tensor:
        """Images in [0, 1], (n, channels, size, size), of latents (n, latent)."""
        image: Tensor = self(latent)
        return image.add(1).div(2).contiguous()


class CNNDiscriminator(nn.Module):
    """Images in [-1, 1], (n, channels, size, size), to scores (n,): high where they look real."""

    def __init__(self, config: SNGANCNNConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = config.channels
        for level in range(config.levels):
            wide = config.critic_width * 2**level
            layers += [
                nn.Conv2d(before, wide, 3, padding=1),
                nn.LeakyReLU(SLOPE),
                nn.Conv2d(wide, wide, 4, stride=2, padding=1),
                nn.LeakyReLU(SLOPE),
            ]
            before = wide
        last = config.critic_width * 2**config.levels
        self.body = nn.Sequential(
            *layers, nn.Conv2d(before, last, 3, padding=1), nn.LeakyReLU(SLOPE), nn.Flatten()
        )
        self.score = nn.Linear(last * (config.size // 2**config.levels) ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n,), real numbers."""
        score: Tensor = self.score(self.body(x.contiguous(memory_format=torch.channels_last)))
        return score.squeeze(1)


def draw_latents(
    n: int,
    latent: int,
    temperature: float = 1.0,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``n`` latents (n, latent) from N(0, temperature^2 I), drawn one after the other on the CPU.

    A temperature below 1 pulls all latents to the centre: less variety, fewer failures.
    """
    if condition is not None:
        raise ValueError("this generator takes no condition")
    drawn = [torch.randn(latent, generator=generator) for _ in range(n)]
    return temperature * torch.stack(drawn) if n else torch.empty(0, latent)
