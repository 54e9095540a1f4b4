"""Two sets of feature vectors, checked before anything is computed from them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_samples", "pair"]


def as_samples(x: Tensor, *, least: int, what: str = "features") -> Tensor:
    """``x`` in float64, where it is (n, D) with n >= ``least`` and finite.

    Raises:
        ValueError: It has another shape, too few rows, or values that are not finite.
    """
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"{what} must have the shape (n, D), not {tuple(x.shape)}")
    if len(x) < least:
        raise ValueError(f"{what} must hold at least {least} samples, not {len(x)}")
    x = x.detach().to(torch.float64)
    if not bool(x.isfinite().all()):
        raise ValueError(f"{what} hold NaN or infinity")
    return x


def pair(a: Tensor, b: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    """Both sets as :func:`as_samples`, of one dimension.

    Raises:
        ValueError: As :func:`as_samples`, or the dimensions differ.
    """
    a, b = as_samples(a, least=least), as_samples(b, least=least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features have {a.shape[1]} dimensions here and {b.shape[1]} there")
    return a, b
