"""Span scores in the shape of GlobalPointer, and the sparse form of their labels.

A span (start, end), both inclusive, of type h in a text of L tokens has the score ``[h, start,
end]`` of a tensor (..., H, L, L); its loss is ``zlpr_loss(scores, labels, dim=(-2, -1))``.

Source: https://kexue.fm/archives/8373 (GlobalPointer), /8888 (sparse labels).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["mask_spans", "span_index", "spans_above"]


def mask_spans(scores: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Scores with -inf, which costs and predicts nothing, where there is no span.

    Args:
        scores: (..., H, L, L).
        tokens: Boolean (..., L), false on padding.
    """
    length = scores.shape[-1]
    valid = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu()
    if tokens is not None:
        valid = valid & tokens[..., None, :, None] & tokens[..., None, None, :]
    return scores.masked_fill(~valid, -math.inf)


def span_index(start: Tensor, end: Tensor, length: int, *, ignore_index: int = -100) -> Tensor:
    """Class numbers for ``sparse_zlpr_loss(scores.flatten(-2), ...)``.

    Args:
        start, end: First and last token (..., K), 0 to length - 1; ``ignore_index`` fills up.
        length: L.
        ignore_index: Kept as it is.
    """
    used = (start != ignore_index) & (end != ignore_index)
    return torch.where(used, start * length + end, ignore_index)


def spans_above(scores: Tensor, *, threshold: float = 0.0) -> list[tuple[int, ...]]:
    """The predicted spans (..., h, start, end) of scores (..., H, L, L), in order."""
    return [tuple(row) for row in (scores > threshold).nonzero().tolist()]
