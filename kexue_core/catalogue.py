"""What exists and what of it works here: weights, and the plugins that they need. No torch."""

from __future__ import annotations

import fnmatch
import warnings
from dataclasses import dataclass

from kexue_core.errors import ConfigError, NotFoundError, PluginError
from kexue_core.names import did_you_mean, parse_reference
from kexue_core.plugins import Declared, PluginRecord, discover
from kexue_core.registry import PluginEntry, WeightsEntry, load_registry
from kexue_core.specs import VERBS, ModelSpec

__all__ = ["Info", "find_spec", "info", "list_weights", "require_plugin", "warn_deprecated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What is known of weights without loading them.

    Attributes:
        entry: What the registry says.
        plugin: What the registry says of their plugin; ``None`` where it does not name it.
        installed: Whether that plugin is installed and works.
        spec: The declaration of their model, where it is.
        verbs: What can be done with them.
    """

    entry: WeightsEntry
    plugin: PluginEntry | None
    installed: bool
    spec: ModelSpec | None
    verbs: tuple[str, ...]


def list_weights(
    pattern: str | None = None,
    *,
    capability: str | None = None,
    license: str | None = None,
    installed: bool | None = None,
) -> list[WeightsEntry]:
    """The weights that exist, by name; deprecated ones are left out.

    Args:
        pattern: A glob over names (``"glow-*"``), or text in a name, plugin, model or summary.
        capability: A verb that they must be able to do, such as ``"sample"``.
        license: Text that their licence must contain.
        installed: ``True`` for those whose plugin is installed and works, ``False`` for the others.

    Raises:
        ConfigError: ``capability`` is no verb.
        RegistryError: The registry cannot be read.
    """
    if capability is not None and capability not in VERBS:
        raise ConfigError(
            f"{capability!r} is no capability",
            hint=did_you_mean(capability, VERBS) or f"Choose from {', '.join(VERBS)}",
        )
    return [
        entry
        for entry in load_registry().weights
        if not entry.deprecated
        and (pattern is None or _matches(entry, pattern))
        and (capability is None or capability in _verbs(entry, _spec(entry)))
        and (license is None or license.casefold() in entry.license.casefold())
        and (installed is None or _works(_record(entry.plugin)) == installed)
    ]


def info(name: str) -> Info:
    """What is known of weights: licence, data, files, results, plugin, what can be done with them.

    Raises:
        InvalidReferenceError: ``name`` is no name; of a folder see ``WeightsConfig.read``.
        NotFoundError: No weights have it.
        AmbiguousNameError: Weights of several plugins have it.
    """
    parsed = parse_reference(name)
    if parsed.kind != "name":
        raise NotFoundError(
            f"{name} is in no registry", hint="Name weights that `kexue list` shows"
        )
    entry = load_registry().find(parsed)
    spec = _spec(entry)
    return Info(
        entry=entry,
        plugin=load_registry().plugins.get(entry.plugin),
        installed=_works(_record(entry.plugin)),
        spec=spec,
        verbs=_verbs(entry, spec),
    )


def find_spec(kind: str, name: str) -> Declared:
    """Look a component up; where it is not installed, say which plugin to install.

    Raises:
        NotFoundError: Nobody declares it.
        AmbiguousNameError: Several plugins declare it.
        PluginError: Its plugin is missing or broken.
    """
    qualifier, _, bare = name.rpartition("::")
    if qualifier:
        require_plugin(qualifier, f"{name} needs")
    try:
        return discover().find(kind, name)
    except NotFoundError as error:
        if kind == "model":
            for entry in load_registry().weights:
                if entry.model == bare:
                    require_plugin(entry.plugin, f"The model {bare} needs")
        missing = [p for p in load_registry().plugins if _record(p) is None]
        if missing and not (error.hint or "").startswith("Did you mean"):
            raise NotFoundError(
                error.message, hint=f"Not installed: {', '.join(map(_install, missing))}"
            ) from None
        raise


def require_plugin(distribution: str, who: str) -> None:
    """Make sure that a distribution is an installed plugin that works.

    Args:
        distribution: Its name.
        who: Begins the message: ``"glow-celeba needs"``.

    Raises:
        PluginError: It is missing or broken; the hint says what to run.
    """
    record = _record(distribution)
    if record is None:
        raise PluginError(
            f"{who} the plugin {distribution}, which is not installed",
            hint=f"Run `{_install(distribution)}`",
        )
    for problem in record.problems:
        if problem.fatal:
            raise PluginError(
                f"{who} the plugin {distribution}, which is broken: {problem.cause}",
                hint=problem.fix,
            )


def _install(distribution: str) -> str:
    """The command that installs a plugin, from the registry's section of plugins."""
    entry = load_registry().plugins.get(distribution)
    # A requirement with a URL is the only way to get what is on no index.
    direct = entry is not None and "@" in entry.requires
    return f"pip install '{entry.requires}'" if entry and direct else f"pip install {distribution}"


def _record(distribution: str) -> PluginRecord | None:
    return discover().record(distribution)


def _works(record: PluginRecord | None) -> bool:
    return record is not None and not record.broken


def _spec(entry: WeightsEntry) -> ModelSpec | None:
    """The declaration of an entry's model, where its plugin works."""
    if entry.model is None or not _works(_record(entry.plugin)):
        return None
    try:
        spec = discover().find("model", entry.model, entry.plugin).spec
    except NotFoundError:
        return None
    return spec if isinstance(spec, ModelSpec) else None


def _verbs(entry: WeightsEntry, spec: ModelSpec | None) -> tuple[str, ...]:
    return entry.capabilities or (spec.verbs if spec else ())


def _matches(entry: WeightsEntry, pattern: str) -> bool:
    if any(c in pattern for c in "*?["):
        return fnmatch.fnmatchcase(entry.name, pattern.lower())
    words = (entry.name, entry.plugin, entry.model or "", entry.summary)
    return any(pattern.casefold() in word.casefold() for word in words)


def warn_deprecated(what: str, instead: str | None, *, stacklevel: int) -> None:
    """Warn that something is deprecated, if ``instead`` says what to use; shown by default."""
    if instead:
        warnings.warn(f"{what} is deprecated: {instead}", FutureWarning, stacklevel=stacklevel + 1)
