"""What a call of a model does inside torch: whether dropout is active."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode

__all__ = ["active_dropout"]

#: Name of a function of torch -> places of its probability and of its switch, which it may lack.
DROPOUTS: Mapping[str, tuple[int, int | None]] = {
    "dropout": (1, 2),
    "dropout_": (1, 2),
    "dropout1d": (1, 2),
    "dropout2d": (1, 2),
    "dropout3d": (1, 2),
    "alpha_dropout": (1, 2),
    "feature_alpha_dropout": (1, 2),
    "feature_dropout": (1, 2),
    "native_dropout": (1, 2),
    "scaled_dot_product_attention": (4, None),
}


def active_dropout(call: Callable[[], Any]) -> str | None:
    """The name of the first function that drops units during a call, ``None`` without one."""
    watch = _Watch()
    with watch:
        call()
    return watch.seen


class _Watch(TorchFunctionMode):
    """Looks at every function of torch that is called."""

    seen: str | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.seen is None and name in DROPOUTS and _active(name, args, kwargs):
            self.seen = name
        return func(*args, **kwargs)


def _active(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    place, switch = DROPOUTS[name]
    if switch is None:  # attention drops by its probability alone
        return bool((args[place] if len(args) > place else kwargs.get("dropout_p", 0)) > 0)
    p = args[place] if len(args) > place else kwargs.get("p", 0.5)
    on = args[switch] if len(args) > switch else kwargs.get("training", kwargs.get("train", True))
    return bool(on) and p > 0
