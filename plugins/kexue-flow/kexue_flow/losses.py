"""The training loss of every flow: the negative log-likelihood in bits a dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["FlowNLL", "flow_nll_example"]

REDUCTIONS = ("mean", "sum", "none")


class FlowNLL(nn.Module):
    """-log2 p a dimension, of data quantised to `bits` bits (Glow, arXiv 1807.03039, eq 1-2).

    A density of x in [0, 1] becomes the probability of a bin of width 2^-bits: with D dimensions,
    bits/dim = bits - log p(x) / (D ln 2). The figure is an upper bound where x was dequantised
    with uniform noise. Losses of different `bits` cannot be compared.

    Args:
        bits: Bits a dimension of the data; 0 for the plain density of real-valued data.
        reduction: "mean", "sum" or "none" over the samples.

    Raises:
        ValueError: `bits` is negative, or `reduction` none of the three.

    Example:
        >>> loss = FlowNLL(bits=5)
        >>> loss(glow(x), dims=x[0].numel()).backward()  # doctest: +SKIP
    """

    def __init__(self, *, bits: int = 8, reduction: str = "mean") -> None:
        super().__init__()
        if bits < 0:
            raise ValueError(f"bits must be at least 0, got {bits}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.bits, self.reduction = bits, reduction

    def forward(self, log_prob: Tensor, dims: int) -> Tensor:
        """Loss of log p (N,) in nats of data with `dims` dimensions: a scalar, or (N,) bits/dim."""
        loss = self.bits - log_prob / (dims * math.log(2))
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()


def flow_nll_example(generator: torch.Generator) -> tuple[Tensor, int]:
    """Log-densities of four 8x8 images, about two bits a dimension."""
    return 90 * torch.randn(4, generator=generator), 64
