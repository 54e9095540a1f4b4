"""How many codes are used: exactly, over a whole data set."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CodeUsage", "perplexity", "utilization"]


def utilization(counts: Tensor) -> Tensor:
    """Share of the codes that occur, of counts (K,): a scalar in [0, 1], float64."""
    return (counts > 0).double().mean()


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the codes, of counts (K,): 1 to K, float64; 0 where none occurs."""
    total = counts.sum()
    p = counts.double() / total.clamp(min=1)
    entropy = -torch.special.xlogy(p, p).sum()
    number: Tensor = entropy.exp() * (total > 0)
    return number


class CodeUsage:
    """Counts every code of a data set, batch by batch, in integers: no batch is forgotten.

    Example:
        >>> usage = CodeUsage(num_embeddings=4)
        >>> usage.update(torch.tensor([0, 1]))
        >>> usage.update(torch.tensor([[1, 0]]))
        >>> usage.utilization, usage.perplexity
        (0.5, 2.0)
    """

    def __init__(self, num_embeddings: int) -> None:
        self.counts = torch.zeros(num_embeddings, dtype=torch.long)

    def update(self, codes: Tensor) -> None:
        """Count codes of any shape; -1 (masked out) does not count.

        Raises:
            ValueError: A code is not in -1 to K - 1.
        """
        size = len(self.counts)
        codes = codes.detach().reshape(-1).cpu()
        if codes.numel() and not -1 <= int(codes.min()) <= int(codes.max()) < size:
            raise ValueError(f"codes must be 0 to {size - 1} (-1: masked out)")
        self.counts += torch.bincount(codes[codes >= 0], minlength=size)

    @property
    def total(self) -> int:
        """Codes counted so far."""
        return int(self.counts.sum())

    @property
    def utilization(self) -> float:
        """Share of the codes that have occurred."""
        return int((self.counts > 0).sum()) / len(self.counts)

    @property
    def perplexity(self) -> float:
        """exp of the entropy of all that occurred; 0 before anything has."""
        return float(perplexity(self.counts))
