"""An image autoencoder with discrete codes in its middle.

A small convolutional net without normalisation, so that a sample never depends on its batch; each
level halves the side. By itself it does not generate: that takes a prior over its codes
(:mod:`kexue_vqlinear.prior`).

References:
    [1] van den Oord et al., Neural Discrete Representation Learning, 2017. arXiv 1711.00937
    [2] Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
        Convolutional Neural Network, 2016: how the decoder doubles the side. arXiv 1609.05158
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_vqlinear.fsq import FSQ
from kexue_vqlinear.quantizer import Diagnostics, Estimator, Quantizer
from kexue_vqlinear.simvq import SimVQ
from kexue_vqlinear.vq import EMAVQ, VQ, CosineVQ

__all__ = [
    "QUANTIZERS",
    "AutoencoderOutput",
    "VQAutoencoder",
    "VQAutoencoderConfig",
    "make_quantizer",
]

#: Name of a quantiser -> what makes it.
QUANTIZERS: dict[str, Callable[..., Quantizer]] = {
    "vq": VQ,
    "vq-ema": EMAVQ,
    "simvq": SimVQ,
    "simvq-both": partial(SimVQ, frozen=False),
    "simvq-diagonal": partial(SimVQ, frozen=False, transform="diagonal"),
    "vq-cosine": CosineVQ,
    "fsq": FSQ,
}


def make_quantizer(name: str, dim: int, num_embeddings: int, **options: Any) -> Quantizer:
    """A quantiser by its name; the options are those of its class.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in QUANTIZERS:
        raise ValueError(f"quantizer must be one of {', '.join(QUANTIZERS)}, got {name!r}")
    return QUANTIZERS[name](dim, num_embeddings, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class VQAutoencoderConfig:
    """What a `VQAutoencoder` is built from.

    Attributes:
        size: Side of the images in pixels; a multiple of two to the number of levels.
        channels: 3 for RGB, 1 for grey.
        quantizer: A key of `QUANTIZERS`.
        num_embeddings: K, number of codes.
        dim: Channels of what is quantised.
        hidden: Width of each level, from the image down; each halves the side.
        blocks: Residual blocks at the lowest level of encoder and decoder.
        estimator: Gradient of the quantiser, "ste" or "rotation".
        temperature: Of codes drawn while training; 0 for the nearest.
        commitment: Weight of the commitment term.
    """

    size: int = 64
    channels: int = 3
    quantizer: str = "simvq"
    num_embeddings: int = 1024
    dim: int = 128
    hidden: tuple[int, ...] = (48, 96, 128)
    blocks: int = 2
    estimator: Estimator = "ste"
    temperature: float = 0.0
    commitment: float = 0.25

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1 or self.blocks < 0:
            raise ValueError("hidden must hold positive widths, blocks be >= 0")
        if self.size < 1 or self.size % 2 ** len(self.hidden):
            raise ValueError(f"size must be a multiple of {2 ** len(self.hidden)}, got {self.size}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")


class AutoencoderOutput(NamedTuple):
    """What `VQAutoencoder.forward` returns.

    Attributes:
        loss: The quantiser's, a scalar to add to that of the reconstruction.
        reconstruction: In the shape of the input, around [0, 1] and not clamped, with gradients.
        codes: (n, side, side), int64.
        diagnostics: Of this batch.
    """

    loss: Tensor
    reconstruction: Tensor
    codes: Tensor
    diagnostics: Diagnostics


class VQAutoencoder(nn.Module):
    """Encoder, quantiser, decoder."""

    def __init__(self, config: VQAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        low = config.hidden[-1]
        self.encoder = nn.Sequential(
            *_down(config.channels, config.hidden),
            *(_Block(low) for _ in range(config.blocks)),
            nn.Conv2d(low, config.dim, 1),
        )
        options: dict[str, Any] = {"commitment": config.commitment, "channel_first": True}
        self.quantizer = make_quantizer(
            config.quantizer,
            config.dim,
            config.num_embeddings,
            estimator=config.estimator,
            temperature=config.temperature,
            **options,
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.dim, low, 3, padding=1),
            *(_Block(low) for _ in range(config.blocks)),
            *_up(config.hidden, config.channels),
        )

    @property
    def data_shape(self) -> tuple[int, int, int]:
        """(channels, size, size)."""
        return self.config.channels, self.config.size, self.config.size

    @property
    def code_shape(self) -> tuple[int, int]:
        """(side, side) of the grid of codes."""
        side = self.config.size // 2 ** len(self.config.hidden)
        return side, side

    def forward(self, x: Tensor) -> AutoencoderOutput:
        """Encode, quantise and decode images (n, *data_shape) in [0, 1].

        Raises:
            ValueError: The images have another shape, or values outside of [0, 1].
        """
        quantized, codes, loss, diagnostics = self.quantizer(self._encode(x))
        return AutoencoderOutput(loss, self._decode(quantized), codes, diagnostics)

    @torch.no_grad()
    def to_codes(self, x: Tensor) -> Tensor:
        """Codes (n, side, side) of images (n, *data_shape) in [0, 1]; errors as `forward`."""
        return self.quantizer.to_codes(self._encode(x))

    @torch.no_grad()
    def from_codes(self, codes: Tensor) -> Tensor:
        """Images (n, *data_shape) in [0, 1] of codes (n, side, side).

        Raises:
            ValueError: The codes have another shape, or are not 0 to K - 1.
        """
        if codes.ndim != 3 or tuple(codes.shape[1:]) != self.code_shape:
            raise ValueError(
                f"codes must be (n, {self.code_shape[0]}, {self.code_shape[1]}), "
                f"got {tuple(codes.shape)}"
            )
        return self._decode(self.quantizer.from_codes(codes)).clamp(0, 1)

    def _encode(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.data_shape:
            raise ValueError(
                f"images must be (n, {', '.join(map(str, self.data_shape))}), got {tuple(x.shape)}"
            )
        if x.numel() and not 0 <= float(x.min()) <= float(x.max()) <= 1:  # NaN compares as false
            raise ValueError("images must be in [0, 1]: divide bytes by 255")
        encoded: Tensor = self.encoder(2 * x - 1)
        return encoded

    def _decode(self, quantized: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(quantized)
        return (decoded + 1) / 2


class _Block(nn.Module):
    """x + conv(silu(conv(silu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.silu(self.first(F.silu(x))))
        return out


def _down(channels: int, hidden: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise((channels, *hidden)):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
    return layers


def _up(hidden: tuple[int, ...], channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    widths = (*hidden[::-1], channels)
    for before, after in pairwise(widths):
        layers += [
            nn.SiLU(),
            nn.Conv2d(before, 4 * after, 3, padding=1),
            nn.PixelShuffle(2),
        ]
    return layers
