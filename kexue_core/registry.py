"""The catalogue: which weights and plugins exist, from registry.yaml files.

Plugins say what is installed, the registry says what exists: only the second can answer
``kexue pull glow-celeba`` with "pip install kexue-flow". The core's own file comes with the package
(or is named by ``KEXUE_REGISTRY``); plugins add theirs through the ``kexue_registries`` hook. A bad
entry is reported and left out, and everything else goes on working.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from kexue_core.errors import AmbiguousNameError, NotFoundError, RegistryError
from kexue_core.names import Reference, did_you_mean, normalize, parse_reference
from kexue_core.registry_files import (
    CORE_REGISTRY,
    FORMAT,
    FileEntry,
    PluginEntry,
    RegistryProblem,
    WeightsEntry,
    read_registry,
)

__all__ = [
    "CORE_REGISTRY",
    "FORMAT",
    "MIRROR_MARKER",
    "FileEntry",
    "PluginEntry",
    "Registry",
    "RegistryProblem",
    "WeightsEntry",
    "load_registry",
    "read_registry",
]

#: File at the root of a mirror: what tells a mirror from any folder that happens to be there.
MIRROR_MARKER = "kexue-mirror.json"


class Registry:
    """One view over several registry files; earlier files own their names."""

    def __init__(
        self,
        weights: Sequence[WeightsEntry],
        plugins: Mapping[str, PluginEntry],
        problems: Sequence[RegistryProblem],
    ) -> None:
        self.weights = tuple(sorted(weights, key=lambda entry: (entry.name, entry.plugin)))
        self.plugins = plugins
        self.problems = tuple(problems)

    def find(self, reference: Reference | str) -> WeightsEntry:
        """The entry that a reference of kind ``name`` means; its revision is not looked at.

        Raises:
            AmbiguousNameError: Several plugins have weights of that name.
            NotFoundError: None has; the hint offers the closest names.
        """
        if isinstance(reference, str):
            reference = parse_reference(reference)
        name, distribution = reference.target, reference.distribution
        found = [
            entry
            for entry in self.weights
            if name in (entry.name, *entry.aliases)
            and distribution in (None, normalize(entry.plugin))
        ]
        if len(found) == 1:
            return found[0]
        if found:
            forms = " or ".join(f"{entry.plugin}::{name}" for entry in found)
            raise AmbiguousNameError(
                f"Several plugins have weights {name!r}", hint=f"Write {forms}"
            )
        known = {n for entry in self.weights for n in (entry.name, *entry.aliases)}
        trained = [entry.name for entry in self.weights if entry.model == name]
        raise NotFoundError(
            f"No weights are named {str(reference)!r}",
            hint=f"{name} is a model; its weights are {', '.join(trained)}"
            if trained
            else did_you_mean(name, known) or "`kexue list` shows all names",
        )


@functools.cache
def load_registry() -> Registry:
    """Read the core's registry and those of the installed plugins, once a process.

    Raises:
        RegistryError: The core's file, or the one that ``KEXUE_REGISTRY`` names, is not readable.
    """
    from kexue_core.plugins import discover

    named = os.environ.get("KEXUE_REGISTRY")
    core = Path(named) if named else CORE_REGISTRY
    weights, plugins, problems = read_registry(core)
    # Whoever the core's file names owns the name: a third party cannot take `glow-celeba`.
    owned = {n for entry in weights for n in (entry.name, *entry.aliases)}
    for record in discover():
        for path in record.registries:
            try:
                theirs, _, trouble = read_registry(path, owner=record.distribution)
            except RegistryError as error:
                problems.append(
                    RegistryProblem(
                        path,
                        record.distribution,
                        error.message,
                        _fix(path, record.distribution, error),
                    )
                )
                continue
            problems += trouble
            for entry in theirs:
                taken = owned & {entry.name, *entry.aliases}
                if taken:
                    problems.append(
                        RegistryProblem(
                            path,
                            entry.name,
                            f"{record.distribution} takes the name {taken.pop()!r}, "
                            "which belongs to kexue's own registry",
                            "Rename the weights",
                        )
                    )
                else:
                    weights.append(entry)
    return Registry(weights, plugins, problems)


def _fix(path: Path, distribution: str, error: RegistryError) -> str:
    """What to do about the file of a plugin: KEXUE_REGISTRY names none of those."""
    if path.is_file() and os.access(path, os.R_OK):
        return error.hint or ""
    return (
        f"Update or reinstall {distribution}; if it is yours, list {path.name} under "
        "[tool.setuptools.package-data] in its pyproject.toml"
    )
