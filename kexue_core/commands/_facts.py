"""Everything that is known of one name, as plain values: what ``kexue show`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kexue_core.catalogue import find_spec, info
from kexue_core.commands import _output
from kexue_core.commands._weights import placed, status_of
from kexue_core.errors import AmbiguousNameError, KexueError, NotFoundError, VerificationError
from kexue_core.names import did_you_mean, normalize, parse_reference
from kexue_core.plugins import Declared, discover
from kexue_core.registry import WeightsEntry, load_registry
from kexue_core.specs import KINDS, ModelSpec, SamplerSpec

__all__ = ["describe", "folder_facts", "plugin_facts", "spec_facts", "weights_facts"]


def describe(name: str, kind: str | None = None) -> dict[str, Any]:
    """What is known of a name: of weights, or else of a spec, or else of a plugin.

    Raises:
        AmbiguousNameError: Several are meant; the hint lists unambiguous forms.
        NotFoundError: Nothing has the name; the hint offers the closest.
        PluginError: What has it is not installed.
    """
    if kind == "plugin":
        return plugin_facts(name)
    if kind in KINDS:
        return spec_facts(find_spec(kind, name))
    reference = parse_reference(name)
    if reference.kind == "file":
        return folder_facts(Path(reference.target).expanduser())
    if reference.kind == "hf":
        for entry in load_registry().weights:
            if entry.repo == reference.target:
                return weights_facts(entry)
        raise NotFoundError(
            f"{name} is in no registry, so nothing is known of it before it is here",
            hint=f"Run `kexue pull {name}`",
        )
    try:
        return weights_facts(load_registry().find(reference))
    except NotFoundError:
        if kind == "weights":
            raise
    return _describe_other(reference.target, reference.distribution)


def _describe_other(name: str, distribution: str | None) -> dict[str, Any]:
    plugins = discover()
    found = [
        d
        for d in plugins.declared()
        if name in (d.spec.name, *d.spec.aliases) and distribution in (None, d.distribution)
    ]
    if len(found) == 1:
        return spec_facts(found[0])
    if found:
        forms = [f"--kind {d.spec.kind} {d.distribution}::{name}" for d in found]
        raise AmbiguousNameError(
            f"{name!r} may be "
            + " or ".join(f"the {d.spec.kind} of {d.distribution}" for d in found),
            hint=f"Write kexue show {' or '.join(forms)}",
        )
    if distribution is None and (plugins.record(name) or name in load_registry().plugins):
        return plugin_facts(name)
    try:
        find_spec("model", f"{distribution}::{name}" if distribution else name)
    except NotFoundError:
        known = {entry.name for entry in load_registry().weights}
        known |= {d.spec.name for d in plugins.declared()} | set(load_registry().plugins)
        raise NotFoundError(
            f"Nothing is named {name!r}",
            hint=did_you_mean(name, known) or "`kexue list` shows all weights",
        ) from None
    raise AssertionError("a model that is declared was found above")


def weights_facts(entry: WeightsEntry) -> dict[str, Any]:
    """What the registry, the plugin and the folder on this machine say of weights."""
    known = info(entry.qualified)
    here = placed(entry)
    facts: dict[str, Any] = {
        "kind": "weights",
        "name": entry.name,
        "qualified": entry.qualified,
        "summary": entry.summary,
        "plugin": entry.plugin,
        "installed": known.installed,
        "model": entry.model,
        "verbs": known.verbs,
        "license": entry.license,
        "dataset": entry.dataset,
        "size": entry.size,
        "status": status_of(entry),
        "published": entry.status,
        "repo": entry.repo,
        "revision": entry.revision,
        "folder": here[1] if here else None,
        "mirrors": entry.mirrors,
        "adapter": entry.adapter,
        "requires": entry.requires,
        "parts": entry.parts,
        "aliases": entry.aliases,
        "deprecated": entry.deprecated,
        "files": {name: {"size": f.size, "sha256": f.sha256} for name, f in entry.files.items()},
        "results": entry.results,
        "registry": entry.origin,
    }
    if here:
        facts |= _config_facts(here[1], entry, known.spec)
    return facts


def folder_facts(folder: Path) -> dict[str, Any]:
    """What a folder of weights of the user's own says of itself."""
    from kexue_core.folder import WeightsConfig

    config = WeightsConfig.read(folder)
    spec = _model(config.plugin, config.model)
    return {
        "kind": "folder",
        "name": f"file:{folder}",
        "plugin": config.plugin,
        "model": config.model,
        "verbs": spec.verbs if spec else (),
        "requires": config.requires,
        **_config_facts(folder, None, spec),
    }


def _model(plugin: str, model: str) -> ModelSpec | None:
    try:
        spec = discover().find("model", model, plugin).spec
    except KexueError:
        return None
    return spec if isinstance(spec, ModelSpec) else None


def _config_facts(
    folder: Path, entry: WeightsEntry | None, spec: ModelSpec | None
) -> dict[str, Any]:
    """config, preprocess and sampler of a folder, whose config.json is verified first."""
    from kexue_core.folder import CONFIG_FILE, WeightsConfig

    try:
        if entry is not None and CONFIG_FILE in entry.files:
            from kexue_core.hub.receipts import check_file

            check_file(folder / CONFIG_FILE, entry.files[CONFIG_FILE], name=entry.name)
        config = WeightsConfig.read(folder)
    except VerificationError as error:
        _output.note(str(error))
        return {}
    facts: dict[str, Any] = {"config": config.config, "preprocess": config.preprocess}
    if spec is not None:
        from kexue_core.sampling import choose_sampler

        try:
            sampler = choose_sampler(
                config.sampler.name if config.sampler else None, spec, config.plugin
            )
        except KexueError:  # nothing to draw with: a text encoder, say
            return facts
        own = config.sampler.options if config.sampler else {}
        facts["sampler"] = {"name": sampler.name, "options": _options(sampler, own)}
    return facts


def _options(sampler: SamplerSpec, own: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> default and help; the weights' own settings come before the sampler's defaults."""
    return {
        name: {"default": own.get(name, option.default), "help": option.help}
        for name, option in sampler.options.items()
    }


def spec_facts(declared: Declared) -> dict[str, Any]:
    """What a plugin declares of a model, loss, sampler, recipe or adapter."""
    spec = declared.spec
    facts: dict[str, Any] = {
        "kind": spec.kind,
        "name": spec.name,
        "qualified": declared.qualified,
        "summary": spec.summary,
        "plugin": declared.distribution,
        "post": spec.post and f"https://kexue.fm/archives/{spec.post}",
        "papers": [f"https://arxiv.org/abs/{paper}" for paper in spec.papers],
        "aliases": spec.aliases,
        "deprecated": spec.deprecated,
        "factory": spec.factory,
    }
    for field in (
        "config",
        "capabilities",
        "verbs",
        "example",
        "needs",
        "model",
        "data",
        "formats",
    ):
        if hasattr(spec, field):
            facts[field] = getattr(spec, field)
    if isinstance(spec, SamplerSpec):
        facts["sampler"] = {"name": spec.name, "options": _options(spec, {})}
    if isinstance(spec, ModelSpec):
        facts["recipes"] = [
            d.spec.name
            for d in discover().declared("recipe")
            if d.distribution == declared.distribution and getattr(d.spec, "model", "") == spec.name
        ]
        facts["weights"] = [
            entry.name
            for entry in load_registry().weights
            if not entry.deprecated
            and entry.model in (spec.name, *spec.aliases)
            and normalize(entry.plugin) == declared.distribution
        ]
    return facts


def plugin_facts(name: str) -> dict[str, Any]:
    """What is known of a plugin, installed or not.

    Raises:
        NotFoundError: It is neither installed nor in the registry.
    """
    record, entry = discover().record(name), load_registry().plugins.get(normalize(name))
    if record is None and entry is None:
        known = {*load_registry().plugins, *(r.distribution for r in discover())}
        raise NotFoundError(
            f"No plugin is named {name!r}",
            hint=did_you_mean(name, known) or "`kexue list --kind plugin` shows all",
        )
    return {
        "kind": "plugin",
        "name": normalize(name),
        "summary": entry.summary if entry else "",
        "requires": entry.requires if entry else None,
        "installed": record is not None,
        "version": record.version if record else None,
        "module": record.module if record else None,
        "problems": [f"{p.cause}. {p.fix}" for p in record.problems] if record else [],
        "specs": [
            {"kind": s.kind, "name": s.name, "summary": s.summary}
            for s in (record.specs if record else ())
            if not s.deprecated
        ],
        "weights": [
            w.name
            for w in load_registry().weights
            if not w.deprecated and normalize(w.plugin) == normalize(name)
        ],
    }
