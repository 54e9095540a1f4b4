"""``kexue rm``: remove what pulls placed."""

from __future__ import annotations

import click

from kexue_core.commands import _output
from kexue_core.commands._options import WeightsName, json_option, quiet_option
from kexue_core.commands._output import human_size

__all__ = ["command"]


@click.command(name="rm")
@click.argument("names", nargs=-1, required=True, type=WeightsName(), metavar="NAME...")
@click.option("--dry-run", is_flag=True, help="Say what would go, remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@quiet_option
def command(names: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool, quiet: bool) -> None:
    """Remove weights that were pulled: files, parts of broken-off transfers, conversions, pins.

    Files that another revision of the same repository uses stay, and so do folder mirrors.

    \b
    Examples:
      kexue rm glow-celeba --dry-run
      kexue rm -y glow-celeba hf:owner/repo
    """
    from kexue_core.hub.removal import plan_removal, remove

    plans = [plan_removal(name) for name in names]
    if not as_json and not quiet:
        for plan in plans:
            for line in plan.kept:
                _output.note(line)
            if not plan.paths and not plan.pins:
                _output.note(f"nothing of {plan.name} was pulled to this machine")
    some = [plan for plan in plans if plan.paths or plan.pins]
    if some and not dry_run and not yes:
        total = human_size(sum(plan.size for plan in some))
        click.confirm(
            f"Remove {', '.join(plan.name for plan in some)} ({total})?", abort=True, err=True
        )
    if not dry_run:
        plans = [remove(name) for name in names]
    if as_json:
        _output.json(plans)
    elif not quiet and some:
        _output.table(
            ("name", "path"), [(plan.name, path) for plan in plans for path in plan.paths]
        )
