"""``kexue uninstall``: remove plugins from the environment that kexue runs in."""

from __future__ import annotations

import click

from kexue_core.commands import _output
from kexue_core.commands._pip import command_line, run_pip
from kexue_core.distributions import entry_points
from kexue_core.errors import KexueError, NotFoundError
from kexue_core.names import did_you_mean, normalize

__all__ = ["command", "installed"]

#: The entry-point groups that make a distribution a plugin; it may have no part in the first.
GROUPS = ("kexue", "kexue.commands", "kexue.experiments", "kexue.metrics")


@click.command("uninstall")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Print the command instead of running it.")
def command(*, names: tuple[str, ...], yes: bool, dry_run: bool) -> None:
    """Remove installed plugins with pip, broken ones too. Pulled weights stay: see kexue rm.

    \b
    Examples:
      kexue uninstall kexue-flow
      kexue uninstall flow --yes
    """
    wanted = list(dict.fromkeys(installed(name) for name in names))
    arguments = ["uninstall", "--yes", *wanted]
    if dry_run:
        click.echo(command_line(arguments))
        return
    if not yes:
        click.confirm(f"Remove {', '.join(wanted)}?", abort=True, err=True)
    run_pip(arguments)
    _output.note(f"removed {', '.join(wanted)}")


def installed(name: str) -> str:
    """The distribution of an installed plugin, found by its metadata: nothing of it is imported.

    Raises:
        KexueError: It is kexue itself.
        NotFoundError: No installed plugin has that name.
    """
    known = normalize(name)
    if known == "kexue":
        raise KexueError("kexue does not remove itself", hint="Run `pip uninstall kexue`")
    distributions = {entry.distribution for group in GROUPS for entry in entry_points(group)}
    distributions -= {"kexue"}
    for candidate in (known, f"kexue-{known}"):
        if candidate in distributions:
            return candidate
    raise NotFoundError(
        f"No installed plugin is named {name!r}",
        hint=did_you_mean(known, distributions) or "`kexue plugins` lists them",
    )
