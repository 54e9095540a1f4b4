"""The hooks that a plugin may implement. Both return values; neither gets a callback.

A plugin is a module named by an entry point of the group ``kexue``::

    # pyproject.toml                        # kexue_flow/plugin.py
    [project.entry-points.kexue]            from kexue_core import ModelSpec, hookimpl
    flow = "kexue_flow.plugin"
                                            @hookimpl
                                            def kexue_components():
                                                yield ModelSpec(name="glow", ...)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pluggy

from kexue_core.specs import Spec

__all__ = ["hookimpl", "kexue_components", "kexue_registries"]

hookspec = pluggy.HookspecMarker("kexue")
#: The decorator that marks a function of a plugin as one of the hooks below.
hookimpl = pluggy.HookimplMarker("kexue")


@hookspec
def kexue_components() -> Iterable[Spec]:  # type: ignore[empty-body]  # a specification has no body
    """Return or yield the specs of this distribution's models, losses, samplers, recipes, adapters.

    Called once a process, possibly only to list names: import nothing heavy here.
    """


@hookspec
def kexue_registries() -> Iterable[Path]:  # type: ignore[empty-body]  # a specification has no body
    """Return or yield the paths of registry.yaml files that name this distribution's weights."""
