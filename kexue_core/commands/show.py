"""``kexue show``: everything that is known of one name."""

from __future__ import annotations

from typing import Any

import click

from kexue_core.commands import _output
from kexue_core.commands._facts import describe
from kexue_core.commands._options import WeightsName, json_option
from kexue_core.commands._output import Column
from kexue_core.commands._weights import broken_plugins, registry_trouble
from kexue_core.specs import KINDS

__all__ = ["command"]

RESULTS = (
    Column("metric"),
    Column("value", align="right"),
    Column("floor", align="right"),
    Column("dataset", least=8),
    Column("split", drop=2),
    Column("n", align="right", drop=1),
    Column("seed", align="right", drop=3),
    Column("conditions", least=10, drop=4),
)
#: Shown where any result has them: what real data get in place of samples; and how samples were
#: drawn and whose features were compared.
SOMETIMES = [column for column in RESULTS if column.name in ("floor", "conditions")]
FILES = (Column("file", least=12), Column("size", align="right"), Column("sha256", least=12))
OPTIONS = (Column("option"), Column("default", align="right"), Column("help", least=20))
SPECS = (Column("kind"), Column("name", least=10), Column("summary", least=16, drop=1))


_TABLES = ("kind", "files", "results", "sampler", "specs", "size")


def _print(facts: dict[str, Any]) -> None:
    shown = [(key, _text(value)) for key, value in facts.items() if key not in _TABLES]
    place = next((i for i, (key, _) in enumerate(shown) if key == "status"), len(shown))
    if facts.get("size") is not None:
        shown.insert(place, ("size", _output.size(facts["size"])))
    _output.facts([("kind", facts["kind"]), *shown])
    if files := facts.get("files"):
        rows = [
            # Twelve digits name a file as well as they are read; --json has all 64.
            (
                name,
                _output.size(file["size"]),
                file["sha256"][: 12 if _output.on_terminal() else 64],
            )
            for name, file in files.items()
        ]
        _output.section("Files")
        _output.table(FILES, rows)
    if results := facts.get("results"):
        _output.section("Results")
        from kexue_core.training.records import conditions

        told = [
            {**r, "conditions": conditions(r.get("settings") or {}, digits=12) or None}
            for r in results
        ]
        columns = [
            c for c in RESULTS if c not in SOMETIMES or any(r.get(c.name) is not None for r in told)
        ]
        _output.table(columns, [[r.get(c.name) for c in columns] for r in told])
    if sampler := facts.get("sampler"):
        _output.section(f"Options of the sampler {sampler['name']}")
        rows = [(k, str(o["default"]), o["help"]) for k, o in sampler["options"].items()]
        _output.table(OPTIONS, rows)
    if specs := facts.get("specs"):
        _output.section("Declares")
        _output.table(SPECS, [[spec[c.name] for c in SPECS] for spec in specs])
    if _output.on_terminal() and (hints := _next_steps(facts)):
        _output.section("Next")
        for hint in hints:
            click.echo(f"  {hint}")


def _text(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(inner)}" for key, inner in value.items())
    return value


def _next_steps(facts: dict[str, Any]) -> list[str]:
    """Commands that make sense now."""
    name = facts["name"]
    if facts["kind"] in ("weights", "folder"):
        steps = []
        if not facts.get("installed", True):
            steps.append(f"pip install {facts['plugin']}")
        if facts.get("status") == "remote":
            steps.append(f"kexue pull {name}")
        if facts.get("status") == "unavailable":
            return steps
        return steps + [f"kexue {verb} {name}" for verb in facts["verbs"]]
    if facts["kind"] == "plugin" and not facts["installed"]:
        return [f"pip install {name}"]
    if facts["kind"] == "recipe":
        return [f"kexue train {name}"]
    return [f"kexue show {weights}" for weights in facts.get("weights", [])]


@click.command(name="show")
@click.argument("name", type=WeightsName(), metavar="NAME")
@click.option("--kind", type=click.Choice(["weights", *KINDS, "plugin"]), help="What NAME is.")
@json_option
def command(name: str, kind: str | None, as_json: bool) -> None:
    """Show everything known of the weights NAME; or of a model, loss, sampler, recipe, plugin.

    Licence, data, files with hashes, results with split and seed, options of the sampler, where the
    files are. Nothing is downloaded.

    \b
    Examples:
      kexue show glow-celeba
      kexue show --kind model glow
      kexue show file:runs/glow/weights
      kexue show glow-celeba --json
    """
    facts = describe(name, kind)
    if as_json:
        _output.json(facts)
    else:
        _print(facts)
    for line in (broken_plugins(), registry_trouble()):
        if line:
            _output.note(line)
