"""Find the installed plugins and look their specs up.

Each distribution is loaded by itself (:mod:`kexue_core.isolation`), so that one that is broken
breaks nothing but itself.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kexue_core.distributions import EntryPoint, entry_points
from kexue_core.errors import AmbiguousNameError, NotFoundError, PluginError
from kexue_core.isolation import GROUP, PluginRecord, Problem, load_plugin
from kexue_core.names import did_you_mean, normalize
from kexue_core.specs import KINDS, ModelSpec, Spec

__all__ = ["Declared", "PluginRecord", "Plugins", "Problem", "discover"]


@dataclass(frozen=True, slots=True)
class Declared:
    """A spec together with the distribution that declares it."""

    spec: Spec
    distribution: str

    @property
    def qualified(self) -> str:
        """``distribution::name``, which is never ambiguous."""
        return f"{self.distribution}::{self.spec.name}"


class Plugins:
    """The installed plugins and their specs."""

    def __init__(self, records: Sequence[PluginRecord]) -> None:
        self.records = tuple(sorted(records, key=lambda record: record.distribution))

    def __iter__(self) -> Iterator[PluginRecord]:
        return iter(self.records)

    def record(self, distribution: str) -> PluginRecord | None:
        """The record of a distribution, or ``None`` where it is not an installed plugin."""
        wanted = normalize(distribution)
        return next((r for r in self.records if r.distribution == wanted), None)

    def declared(self, kind: str | None = None) -> list[Declared]:
        """All specs of a kind (of every kind if ``None``), by kind, name and distribution."""
        found = [
            Declared(spec, record.distribution)
            for record in self.records
            for spec in record.specs
            if kind is None or spec.kind == kind
        ]
        return sorted(found, key=lambda d: (KINDS.index(d.spec.kind), d.spec.name, d.distribution))

    def conflicts(self) -> dict[tuple[str, str], list[Declared]]:
        """(kind, name) -> the specs that share it, where several distributions declare one name."""
        by_name: dict[tuple[str, str], list[Declared]] = {}
        for declared in self.declared():
            for name in (declared.spec.name, *declared.spec.aliases):
                by_name.setdefault((declared.spec.kind, name), []).append(declared)
        return {key: found for key, found in by_name.items() if len(found) > 1}

    def find(self, kind: str, name: str, distribution: str | None = None) -> Declared:
        """Look a spec up by name or alias; ``name`` may be qualified as ``distribution::name``.

        Raises:
            AmbiguousNameError: Several distributions declare it; the hint lists qualified forms.
            NotFoundError: Nobody does; the hint offers the closest names.
            PluginError: The distribution asked for is installed and broken.
        """
        qualifier, separator, bare = name.rpartition("::")
        if separator:
            name, distribution = bare, qualifier
        wanted = normalize(distribution) if distribution else None
        candidates = self.declared(kind)
        found = [
            d
            for d in candidates
            if name in (d.spec.name, *d.spec.aliases) and wanted in (None, d.distribution)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            forms = " or ".join(f"{d.distribution}::{name}" for d in found)
            raise AmbiguousNameError(
                f"Several plugins declare the {kind} {name!r}", hint=f"Write {forms}"
            )
        record = self.record(wanted) if wanted else None
        if record is not None and record.broken:
            problem = next(p for p in record.problems if p.fatal)
            raise PluginError(f"{wanted} is broken: {problem.cause}", hint=problem.fix)
        if wanted and record is None:
            raise PluginError(f"{wanted} is not installed", hint=f"Run `pip install {wanted}`")
        suggestion = did_you_mean(name, {d.spec.name for d in candidates})
        raise NotFoundError(
            f"No installed plugin declares the {kind} {name!r}"
            + (f" in {wanted}" if wanted else ""),
            hint=suggestion or f"`kexue list --kind {kind}` shows those that are",
        )

    def spec_of(self, model: object) -> tuple[ModelSpec, str]:
        """The spec and distribution of a model instance, found by its class.

        Raises:
            NotFoundError: No installed plugin declares this class.
        """
        cls = type(model)
        path = f"{cls.__module__}:{cls.__qualname__}"
        for declared in self.declared("model"):
            spec = declared.spec
            if isinstance(spec, ModelSpec) and _names_class(spec.factory, cls, path):
                return spec, declared.distribution
        raise NotFoundError(
            f"No installed plugin declares a model with the class {path}",
            hint="Declare it in a plugin: a ModelSpec whose factory names this class",
        )


def _names_class(factory: str, cls: type, path: str) -> bool:
    """Whether an import string leads to ``cls``, perhaps by way of a re-export.

    Only modules that are loaded already are looked into: the class exists, so its module is.
    """
    if factory == path:
        return True
    module_name, _, attribute = factory.partition(":")
    return getattr(sys.modules.get(module_name), attribute, None) is cls


@functools.cache
def discover() -> Plugins:
    """Load every installed plugin, once a process.

    ``KEXUE_PLUGINS=a,b`` restricts to those distributions (and the core);
    ``KEXUE_STRICT_PLUGINS=1`` raises the first problem instead of recording it.
    """
    only = os.environ.get("KEXUE_PLUGINS")
    wanted = {normalize(n) for n in only.split(",") if n.strip()} | {"kexue"} if only else None
    strict = os.environ.get("KEXUE_STRICT_PLUGINS", "") not in ("", "0")
    by_distribution: dict[str, list[EntryPoint]] = {}
    for entry_point in entry_points(GROUP):
        name = entry_point.distribution
        if wanted is None or name in wanted:
            by_distribution.setdefault(name, []).append(entry_point)
    records = []
    for name, found in by_distribution.items():
        record, error = load_plugin(name, found)
        if strict and record.problems:
            problem = record.problems[0]
            raise PluginError(f"{name}: {problem.cause}", hint=problem.fix) from error
        records.append(record)
    return Plugins(records)
