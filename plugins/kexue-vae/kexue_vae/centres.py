"""What priors around class centres share: a centre a label, and drawing from them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["centre_of", "draw_labels"]


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


def draw_labels(
    n: int, classes: int, condition: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """The labels that a condition (n,) names, or uniform ones, on the CPU.

    Drawn labels come from the generator before any noise does, from a generator of their own that
    one draw seeds: sample i has the same label and noise however many are drawn.
    """
    if condition is not None:
        if tuple(condition.shape) != (n,):
            raise ValueError(f"labels must be ({n},), not {tuple(condition.shape)}")
        return condition
    seed = int(torch.randint(2**62, (1,), generator=generator))
    own = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(classes, (1,), generator=own) for _ in range(n)]
    return torch.cat([torch.empty(0, dtype=torch.int64), *drawn])
