"""What verbs ask about weights before anything is loaded: what they can do, and where they are."""

from __future__ import annotations

from pathlib import Path

from kexue_core.errors import NotFoundError, PluginError, UnsupportedError
from kexue_core.names import parse_reference
from kexue_core.plugins import discover
from kexue_core.registry import Registry, WeightsEntry, load_registry
from kexue_core.specs import ModelSpec

__all__ = [
    "broken_plugins",
    "mirror_trouble",
    "model_spec",
    "needs_install",
    "placed",
    "registry_trouble",
    "require_verb",
    "status_of",
    "verbs_of",
]


def verbs_of(entry: WeightsEntry) -> tuple[str, ...]:
    """What can be done with weights: as the registry says, or else as their model declares."""
    if entry.capabilities or entry.model is None:
        return entry.capabilities
    spec = model_spec(entry)
    return spec.verbs if spec else ()


def model_spec(entry: WeightsEntry) -> ModelSpec | None:
    """The spec of the model of weights, where its plugin is installed and whole."""
    if entry.model is None:
        return None
    try:
        spec = discover().find("model", entry.model, entry.plugin).spec
    except (NotFoundError, PluginError):
        return None
    return spec if isinstance(spec, ModelSpec) else None


def needs_install(entry: WeightsEntry) -> str | None:
    """The plugin that these weights want and that is missing or broken."""
    record = discover().record(entry.plugin)
    return entry.plugin if record is None or record.broken else None


def placed(entry: WeightsEntry) -> tuple[str, Path] | None:
    """``mirror`` or ``cached`` and the folder of an entry, if this machine has it.

    Nothing is read or verified: that is for ``verify`` and for the first use.
    """
    from kexue_core.hub.sources import find_placed

    try:
        found = find_placed(parse_reference(entry.qualified))
    except NotFoundError:  # KEXUE_MIRROR names something odd: `mirror_trouble` says so, once
        return None
    return ("mirror" if found.source == "mirror" else "cached", found.folder) if found else None


def mirror_trouble() -> str | None:
    """One line about folders that KEXUE_MIRROR names and that are no mirrors, or ``None``."""
    from kexue_core.hub.mirrors import folder_mirrors

    try:
        folder_mirrors(WeightsEntry(name="any", plugin="any"))
    except NotFoundError as error:
        return str(error)
    return None


def status_of(entry: WeightsEntry) -> str:
    """``mirror`` or ``cached`` (on this machine), ``remote`` (to be pulled), or ``unavailable``."""
    from kexue_core.hub.mirrors import url_mirrors

    if found := placed(entry):
        return found[0]
    return "remote" if entry.repo or url_mirrors(entry) else "unavailable"


def require_verb(name: str, verb: str) -> WeightsEntry | None:
    """Refuse a verb that weights cannot do, before anything heavy is imported.

    Returns:
        The registry's entry; ``None`` for ``file:`` and ``hf:`` references, of which nothing is
        known yet.

    Raises:
        UnsupportedError: The model does not declare the verb; the message says what it can do.
        NotFoundError, AmbiguousNameError: As for any name.
    """
    reference = parse_reference(name)
    if reference.kind != "name":
        return None
    entry = load_registry().find(reference)
    able = verbs_of(entry)
    if able and verb not in able:
        raise UnsupportedError(
            f"{entry.name} cannot {verb}: it can {', '.join(able)}",
            hint=f"`kexue list --capability {verb}` shows weights that can",
        )
    return entry


def broken_plugins() -> str | None:
    """One line about the broken plugins, or ``None``."""
    broken = [
        f"{record.distribution} ({next(p.cause for p in record.problems if p.fatal)})"
        for record in discover()
        if record.broken
    ]
    return _one_line(broken, "plugin is broken", "plugins are broken")


def registry_trouble(registry: Registry) -> str | None:
    """One line about the entries that the registries had to leave out, or ``None``."""
    left_out = [f"{problem.entry} ({problem.cause})" for problem in registry.problems]
    return _one_line(left_out, "registry entry is left out", "registry entries are left out")


def _one_line(items: list[str], one: str, many: str) -> str | None:
    if not items:
        return None
    shown = ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
    return f"{len(items)} {one if len(items) == 1 else many}: {shown}. Run `kexue doctor`"
