"""kexue: the techniques of the blog kexue.fm as a PyTorch model zoo.

>>> import kexue_core as kexue
>>> model = kexue.load("glow-celeba")                       # doctest: +SKIP
>>> images = kexue.sample(model, 16, temperature=0.7)       # doctest: +SKIP

Everything is imported on first use: ``import kexue_core`` costs milliseconds and no torch.
Not affiliated with the blog or its author.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "AdapterSpec",
    "KexueError",
    "LossSpec",
    "ModelSpec",
    "Option",
    "RecipeSpec",
    "SamplerSpec",
    "__version__",
    "create",
    "create_loss",
    "hookimpl",
    "info",
    "list_weights",
    "load",
    "sample",
    "save",
]

# Public name -> module that defines it.
_HOME = {
    "AdapterSpec": "specs",
    "LossSpec": "specs",
    "ModelSpec": "specs",
    "Option": "specs",
    "RecipeSpec": "specs",
    "SamplerSpec": "specs",
    "KexueError": "errors",
    "create": "api",
    "create_loss": "api",
    "hookimpl": "hookspecs",
    "info": "api",
    "list_weights": "api",
    "load": "api",
    "sample": "api",
    "save": "api",
}

if TYPE_CHECKING:
    from kexue_core.api import create, create_loss, info, list_weights, load, sample, save
    from kexue_core.errors import KexueError
    from kexue_core.hookspecs import hookimpl
    from kexue_core.specs import (
        AdapterSpec,
        LossSpec,
        ModelSpec,
        Option,
        RecipeSpec,
        SamplerSpec,
    )


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"kexue_core.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
