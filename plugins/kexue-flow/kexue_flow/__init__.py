"""NICE, RealNVP and Glow: exact likelihood by invertible networks.

>>> from kexue_flow import Glow, GlowConfig                  # doctest: +SKIP

Importing this package imports no torch; the models come with their names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "NICE",
    "FlowNLL",
    "Glow",
    "GlowConfig",
    "NICEConfig",
    "RealNVP",
    "RealNVPConfig",
]

if TYPE_CHECKING:
    from kexue_flow.glow import Glow, GlowConfig
    from kexue_flow.losses import FlowNLL
    from kexue_flow.nice import NICE, NICEConfig
    from kexue_flow.realnvp import RealNVP, RealNVPConfig

_HOME = {
    "FlowNLL": "losses",
    "Glow": "glow",
    "GlowConfig": "glow",
    "NICE": "nice",
    "NICEConfig": "nice",
    "RealNVP": "realnvp",
    "RealNVPConfig": "realnvp",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
