"""What priors around class centres share: the centre of a label, and drawing from them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["centre_of", "draw_around"]


def centre_of(labels: Tensor, centres: Tensor) -> Tensor:
    """The rows (n, d) of `centres` (classes, d) of labels (n,).

    Raises:
        ValueError: Labels are no whole numbers, not (n,), or not in 0..classes - 1.
    """
    if labels.ndim != 1 or labels.dtype not in (torch.int64, torch.int32, torch.uint8):
        shape = tuple(labels.shape)
        raise ValueError(f"labels must be whole numbers (n,), not {labels.dtype} {shape}")
    last = len(centres) - 1
    if len(labels) and not (labels.min() >= 0 and labels.max() <= last):
        raise ValueError(
            f"labels must be in 0..{last}, got {int(labels.min())}..{int(labels.max())}"
        )
    return centres[labels.long().to(centres.device)]


def draw_around(
    centres: Tensor,
    n: int,
    *,
    temperature: float,
    labels: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Draws (n, d) of N(centre, temperature^2) around the centres of labels (n,), or of any.

    On the CPU, one after the other, the label before its noise where it is drawn: sample i is the
    same however many are drawn, and in whatever batches.

    Raises:
        ValueError: The temperature is negative, or the labels are not n of them.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if labels is not None and tuple(labels.shape) != (n,):
        raise ValueError(f"labels must be ({n},), not {tuple(labels.shape)}")
    noise = torch.empty(n, centres.shape[1])
    drawn = torch.empty(n, dtype=torch.int64)
    for i in range(n):
        if labels is None:
            drawn[i : i + 1].random_(len(centres), generator=generator)
        noise[i].normal_(generator=generator)
    centre = centre_of(drawn if labels is None else labels, centres)
    return centre + temperature * noise.to(centres.device, centres.dtype)
