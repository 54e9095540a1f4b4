"""``kexue doctor``: what is broken here, and how to mend it."""

from __future__ import annotations

import click

from kexue_core.commands import _output
from kexue_core.commands._health import SECTIONS, examine
from kexue_core.commands._options import json_option, quiet_option
from kexue_core.commands._output import Column

__all__ = ["command"]

COLUMNS = (
    Column("section", drop=1),
    Column("name", least=12),
    Column("state"),
    Column("detail", least=16),
    Column("fix", least=16),
)


@click.command(name="doctor")
@click.argument("sections", nargs=-1, type=click.Choice(SECTIONS), metavar="[SECTION]...")
@json_option
@quiet_option
def command(*, sections: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Say what is installed, what of it is broken, and how to mend it.

    Versions, devices (asked in a child process), plugins and conflicts between them, third parties'
    verbs, registries, mirrors, cache; or only the SECTIONs named. With -q only what is not in
    order. Exit code 1 if anything is broken; warnings alone do not count.

    \b
    Examples:
      kexue doctor
      kexue doctor -q plugins registry
      kexue doctor --json
    """
    checks = list(examine(sections or SECTIONS))
    broken = sum(check.state == "broken" for check in checks)
    if quiet:
        checks = [check for check in checks if check.state != "ok"]
    if as_json:
        _output.json([check._asdict() for check in checks])
    elif checks:
        _output.table(COLUMNS, checks)
    if broken:
        _output.note(f"{broken} {'thing is' if broken == 1 else 'things are'} broken")
        click.get_current_context().exit(1)
    if not quiet:
        _output.note("nothing is broken")
