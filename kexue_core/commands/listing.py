"""``kexue list``: what there is, installed or not."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Any

import click

from kexue_core.catalogue import info, list_weights
from kexue_core.commands import _output
from kexue_core.commands._options import json_option
from kexue_core.commands._output import Column
from kexue_core.commands._weights import (
    broken_plugins,
    mirror_trouble,
    registry_trouble,
    status_of,
)
from kexue_core.names import did_you_mean
from kexue_core.plugins import Declared, discover
from kexue_core.registry import load_registry
from kexue_core.specs import (
    KINDS,
    VERBS,
    AdapterSpec,
    ModelSpec,
    RecipeSpec,
    SamplerSpec,
)

__all__ = ["command", "plugin_rows", "spec_rows", "weights_rows"]

_PLUGIN = Column("plugin", least=8, drop=3)
_SUMMARY = Column("summary", least=16, drop=1)
_VERBS = Column("verbs", least=11, drop=2)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "weights": (
        Column("name"),
        Column("plugin", drop=6),
        Column("model", drop=5),
        Column("verbs", least=11, drop=2),
        Column("size", align="right", drop=3),
        Column("license", least=12, drop=1),  # terms are the last thing to leave out
        Column("status"),
        Column("needs", least=8, drop=4),
    ),
    "model": (Column("name", least=10), _PLUGIN, _VERBS, Column("post", drop=4), _SUMMARY),
    "loss": (Column("name", least=10), _PLUGIN, Column("post", drop=4), _SUMMARY),
    "sampler": (
        Column("name", least=10),
        _PLUGIN,
        Column("needs", least=8, drop=2),
        Column("options", least=10, drop=5),
        _SUMMARY,
    ),
    "recipe": (
        Column("name", least=10),
        _PLUGIN,
        Column("model", drop=4),
        Column("data", least=8, drop=2),
        _SUMMARY,
    ),
    "adapter": (
        Column("name", least=10),
        _PLUGIN,
        Column("model", drop=4),
        Column("formats", least=8, drop=2),
        _SUMMARY,
    ),
    "plugin": (
        Column("name", least=10),
        Column("version"),
        Column("state"),
        Column("requires", least=10, drop=2),
        _SUMMARY,
    ),
}


def weights_rows(
    pattern: str | None = None,
    *,
    capability: str | None = None,
    license: str | None = None,
    installed: bool = False,
) -> list[dict[str, Any]]:
    """One mapping an entry of the registries, without the deprecated ones."""
    rows = []
    for entry in list_weights(
        pattern, capability=capability, license=license, installed=installed or None
    ):
        known = info(entry.qualified)
        rows.append(
            {
                "name": entry.name,
                "plugin": entry.plugin,
                "model": entry.model,
                "verbs": known.verbs,
                "size": entry.size,
                "license": entry.license,
                "status": status_of(entry),
                "needs": None if known.installed else entry.plugin,
                "summary": entry.summary,
            }
        )
    return rows


def spec_rows(kind: str) -> list[dict[str, Any]]:
    """One mapping a model, loss, sampler, recipe or adapter of the installed plugins."""
    return [_spec_row(d) for d in discover().declared(kind) if not d.spec.deprecated]


def _spec_row(declared: Declared) -> dict[str, Any]:
    spec = declared.spec
    row: dict[str, Any] = {
        "name": spec.name,
        "plugin": declared.distribution,
        "post": spec.post,
        "summary": spec.summary,
    }
    if isinstance(spec, ModelSpec):
        row["verbs"] = spec.verbs
    elif isinstance(spec, SamplerSpec):
        row |= {"needs": spec.needs, "options": tuple(spec.options)}
    elif isinstance(spec, RecipeSpec):
        row |= {"model": spec.model, "data": spec.data}
    elif isinstance(spec, AdapterSpec):
        row |= {"model": spec.model, "formats": spec.formats}
    return row


def plugin_rows() -> list[dict[str, Any]]:
    """One mapping a plugin, installed or known to the registry."""
    entries = load_registry().plugins
    rows = []
    for name in sorted({*entries, *(record.distribution for record in discover())}):
        record, entry = discover().record(name), entries.get(name)
        state = "not installed" if record is None else "broken" if record.broken else "installed"
        rows.append(
            {
                "name": name,
                "version": record.version if record else None,
                "state": state,
                "requires": entry.requires if entry else name,
                "summary": entry.summary if entry else "",
            }
        )
    return rows


def _matches(row: dict[str, Any], pattern: str) -> bool:
    """As :func:`kexue_core.catalogue.list_weights` matches, for what is no weights."""
    if any(c in pattern for c in "*?["):
        return fnmatch.fnmatchcase(row["name"], pattern.lower())
    words = (row["name"], row.get("plugin", ""), row.get("model") or "", row["summary"])
    return any(pattern.casefold() in word.casefold() for word in words)


def _display(rows: Iterable[dict[str, Any]], kind: str) -> list[list[object]]:
    """Cells of a table; sizes as people read them where people read."""
    return [
        [
            _output.size(row["size"]) if column.name == "size" else row.get(column.name)
            for column in COLUMNS[kind]
        ]
        for row in rows
    ]


@click.command(name="list")
@click.argument("pattern", required=False)
@click.option(
    "--kind",
    type=click.Choice(["weights", *KINDS, "plugin"]),
    default="weights",
    show_default=True,
    help="What to list.",
)
@click.option("--capability", type=click.Choice(VERBS), help="Only what can do this.")
@click.option("--license", "license_", metavar="TEXT", help="Only licences that contain TEXT.")
@click.option("--installed", is_flag=True, help="Only what the installed plugins can use.")
@json_option
def command(
    *,
    pattern: str | None,
    kind: str,
    capability: str | None,
    license_: str | None,
    installed: bool,
    as_json: bool,
) -> None:
    """List weights, or the models, losses, samplers, recipes, adapters and plugins.

    PATTERN is a glob over names, or text of a name, plugin, model or summary. Deprecated entries
    are hidden. Status: `mirror` and `cached` are on this machine, `remote` is to be pulled,
    `unavailable` is served nowhere yet; `needs` names the plugin to install.

    \b
    Examples:
      kexue list
      kexue list glow --capability sample
      kexue list --kind model --json
      kexue list | cut -f1
    """
    if capability and kind not in ("weights", "model"):
        raise click.UsageError("--capability is for weights and models")
    if license_ and kind != "weights":
        raise click.UsageError("--license is for weights")
    if kind == "weights":
        rows = weights_rows(pattern, capability=capability, license=license_, installed=installed)
    else:
        rows = [
            row
            for row in _all(kind)
            if (pattern is None or _matches(row, pattern))
            and (capability is None or capability in row["verbs"])
            and not (installed and row.get("state", "installed") != "installed")
        ]
    if as_json:
        _output.json(rows)
    else:
        if rows or not _output.on_terminal():
            _output.table(COLUMNS[kind], _display(rows, kind))
        if not rows:
            _output.note(_nothing(kind, pattern))
    for line in (broken_plugins(), registry_trouble(), mirror_trouble()):
        if line:
            _output.note(line)


def _nothing(kind: str, pattern: str | None) -> str:
    things = {"weights": "weights", "loss": "losses"}.get(kind, f"{kind}s")
    known = [r["name"] for r in _all(kind)]
    if not known:
        return f"no {things} are known here"
    hint = did_you_mean(pattern, known) if pattern else None
    return f"no {things} match. {hint or f'There are {len(known)} without the filter'}"


def _all(kind: str) -> list[dict[str, Any]]:
    if kind == "weights":
        return weights_rows()
    return plugin_rows() if kind == "plugin" else spec_rows(kind)
