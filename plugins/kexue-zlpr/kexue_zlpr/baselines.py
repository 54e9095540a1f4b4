"""What ZLPR is compared with, behind the same call: one loss a row, the sum over its classes.

References:
    Focal Loss, https://arxiv.org/abs/1708.02002 (equation 5, and 4 for alpha)
    Asymmetric Loss, https://arxiv.org/abs/2009.14119 (equation 7, without its gradient switch)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_zlpr.zlpr import Reduction

__all__ = ["asymmetric_loss", "bce_loss", "focal_loss"]


def bce_loss(
    input: Tensor,
    target: Tensor,
    *,
    pos_weight: Tensor | float | None = None,
    reduction: Reduction = "mean",
    mask: Tensor | None = None,
    dim: int | tuple[int, ...] = -1,
) -> Tensor:
    """Binary cross-entropy with logits, in nats, summed over the classes of a row.

    Args:
        input: Logits (..., C).
        target: In [0, 1], of the same shape.
        pos_weight: Factor on the terms of true classes, a number or (C,): the usual balance is
            false / true of each class.
        reduction: ``"none"``, ``"mean"`` over the rows that the mask leaves, or ``"sum"``.
        mask: Boolean, broadcast to ``input``: false where a class does not count.
        dim: The class dimension or dimensions.

    Raises:
        ValueError: There is no such reduction.
    """
    input, target = _arguments(input, target, mask)
    weight = None if pos_weight is None else torch.as_tensor(pos_weight).to(input)
    terms = F.binary_cross_entropy_with_logits(input, target, pos_weight=weight, reduction="none")
    return _reduce(terms, reduction, mask, dim)


def focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    reduction: Reduction = "mean",
    mask: Tensor | None = None,
    dim: int | tuple[int, ...] = -1,
) -> Tensor:
    """Focal loss: -alpha_t (1 - p_t)^gamma log p_t, where p_t is the probability of the truth.

    Args:
        input, target, reduction, mask, dim: As for :func:`bce_loss`; targets 0 or 1.
        gamma: At least 0; 0 is cross-entropy.
        alpha: Weight of true classes in [0, 1], 1 - alpha of false ones; ``None`` for no weights.
    """
    input, target = _arguments(input, target, mask)
    signs = 2 * target - 1
    terms = -F.logsigmoid(-signs * input).mul(gamma).exp() * F.logsigmoid(signs * input)
    if alpha is not None:
        terms = terms * (alpha * target + (1 - alpha) * (1 - target))
    return _reduce(terms, reduction, mask, dim)


def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    margin: float = 0.05,
    reduction: Reduction = "mean",
    mask: Tensor | None = None,
    dim: int | tuple[int, ...] = -1,
) -> Tensor:
    """Asymmetric loss: focal with an exponent a side, and easy false classes left out.

    With p = sigmoid(s) and q = max(p - margin, 0): -(1 - p)^gamma_pos log p at true classes,
    -q^gamma_neg log(1 - q) at false ones.

    Args:
        input, target, reduction, mask, dim: As for :func:`bce_loss`; targets 0 or 1.
        gamma_pos, gamma_neg: Exponents, at least 0.
        margin: Probability below which a false class costs nothing, in [0, 1).
    """
    input, target = _arguments(input, target, mask)
    true = -F.logsigmoid(-input).mul(gamma_pos).exp() * F.logsigmoid(input)
    if margin:
        q = (torch.sigmoid(input) - margin).clamp(min=0)
        false = -(q**gamma_neg) * torch.log1p(-q)
    else:  # p may round to 1
        false = -F.logsigmoid(input).mul(gamma_neg).exp() * F.logsigmoid(-input)
    return _reduce(target * true + (1 - target) * false, reduction, mask, dim)


def _arguments(input: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if target.shape != input.shape:
        raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} differ")
    if input.dtype in (torch.float16, torch.bfloat16):
        input = input.float()
    # A padding of -inf times 0 would be NaN; its term is 0 anyway.
    input = input.masked_fill(input == -math.inf, torch.finfo(input.dtype).min / 4)
    return (input if mask is None else input.masked_fill(~mask, 0)), target.to(input.dtype)


def _reduce(
    terms: Tensor, reduction: Reduction, mask: Tensor | None, dim: int | tuple[int, ...]
) -> Tensor:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', not {reduction!r}")
    if mask is None:
        loss = terms.sum(dim)
        rows: Tensor | int = max(loss.numel(), 1)
    else:
        mask = mask.broadcast_to(terms.shape)
        loss = (terms * mask).sum(dim)
        rows = mask.any(dim).sum().clamp(min=1)
    if reduction == "none":
        return loss
    return loss.sum() / rows if reduction == "mean" else loss.sum()
