"""Encoder and decoder networks: multilayer perceptrons and small convolutional nets."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["NETS", "dense", "make_decoder", "make_encoder"]

NETS = ("mlp", "conv")

# A 4x4 kernel of stride 2 covers every position equally often; 3x3 leaves a checkerboard.
KERNEL, STRIDE, PADDING = 4, 2, 1


def make_encoder(
    net: str, shape: tuple[int, int, int], widths: Sequence[int], outputs: int
) -> nn.Module:
    """Images (n, C, H, W) in [0, 1] -> (n, outputs).

    Args:
        net: "mlp" with hidden layers of `widths` (none: a linear map), or "conv", which halves the
            sides `len(widths)` times, to so many channels.
        shape: (C, H, W).
        widths: See `net`.
        outputs: Numbers an image.
    """
    channels, size, _ = shape
    if net == "mlp":
        return nn.Sequential(nn.Flatten(), *dense([channels * size * size, *widths, outputs]))
    layers: list[nn.Module] = [Centre()]
    for inputs, width in itertools.pairwise([channels, *widths]):
        layers += [nn.Conv2d(inputs, width, KERNEL, STRIDE, PADDING), nn.SiLU()]
    side = size >> len(widths)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, outputs))


def make_decoder(
    net: str, shape: tuple[int, int, int], widths: Sequence[int], inputs: int
) -> nn.Module:
    """(n, inputs) -> (n, C, H, W); the mirror image of the encoder.

    Args:
        net: "mlp" or "conv".
        shape: (C, H, W).
        widths: As the encoder's; used in reverse.
        inputs: Numbers a latent.
    """
    channels, size, _ = shape
    back = [*reversed(widths)]
    if net == "mlp":
        layers = dense([inputs, *back, channels * size * size])
        return nn.Sequential(*layers, nn.Unflatten(1, shape))
    side = size >> len(widths)
    start = (back[0], side, side)
    layers = [nn.Linear(inputs, back[0] * side * side), nn.SiLU(), nn.Unflatten(1, start)]
    for narrow, wide in itertools.pairwise(back):
        layers += [nn.ConvTranspose2d(narrow, wide, KERNEL, STRIDE, PADDING), nn.SiLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(back[-1], channels, KERNEL, STRIDE, PADDING))


def dense(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers between `sizes` numbers, with GELU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.GELU()]
    return layers[:-1]


class Centre(nn.Module):
    """[0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Twice x, less 1."""
        return torch.sub(2 * x, 1)
