"""Promises of a loss that takes a ``mask``, true where an element counts.

A mask has the shape of the one that the example gives (all true), else of what ``reduction="none"``
returns, else of one of the example's tensors: the first of these that the loss takes. A loss of
tokens has logits (n, t, c) and a mask (n, t): its dimensions are found among those of the
differentiated argument, in their order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kexue_core.testing.loss_calls import differentiated, evaluate, factory_takes, parameters
from kexue_core.testing.outcomes import CheckFailure
from kexue_core.testing.subjects import LossSubject
from kexue_core.testing.values import difference, rows

__all__ = ["masked_means_count", "masks_hide"]

#: Relative difference of two float32 sums of the same terms.
TOLERANCE = 1e-5


def masks_hide(subject: LossSubject) -> None:
    """``mask`` (true where it counts): all true changes nothing, what is false has no effect."""
    call = _masked(subject)
    loss, arguments = call.loss, call.arguments
    place = differentiated(arguments)[0]
    everything = torch.ones(call.shape, dtype=torch.bool)
    if difference(call(loss, arguments, None), call(loss, arguments, everything)) > TOLERANCE:
        raise CheckFailure(
            "A mask that is true everywhere changes the loss", "True keeps an element"
        )
    mask = everything.clone()
    mask.reshape(-1)[::2] = False
    shown = _stretched(mask, arguments[place].shape)
    values = []
    for hidden in (0.0, 50.0):
        changed = list(arguments)
        changed[place] = torch.where(shown, arguments[place].detach(), hidden).requires_grad_()
        value = call(loss, tuple(changed), mask)
        (slope,) = torch.autograd.grad(value.sum(), changed[place])
        if slope[~shown].any():
            raise CheckFailure(
                "An element that the mask hides gets a gradient", "Multiply its term by the mask"
            )
        values.append(value.detach())
    if difference(*values) > TOLERANCE:
        raise CheckFailure(
            "The value of an element that the mask hides changes the loss",
            "Leave hidden elements out of sums, maxima and counts",
        )
    nothing = call(loss, arguments, torch.zeros_like(everything))
    if not nothing.isfinite().all():
        raise CheckFailure(
            "A mask that hides everything gives NaN or infinity",
            "Divide by the count clamped to at least 1",
        )


def masked_means_count(subject: LossSubject) -> str | None:
    """With a ``mask`` a mean is over what it shows."""
    call = _masked(subject)
    mask = torch.ones(call.shape, dtype=torch.bool)
    mask.reshape(-1)[::2] = False
    mask[0] = False
    if factory_takes("reduction")(subject):
        each = call(subject.build(reduction="none"), call.arguments, mask)
        shown = _reduced(mask, each.shape)
        total = each[shown].sum()
        for name, expected in (("mean", total / shown.sum().clamp(min=1)), ("sum", total)):
            found = call(subject.build(reduction=name), call.arguments, mask)
            if difference(expected, found) > TOLERANCE:
                raise CheckFailure(
                    f"With a mask reduction={name!r} gives {float(found.detach()):.6g}, the {name} "
                    f"of the {int(shown.sum())} of {shown.numel()} values that it shows is "
                    f"{float(expected.detach()):.6g}",
                    "Leave hidden values out, and divide a mean by mask.sum(), not by numel()",
                )
        return None
    n = len(mask)
    mask = torch.ones_like(mask)
    mask[0] = False
    found = call(call.loss, call.arguments, mask)
    if n < 2 or found.ndim:
        return "one value a sample, or one sample: there is no mean to compare"
    expected = call(call.loss, rows(call.arguments, n, slice(1, None)), None)
    if difference(expected, found) > TOLERANCE:
        raise CheckFailure(
            f"With the first of {n} samples masked out the loss is {float(found.detach()):.6g}, "
            f"without that sample {float(expected.detach()):.6g}",
            "Divide a mean by what the mask shows, not by the number of all elements",
        )
    return None


@dataclass(frozen=True)
class _Masked:
    """A loss, its example without a mask, and the shape of masks.

    ``place`` is where the example has its mask, ``None`` where it has none.
    """

    loss: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    place: int | None
    shape: tuple[int, ...]

    def __call__(
        self, loss: Callable[..., Tensor], arguments: tuple[Any, ...], mask: Tensor | None
    ) -> Tensor:
        if self.place is None:
            return evaluate(loss, arguments, mask=mask)
        return evaluate(loss, (*arguments[: self.place], mask, *arguments[self.place + 1 :]))


def _masked(subject: LossSubject) -> _Masked:
    """Find the shape of masks: a mask of it, all true, is taken and changes nothing."""
    loss, arguments = subject.build(), subject.example()
    place = parameters(loss).index("mask")
    if len(arguments) > place and isinstance(given := arguments[place], Tensor):
        if not given.all():
            raise CheckFailure(
                "The mask of the example hides elements",
                "Let it be true everywhere: the kit hides some itself",
            )
        without = (*arguments[:place], None, *arguments[place + 1 :])
        return _Masked(loss, without, place, tuple(given.shape))
    taken = []
    errors = []
    for shape in dict.fromkeys(_shapes(subject, arguments)):
        call = _Masked(loss, arguments, None, shape)
        try:
            value = call(loss, arguments, torch.ones(shape, dtype=torch.bool))
        except Exception as error:
            errors.append(f"{shape}: {' '.join(str(error).split()):.80}")
            continue
        if difference(call(loss, arguments, None), value) <= TOLERANCE:
            return call
        taken.append(call)
    if not taken:
        raise CheckFailure(
            f"No mask that the kit can think of is taken ({'; '.join(errors)})",
            "Let a mask have the shape of what reduction='none' returns, or let the example "
            "return one, all true, at the place of the argument `mask`",
        )
    return taken[0]


def _shapes(subject: LossSubject, arguments: tuple[Any, ...]) -> Iterator[tuple[int, ...]]:
    """Shapes that masks may have, the likeliest first."""
    if factory_takes("reduction")(subject):
        each = evaluate(subject.build(reduction="none"), arguments)
        if each.ndim:
            yield tuple(each.shape)
    for place in differentiated(arguments):
        yield tuple(arguments[place].shape)
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.ndim:
            yield tuple(argument.shape)


def _axes(few: tuple[int, ...], many: tuple[int, ...]) -> tuple[int, ...] | None:
    """Which dimensions of ``many`` those of ``few`` are, in order, the foremost; or ``None``."""
    for axes in itertools.combinations(range(len(many)), len(few)):
        if all(many[axis] == size for axis, size in zip(axes, few, strict=True)):
            return axes
    return None


def _stretched(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask in a shape that has dimensions more than it."""
    axes = _axes(tuple(mask.shape), tuple(shape))
    if axes is None:
        raise CheckFailure(
            f"A mask {tuple(mask.shape)} has dimensions that the argument {tuple(shape)} lacks",
            "Let a mask have the shape of what reduction='none' returns",
        )
    return mask.reshape([shape[i] if i in axes else 1 for i in range(len(shape))]).expand(shape)


def _reduced(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Which values of ``reduction="none"`` a mask shows any element of."""
    axes = _axes(tuple(shape), tuple(mask.shape))
    if axes is None:
        return _stretched(mask, shape)
    others = tuple(i for i in range(mask.ndim) if i not in axes)
    return mask.any(others) if others else mask
