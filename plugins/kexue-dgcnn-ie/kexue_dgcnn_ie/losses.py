"""Binary cross-entropy of probabilities that are products of sigmoids, from their logarithms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["pointer_loss"]

#: Probabilities stay this far from 1, as in Keras, so that no loss is infinite.
CLOSEST = 1e-7


def pointer_loss(log_p: Tensor, positive: Tensor, *, forgive: float = 1.0) -> Tensor:
    """Sum of -t log p - (1 - t) log(1 - p), in nats, where t is 1 at few places.

    Args:
        log_p: Logarithms of probabilities, of any shape, at most 0.
        positive: Places where t is 1, as numbers into ``log_p.flatten()``, each at most once.
        forgive: Probability above which a place that is not positive does not count.
    """
    log_p = log_p.clamp(max=-CLOSEST)
    there = log_p.flatten().index_select(0, positive)
    if forgive < 1:
        likely = log_p.detach() > math.log(forgive)
        likely.view(-1)[positive] = False
        log_p = log_p.masked_fill(likely, -math.inf)
    # log(1 - p) of all places, less that of the positive ones, where log p belongs.
    false: Tensor = _Log1mExp.apply(log_p)  # type: ignore[no-untyped-call]  # torch's
    return (torch.log(-torch.expm1(there)) - there).sum() - false


class _Log1mExp(torch.autograd.Function):
    """Sum of log(1 - e^x), whose gradient -e^x / (1 - e^x) is right where e^x is near 0 or 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        p = x.exp()
        ctx.save_for_backward(p, x.expm1())
        return torch.log1p(-p).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        p, minus_q = ctx.saved_tensors
        slope: Tensor = p / minus_q * gradient
        return slope
