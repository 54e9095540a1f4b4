"""Promises of a loss, seen through the ``example`` of its spec."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kexue_core.testing.loss_calls import (
    call_takes_mask,
    differentiated,
    evaluate,
    factory_takes,
)
from kexue_core.testing.mask_checks import masked_means_count, masks_hide
from kexue_core.testing.outcomes import Check, CheckFailure
from kexue_core.testing.subjects import LossSubject
from kexue_core.testing.values import difference, tensors

__all__ = ["LOSS_CHECKS"]

#: Logits that no net gives and every broken one does; exp of it overflows all number types.
EXTREME = 1e4


def example_is_finite(subject: LossSubject) -> None:
    """The loss of its example is a finite float tensor with a finite gradient."""
    loss, arguments = subject.build(), subject.example()
    value = evaluate(loss, arguments)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise CheckFailure(f"The loss is a {type(value).__name__}", "Return a float tensor")
    _require_finite(loss, arguments, "of its example")


def seed_decides(subject: LossSubject) -> None:
    """One seed gives one value, and the example is the same for one generator."""
    loss = subject.build()
    if difference(tensors(subject.example()), tensors(subject.example())) > 0:
        raise CheckFailure(
            "The example differs from call to call", "Draw it from the generator argument"
        )
    values = [evaluate(loss, subject.example()) for _ in range(2)]
    if difference(*values) > 0:
        raise CheckFailure(
            "The loss gives two values for one input and seed",
            "Keep no state between calls and draw random numbers from torch alone",
        )


def extremes_are_finite(subject: LossSubject) -> None:
    """At logits of +-10,000 the loss and its gradient stay finite."""
    loss = subject.build()
    # Each place with both signs: confident and right, confident and wrong.
    for extreme in (EXTREME, -EXTREME):
        arguments = list(subject.example())
        for place in differentiated(tuple(arguments)):
            given = arguments[place].detach()
            signs = torch.where(given >= 0, 1.0, -1.0).to(given.dtype)
            arguments[place] = (extreme * signs).requires_grad_(arguments[place].requires_grad)
        _require_finite(loss, tuple(arguments), f"at inputs of +-{EXTREME:,.0f}")


def half_precision_is_finite(subject: LossSubject) -> None:
    """In bfloat16 and float16 the loss of the example is finite."""
    for dtype in (torch.bfloat16, torch.float16):
        loss, arguments = _typed(subject, dtype)
        _require_finite(loss, arguments, f"in {dtype}")


def gradient_is_right(subject: LossSubject) -> None:
    """Autograd's gradient agrees with differences in float64 (``torch.autograd.gradcheck``)."""
    loss, arguments = _typed(subject, torch.float64)
    places = differentiated(arguments)
    inputs = [arguments[i].detach().clone().requires_grad_() for i in places]

    def function(*values: Tensor) -> Tensor:
        full = list(arguments)
        for place, value in zip(places, values, strict=True):
            full[place] = value
        return evaluate(loss, tuple(full))

    try:
        torch.autograd.gradcheck(function, inputs, fast_mode=True)
    except RuntimeError as error:  # gradcheck's own error is a RuntimeError
        reason = str(error).strip().splitlines()[0]
        raise CheckFailure(
            f"The gradient is not the derivative of the loss: {reason:.120}",
            "Correct the backward pass; if a non-differentiable point is hit, move the example",
        ) from None


def reductions_agree(subject: LossSubject) -> None:
    """``reduction``: mean and sum are those of none."""
    arguments = subject.example()
    each = evaluate(subject.build(reduction="none"), arguments)
    for name, expected in (("mean", each.mean()), ("sum", each.sum())):
        found = evaluate(subject.build(reduction=name), arguments)
        if found.shape != () or difference(expected, found) > 1e-5:
            raise CheckFailure(
                f"reduction={name!r} gives {found.detach()}, the {name} of 'none' is "
                f"{float(expected.detach()):.6g}",
                "Reduce what 'none' returns",
            )
    try:
        bad = evaluate(subject.build(reduction="no-such"), arguments)
    except Exception:
        return
    raise CheckFailure(
        f"reduction='no-such' is accepted and gives {bad.detach()}", "Raise ValueError for it"
    )


def _require_finite(loss: Callable[..., Tensor], arguments: tuple[Any, ...], where: str) -> None:
    places = differentiated(arguments)
    full = list(arguments)
    for place in places:
        full[place] = arguments[place].detach().clone().requires_grad_()
    value = evaluate(loss, tuple(full))
    if not value.isfinite().all():
        raise CheckFailure(
            f"The loss {where} is {value.detach().sum()}",
            "Use logsumexp, softplus, logsigmoid and float32 inside; avoid log(exp(x))",
        )
    if not value.requires_grad:
        raise CheckFailure(
            f"The loss {where} carries no gradient", "Remove torch.no_grad, .detach() or .data"
        )
    slopes = torch.autograd.grad(value.sum(), [full[i] for i in places], allow_unused=True)
    for place, slope in zip(places, slopes, strict=True):
        if slope is None:
            raise CheckFailure(
                f"The loss {where} has no gradient to argument {place}",
                "Set requires_grad in the example only where the loss is differentiable",
            )
        if not slope.isfinite().all():
            raise CheckFailure(
                f"The gradient of the loss {where} is not finite",
                "torch.where does not stop NaN in the branch it drops: mask before exp and log",
            )


def _typed(
    subject: LossSubject, dtype: torch.dtype
) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """Loss and example with every float, and the parameters of every module, in ``dtype``."""
    loss = subject.build()
    if isinstance(loss, nn.Module):
        loss = loss.to(dtype)
    arguments: list[Any] = []
    for argument in subject.example():
        if isinstance(argument, nn.Module):
            arguments.append(copy.deepcopy(argument).to(dtype))
        elif isinstance(argument, Tensor) and argument.is_floating_point():
            moved = argument.detach().to(dtype).requires_grad_(argument.requires_grad)
            arguments.append(moved)
        else:
            arguments.append(argument)
    return loss, tuple(arguments)


def _is_derivative(subject: LossSubject) -> bool:
    return not subject.spec.stop_gradient


LOSS_CHECKS: tuple[Check[LossSubject], ...] = (
    Check("example", example_is_finite),
    Check("seeds", seed_decides),
    Check("extremes", extremes_are_finite),
    Check("half-precision", half_precision_is_finite),
    Check("gradcheck", gradient_is_right, _is_derivative),
    Check("reductions", reductions_agree, factory_takes("reduction")),
    Check("masks", masks_hide, call_takes_mask),
    Check("masked-mean", masked_means_count, call_takes_mask),
)
