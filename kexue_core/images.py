"""Grids of images, for previews and for the commands that draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["grid"]

#: Small images are enlarged by a whole factor until a tile is about this many pixels wide.
TILE = 96


def grid(
    images: Tensor, columns: int | None = None, *, padding: int = 2, upscale: int | None = None
) -> Image:
    """Lay images out row by row on a dark ground.

    Args:
        images: (n, 1 or 3, height, width) in [0, 1]; values outside are clipped.
        columns: Images a row; ``None`` makes the grid about square.
        padding: Pixels round each image, after enlarging.
        upscale: Whole factor by which pixels are repeated (never blurred); ``None`` enlarges small
            images to tiles of about 96 pixels.

    Raises:
        ValueError: ``images`` has another shape, or none in it.
    """
    import torch
    from PIL import Image as Pillow

    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            f"images must have the shape (n, 1 or 3, height, width), not {tuple(images.shape)}"
        )
    n, _, height, width = images.shape
    columns = min(n, columns or int(n**0.5 + 0.999))
    rows = -(-n // columns)
    factor = upscale or max(1, TILE // width)
    pixels = (images.detach().cpu().float().nan_to_num(0).clamp(0, 1) * 255).round().byte()
    pixels = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)  # (n, height, width, 3)
    pixels = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    high, wide = height * factor + padding, width * factor + padding
    canvas = torch.full((rows * high + padding, columns * wide + padding, 3), 24).byte()
    for k in range(n):
        top, left = k // columns * high + padding, k % columns * wide + padding
        canvas[top : top + height * factor, left : left + width * factor] = pixels[k]
    return Pillow.fromarray(canvas.numpy())
