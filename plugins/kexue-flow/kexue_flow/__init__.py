"""NICE, RealNVP and Glow: exact likelihood by invertible networks.

>>> from kexue_flow import Glow, GlowConfig                  # doctest: +SKIP

Importing this package imports no torch; the models come with their names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["FlowNLL", "Glow", "GlowConfig"]

if TYPE_CHECKING:
    from kexue_flow.glow import Glow, GlowConfig
    from kexue_flow.losses import FlowNLL

_HOME = {"FlowNLL": "losses", "Glow": "glow", "GlowConfig": "glow"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
