"""How the kit calls a loss.

Of the example's arguments those that are differentiated are the floating tensors with
``requires_grad``, or, where none asks for it, the first floating tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kexue_core.specs import import_object
from kexue_core.testing.outcomes import CheckFailure
from kexue_core.testing.subjects import LossSubject

__all__ = ["call_takes_mask", "differentiated", "evaluate", "factory_takes", "parameters"]


def evaluate(loss: Callable[..., Tensor], arguments: tuple[Any, ...], **extra: Any) -> Tensor:
    """Call a loss with torch's global randomness pinned, and left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return loss(*arguments, **extra)


def differentiated(arguments: tuple[Any, ...]) -> list[int]:
    """Places of the arguments with respect to which the loss is differentiated.

    Raises:
        CheckFailure: There is no floating tensor among them.
    """
    floating = [
        i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.is_floating_point()
    ]
    if not floating:
        raise CheckFailure(
            "The example has no floating tensor", "Return the arguments of one call as a tuple"
        )
    return [i for i in floating if arguments[i].requires_grad] or floating[:1]


def parameters(loss: Any) -> list[str]:
    """Names of what a loss is called with, in order."""
    call = loss.forward if isinstance(loss, nn.Module) else loss
    return list(inspect.signature(call).parameters)


def factory_takes(name: str) -> Callable[[LossSubject], bool]:
    """Whether the loss has an option of this name."""

    def takes(subject: LossSubject) -> bool:
        return name in inspect.signature(import_object(subject.spec.factory)).parameters

    return takes


def call_takes_mask(subject: LossSubject) -> bool:
    """Whether the loss is called with a ``mask``."""
    return "mask" in parameters(subject.build())
