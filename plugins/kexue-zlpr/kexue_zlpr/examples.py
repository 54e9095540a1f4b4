"""Arguments to call each loss with."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

__all__ = ["dense", "soft", "sparse"]

ROWS, CLASSES = 4, 12


def dense(generator: Generator) -> tuple[Tensor, Tensor]:
    """Logits and a multi-hot target, (4, 12) both."""
    target = torch.rand(ROWS, CLASSES, generator=generator) < 0.25
    return _logits(generator), target


def sparse(generator: Generator) -> tuple[Tensor, Tensor]:
    """Logits (4, 12) and class numbers (4, 3), some of them padding."""
    index = torch.randint(CLASSES, (ROWS, 3), generator=generator)
    index[0, 1:] = -100
    return _logits(generator), index


def soft(generator: Generator) -> tuple[Tensor, Tensor]:
    """Logits that ask for a gradient and a target in [0, 1], (4, 12) both."""
    target = torch.rand(ROWS, CLASSES, generator=generator)
    return _logits(generator), target


def _logits(generator: Generator) -> Tensor:
    return torch.randn(ROWS, CLASSES, generator=generator).requires_grad_()
