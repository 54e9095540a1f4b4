"""ZLPR, the softmax cross-entropy of multi-label classification. Needs torch and nothing else.

For logits s and the set P of true classes, N the others::

    loss = log(1 + sum_{i in N} e^{s_i}) + log(1 + sum_{j in P} e^{-s_j})          (1)

Every true class is pushed above every false one, with 0 as the class between them: predict
s > 0. One class gives binary cross-entropy. With t_i in [0, 1] in place of sets (soft labels)::

    loss = log(1 + sum_i (1 - t_i) e^{s_i}) + log(1 + sum_i t_i e^{-s_i})          (2)

whose minimum over s is at t = sigmoid(2 s): see :func:`zlpr_prob`. The gradient of (1) is::

    e^{s_i} / (1 + sum_N e^s)  at i in N        -e^{-s_j} / (1 + sum_P e^{-s})  at j in P

Sources: https://kexue.fm/archives/7359 (1), /9064 (2), /8888 (sparse); arXiv 2208.02955.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "SoftZLPRLoss",
    "SparseZLPRLoss",
    "ZLPRLoss",
    "soft_zlpr_loss",
    "sparse_zlpr_loss",
    "zlpr_loss",
    "zlpr_predict",
    "zlpr_prob",
]

Reduction: TypeAlias = Literal["none", "mean", "sum"]

# Exponents up to PEAK are left alone: a million terms of e^70 = 2.5e30 stay below float32's 3.4e38.
# Larger ones are shifted down by a whole number, which costs no rounding where the result counts.
PEAK = 70.0
# Stands for infinity where infinity times zero would give NaN.
HUGE = 1e30
# Elements worked on at a time on a CPU: a few such blocks stay in its cache.
BLOCK = 1 << 17


def zlpr_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: Reduction = "mean",
    mask: Tensor | None = None,
    dim: int | tuple[int, ...] = -1,
    threshold: float = 0.0,
) -> Tensor:
    """Loss (1) of multi-hot targets.

    Args:
        input: Logits (..., C), any real number or -inf; -inf on a false class (padding, the lower
            triangle of span scores) is no term at all.
        target: 0 or 1 of the same shape, of any dtype. Between them: :func:`soft_zlpr_loss`.
        reduction: ``"none"`` gives a loss a row, ``"mean"`` is over the rows of which the mask
            leaves something (0 where there are none), ``"sum"``.
        mask: Boolean, broadcast to ``input``: false where a class or row does not count.
        dim: The class dimension or dimensions: (-2, -1) for span scores (B, H, L, L).
        threshold: The logit between true and false classes.

    Returns:
        The loss in nats, in [0, inf), float32 for half-precision logits (a float16 sum overflows).

    Raises:
        ValueError: The shapes differ, or there is no such reduction.
    """
    s, mask = _logits(input, mask, dim, threshold)
    t = _targets(input, target, mask, dim)
    return _reduce(_evaluate(s, t, _dense_block, _dense), mask, reduction)


def soft_zlpr_loss(
    input: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    mask: Tensor | None = None,
    dim: int | tuple[int, ...] = -1,
    threshold: float = 0.0,
) -> Tensor:
    """Loss (2) of targets in [0, 1]. At 0 and 1 it is :func:`zlpr_loss`, without clipping.

    Args:
        input, target, reduction, mask, dim, threshold: As for :func:`zlpr_loss`.
        label_smoothing: e in [0, 1]: targets become (1 - e) t + e / 2.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], not {label_smoothing}")
    s, mask = _logits(input, mask, dim, threshold)
    t = _targets(input, target.to(s.dtype) * (1 - label_smoothing) + label_smoothing / 2, mask, dim)
    loss = _log_sum(s, t < 1, 1 - t) + _log_sum(-s, t > 0, t)
    return _reduce(loss, mask, reduction)


def sparse_zlpr_loss(
    input: Tensor,
    index: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    mask: Tensor | None = None,
    threshold: float = 0.0,
) -> Tensor:
    """Loss (1) with the true classes given by number: for a million classes and a few true ones.

    The false classes are summed themselves. Subtracting the true ones from the sum over all, as is
    often done, cancels: at one true logit of 30 it gives 13.9 for 3.9, and wrong gradients.

    Args:
        input: Logits (..., C) as for :func:`zlpr_loss`.
        index: Numbers of the true classes (..., K), int64, any order; those given twice count once.
        ignore_index: Fills up rows with fewer than K true classes.
        reduction, mask, threshold: As for :func:`zlpr_loss`.

    Raises:
        ValueError: The shapes do not match, or there is no such reduction.
        IndexError: An index is neither in [0, C) nor ``ignore_index``.
    """
    if index.shape[:-1] != input.shape[:-1]:
        raise ValueError(f"input {tuple(input.shape)} and index {tuple(index.shape)} differ")
    s, mask = _logits(input, mask, -1, threshold)
    index = F.pad(index, (0, 1), value=ignore_index)
    used = index != ignore_index
    if index.device.type == "cpu" and not torch.compiler.is_compiling():  # a GPU asserts by itself
        wrong = index[used & ((index < 0) | (index >= input.shape[-1]))]
        if len(wrong):
            raise IndexError(f"{wrong[0]} is no class: there are {input.shape[-1]}")
    if mask is not None and mask.shape[-1]:
        used = used & mask.gather(-1, index.masked_fill(~used, 0))
    # Unused places repeat a true class of their row, and repetitions count once.
    index = torch.where(used, index, index.masked_fill(~used, -1).amax(-1, keepdim=True))
    return _reduce(_evaluate(s, index, _sparse_block, _sparse), mask, reduction)


def zlpr_predict(input: Tensor, *, threshold: float = 0.0) -> Tensor:
    """The predicted classes: bool, of the shape of ``input``. -inf is never predicted."""
    return input > threshold


def zlpr_prob(input: Tensor, *, loss: Literal["soft", "hard"] = "soft") -> Tensor:
    """Probabilities of classes from logits trained with a threshold of 0.

    Args:
        input: Logits of any shape.
        loss: ``"soft"`` for sigmoid(2 s), the exact inverse of the soft loss's optimum; ``"hard"``
            for sigmoid(s), exact for one class and 0 / 1 labels, where the loss is binary
            cross-entropy. Several classes trained on hard labels have no exact formula.

    Raises:
        ValueError: ``loss`` is neither.
    """
    if loss not in ("soft", "hard"):
        raise ValueError(f"loss must be 'soft' or 'hard', not {loss!r}")
    return torch.sigmoid(2 * input if loss == "soft" else input)


class _ZLPR(nn.Module):
    """Keeps the options of one of the functions above and calls it."""

    function: Callable[..., Tensor]

    def __init__(self, reduction: Reduction = "mean", **options: Any) -> None:
        super().__init__()
        _check_reduction(reduction)
        self.options = {"reduction": reduction, **options}

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of logits ``input``, with ``target`` and ``mask`` as the function has them."""
        return type(self).function(input, target, mask=mask, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in self.options.items())


class ZLPRLoss(_ZLPR):
    """:func:`zlpr_loss` as a module: options ``reduction``, ``dim``, ``threshold``."""

    function = staticmethod(zlpr_loss)


class SoftZLPRLoss(_ZLPR):
    """:func:`soft_zlpr_loss` as a module; also ``label_smoothing``."""

    function = staticmethod(soft_zlpr_loss)


class SparseZLPRLoss(_ZLPR):
    """:func:`sparse_zlpr_loss` as a module: ``reduction``, ``ignore_index``, ``threshold``."""

    function = staticmethod(sparse_zlpr_loss)


# ---- Arguments -------------------------------------------------------------------------------


def _logits(
    input: Tensor, mask: Tensor | None, dim: int | tuple[int, ...], threshold: float
) -> tuple[Tensor, Tensor | None]:
    """Logits (..., C), at least float32, and the mask in their shape.

    What is masked becomes a false class at -inf, which is no term.
    """
    s = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    s = _last(s - threshold if threshold else s, dim)
    if mask is None:
        return s, None
    mask = _last(mask.broadcast_to(input.shape), dim)
    return s.masked_fill(~mask, -math.inf), mask


def _targets(
    input: Tensor, target: Tensor, mask: Tensor | None, dim: int | tuple[int, ...]
) -> Tensor:
    if target.shape != input.shape:
        raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} differ")
    target = _last(target, dim)
    return target if mask is None else target.masked_fill(~mask, 0)


def _last(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Move the class dimensions to the end and make them one."""
    dims = (dim,) if isinstance(dim, int) else dim
    x = x.movedim(dims, tuple(range(-len(dims), 0)))
    return x if len(dims) == 1 else x.flatten(-len(dims))


def _reduce(loss: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    _check_reduction(reduction)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if mask is None:
        return loss.sum() / max(loss.numel(), 1)
    return loss.sum() / mask.any(-1).sum().clamp(min=1)


def _check_reduction(reduction: str) -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', not {reduction!r}")


# ---- The formula, differentiable by autograd -------------------------------------------------


def _log_sum(x: Tensor, keep: Tensor, weight: Tensor | None = None) -> Tensor:
    """log(1 + sum of weight * e^x) over the last dimension, where ``keep``."""
    if not x.shape[-1]:
        return x.sum(-1)
    x = x.masked_fill(~keep, -math.inf)
    shift = _shift(x.detach().amax(-1, keepdim=True))
    terms = (x - shift).exp()
    total = (terms if weight is None else terms * weight).sum(-1, keepdim=True)
    # log(e^shift (e^-shift + total)), exact for the smallest of losses at shift 0.
    return (shift + torch.log1p(total + torch.expm1(-shift))).squeeze(-1)


def _shift(peak: Tensor) -> Tensor:
    """The whole number by which exponents up to ``peak`` are lowered: 0 up to PEAK."""
    return (peak - PEAK).ceil().clamp(0, HUGE)


def _dense(s: Tensor, t: Tensor) -> Tensor:
    """Loss (1) of rows, by autograd: what is compiled, and differentiated twice."""
    true = t > 0
    return _log_sum(s, ~true) + _log_sum(-s, true)


def _sparse(s: Tensor, index: Tensor) -> Tensor:
    """As :func:`_dense`, of class numbers that are repeated or -1 throughout."""
    index, first, some = _unique(index)
    false = torch.ones_like(s, dtype=torch.bool).scatter(-1, index, ~some.expand_as(index))
    return _log_sum(s, false) + _log_sum(-s.gather(-1, index), first)


def _unique(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class numbers in order, which of them are the first of their kind, and if there are any."""
    index = index.sort(-1).values
    some = index[..., -1:] >= 0
    first = F.pad(index[..., 1:] != index[..., :-1], (1, 0), value=True) & some
    return torch.where(some, index, 0), first, some


# ---- The same with its gradient in one pass --------------------------------------------------

# Of rows (n, C) and their targets: writes the gradient into the third argument unless it is None,
# and returns ((n, 1) sums, (n, 1) shifts) of the false and of the true classes.
Sums: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
Block: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Sums]


def _evaluate(s: Tensor, t: Tensor, block: Block, formula: Callable[..., Tensor]) -> Tensor:
    if s.numel() == 0:
        return s.sum(-1)
    if torch.compiler.is_compiling():
        return formula(s, t)  # a compiler does better with plain operations
    rows, targets = s.reshape(-1, s.shape[-1]), t.reshape(-1, t.shape[-1])
    if torch.is_grad_enabled() and s.requires_grad:
        loss = cast(Tensor, _OnePass.apply(rows, targets, block, formula))  # type: ignore[no-untyped-call]  # torch's
    else:
        loss, _ = _run(rows, targets, block, derive=False)
    return loss.reshape(s.shape[:-1])


class _OnePass(torch.autograd.Function):
    """Forms the gradient together with the loss, a block of rows at a time.

    Both need the same exponentials, and a block that is in the cache costs no memory traffic:
    that is what makes the loss as fast as binary cross-entropy.
    """

    @staticmethod
    def forward(
        ctx: Any, s: Tensor, t: Tensor, block: Block, formula: Callable[..., Tensor]
    ) -> Tensor:
        ctx.block, ctx.formula = block, formula
        ctx.save_for_backward(s, t)
        loss, ctx.gradient = _run(s, t, block, derive=True)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        s, t = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient is differentiated in turn
            (result,) = torch.autograd.grad(ctx.formula(s, t), s, upstream, create_graph=True)
            return result, None, None, None
        # Given away at once, which saves a copy; made anew if the graph is retained and run again.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            _, gradient = _run(s, t, ctx.block, derive=True)
        return gradient.mul_(upstream.unsqueeze(-1)), None, None, None


def _run(s: Tensor, t: Tensor, block: Block, *, derive: bool) -> tuple[Tensor, Tensor | None]:
    step = max(1, BLOCK // s.shape[1]) if s.device.type == "cpu" else len(s)
    gradient = torch.empty_like(s) if derive else None
    sums = []
    for i in range(0, len(s), step):
        j = i + step
        sums.append(block(s[i:j], t[i:j], None if gradient is None else gradient[i:j]))
    false, shift_false, true, shift_true = (
        torch.cat(x).squeeze(-1) for x in zip(*sums, strict=True)
    )
    loss = shift_false + torch.log1p(false + torch.expm1(-shift_false))
    loss += shift_true + torch.log1p(true + torch.expm1(-shift_true))
    return loss.masked_fill_(loss >= HUGE, math.inf), gradient


def _dense_block(s: Tensor, t: Tensor, gradient: Tensor | None) -> Sums:
    """One exponential serves both sums: of s at false classes, and of -s at true ones.

    The sums are taken apart, by products with t: either may be small beside the other.
    """
    t = t.to(s.dtype)
    z = torch.rsub(t, 1, alpha=2)  # signs, 1 - 2 t
    low, high = -math.inf, math.inf
    if s.device.type == "cpu":  # asking a GPU would cost more than it saves
        low, high = (x.item() for x in torch.aminmax(s))
    if low >= -PEAK and high <= PEAK:
        false = z.mul_(s).exp_()
        true = false * t
        shift_false = shift_true = s.new_zeros(len(s), 1)
    else:
        z *= s if low > -HUGE and high < HUGE else s.clamp(-HUGE, HUGE)
        true = z * t  # 0, which needs no shift, at false classes
        shift_true = _shift(true.amax(-1, keepdim=True))
        shift_false = _shift(torch.sub(z, true, out=true).amax(-1, keepdim=True))
        shift = torch.addcmul(shift_false, t, shift_true - shift_false, out=true)
        false = _exponentiate_(z, shift)
        true = torch.mul(false, t, out=true)
    false -= true
    sum_false, sum_true = false.sum(-1, keepdim=True), true.sum(-1, keepdim=True)
    if gradient is not None:
        torch.mul(false, _scale(sum_false, shift_false), out=gradient)
        gradient.addcmul_(true, _scale(sum_true, shift_true), value=-1)
    return sum_false, shift_false, sum_true, shift_true


def _sparse_block(s: Tensor, index: Tensor, gradient: Tensor | None) -> Sums:
    """True classes by number; works in the gradient's memory, with no other of the logits' size."""
    index, first, some = _unique(index)
    true = s.gather(-1, index)
    z = s.clone() if gradient is None else gradient.copy_(s)
    z.scatter_(-1, index, torch.where(some, -math.inf, true)).clamp_(max=HUGE)
    shift_false = _shift(z.amax(-1, keepdim=True))
    sum_false = _exponentiate_(z, shift_false).sum(-1, keepdim=True)

    terms = torch.where(some, -true, -math.inf).clamp_(max=HUGE)
    shift_true = _shift(terms.amax(-1, keepdim=True))
    sum_true = (_exponentiate_(terms, shift_true) * first).sum(-1, keepdim=True)
    if gradient is not None:
        z *= _scale(sum_false, shift_false)
        # Repeated indices write one value: that of their class.
        at_true = -terms * _scale(sum_true, shift_true)
        z.scatter_(-1, index, torch.where(some, at_true, z.gather(-1, index)))
    return sum_false, shift_false, sum_true, shift_true


def _exponentiate_(z: Tensor, shift: Tensor) -> Tensor:
    """e^(z - shift) in place, 0 where that is below the normal numbers (e^-81 in float32)."""
    # exp is dozens of times slower where its result is denormal or 0, so it gets no such argument.
    floor = math.log(torch.finfo(z.dtype).tiny) + 6
    return torch.threshold_(z.sub_(shift).clamp_(min=floor).exp_(), math.exp(floor + 0.1), 0.0)


def _scale(total: Tensor, shift: Tensor) -> Tensor:
    """What turns the terms of a sum into its gradient."""
    return (total + torch.exp(-shift)).reciprocal_()
