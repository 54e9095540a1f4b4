"""``kexue plugins``: what is installed."""

from __future__ import annotations

from typing import Any

import click

from kexue_core.commands import _output
from kexue_core.commands._options import json_option
from kexue_core.commands._output import Column
from kexue_core.commands._weights import broken_plugins
from kexue_core.plugins import PluginRecord, discover
from kexue_core.specs import KINDS

__all__ = ["command", "plugins_rows"]

COLUMNS = (
    Column("plugin", least=10),
    Column("version"),
    Column("module", least=10, drop=5),
    *(Column(f"{'losse' if kind == 'loss' else kind}s", "right", drop=4) for kind in KINDS),
    Column("state"),
    Column("problem", least=20),
)


def plugins_rows() -> list[dict[str, Any]]:
    """One mapping an installed plugin, the core's own included."""
    return [
        {
            "plugin": record.distribution,
            "version": record.version,
            "module": record.module,
            **{
                f"{'losse' if kind == 'loss' else kind}s": sum(s.kind == kind for s in record.specs)
                for kind in KINDS
            },
            "state": _state(record),
            "problem": record.problems[0].cause if record.problems else None,
        }
        for record in discover()
    ]


def _state(record: PluginRecord) -> str:
    if record.broken:
        return "broken"
    return "warning" if record.problems else "ok"


@click.command(name="plugins")
@click.option("--requirements", is_flag=True, help="Print name==version lines for pip.")
@json_option
def command(*, requirements: bool, as_json: bool) -> None:
    """List the installed plugins: version, module, what each declares, its state.

    \b
    Examples:
      kexue plugins
      kexue plugins --requirements > requirements.txt
      kexue plugins --json
    """
    if requirements and as_json:
        raise click.UsageError("Choose one of --requirements and --json")
    rows = plugins_rows()
    if requirements:
        for row in rows:
            if row["version"] != "?":
                click.echo(f"{row['plugin']}=={row['version']}")
    elif as_json:
        _output.json(rows)
    else:
        _output.table(COLUMNS, [[row[c.name] for c in COLUMNS] for row in rows])
    if line := broken_plugins():
        _output.note(line)
