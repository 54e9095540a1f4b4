"""What verbs ask about weights before anything is loaded: what they can do, and where they are."""

from __future__ import annotations

from pathlib import Path

from kexue_core.catalogue import info, require_plugin
from kexue_core.errors import NotFoundError, UnsupportedError
from kexue_core.names import parse_reference
from kexue_core.plugins import discover
from kexue_core.registry import Registry, WeightsEntry, load_registry
from kexue_core.specs import ModelSpec

__all__ = [
    "broken_plugins",
    "mirror_trouble",
    "placed",
    "registry_trouble",
    "require_verb",
    "status_of",
]


def require_verb(name: str, verb: str) -> None:
    """Refuse a verb that weights cannot do, or whose plugin is missing, before torch is imported.

    Of ``hf:`` references nothing is known yet; they pass.

    Raises:
        UnsupportedError: The model does not declare the verb; the message says what it can do.
        PluginError: The plugin is missing or broken; the hint says what to run.
        NotFoundError, AmbiguousNameError: As for any name.
    """
    reference = parse_reference(name)
    if reference.kind == "hf":
        return
    if reference.kind == "name":
        found = info(name)
        plugin, able = found.entry.plugin, found.verbs
    else:
        from kexue_core.folder import WeightsConfig

        config = WeightsConfig.read(Path(reference.target).expanduser())
        require_plugin(config.plugin, f"{name} needs")
        spec = discover().find("model", config.model, config.plugin).spec
        plugin, able = config.plugin, spec.verbs if isinstance(spec, ModelSpec) else ()
    # What the registry says of a plugin that is not installed is still worth saying first.
    if able and verb not in able:
        raise UnsupportedError(
            f"{name} cannot {verb}: it can {', '.join(able)}",
            hint=f"`kexue list --capability {verb}` shows weights that can",
        )
    require_plugin(plugin, f"{name} needs")
    if not able:
        raise UnsupportedError(
            f"{name} cannot {verb}: its model declares no capability",
            hint=f"`kexue list --capability {verb}` shows weights that can",
        )


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


def status_of(entry: WeightsEntry) -> str:
    """``mirror`` or ``cached`` (on this machine), ``remote`` (to be pulled), or ``unavailable``."""
    from kexue_core.hub.mirrors import url_mirrors

    if found := placed(entry):
        return found[0]
    return "remote" if entry.repo or url_mirrors(entry) else "unavailable"


def mirror_trouble() -> str | None:
    """One line about folders that KEXUE_MIRROR names and that are no mirrors, or ``None``."""
    from kexue_core.hub.mirrors import folder_mirrors

    try:
        folder_mirrors(WeightsEntry(name="any", plugin="any"))
    except NotFoundError as error:
        return str(error)
    return None


def broken_plugins() -> str | None:
    """One line about the plugins that are broken or slow, or ``None``."""
    broken = [
        f"{record.distribution} ({problem.cause})"
        for record in discover()
        for problem in record.problems[:1]
    ]
    return _one_line(broken, "plugin has a problem", "plugins have problems")


def registry_trouble(registry: Registry | None = None) -> str | None:
    """One line about the entries that the registries had to leave out, or ``None``."""
    problems = (registry or load_registry()).problems
    left_out = [f"{problem.entry} ({problem.cause})" for problem in problems]
    return _one_line(left_out, "registry entry is left out", "registry entries are left out")


def _one_line(items: list[str], one: str, many: str) -> str | None:
    if not items:
        return None
    shown = ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
    return f"{len(items)} {one if len(items) == 1 else many}: {shown}. Run `kexue doctor`"
