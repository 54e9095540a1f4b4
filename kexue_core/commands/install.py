"""``kexue install``: plugins by name, into the environment that kexue runs in."""

from __future__ import annotations

import re
from pathlib import Path

import click

from kexue_core.commands import _output
from kexue_core.commands._pip import command_line, run_pip
from kexue_core.errors import KexueError, NotFoundError
from kexue_core.names import did_you_mean, normalize
from kexue_core.registry import load_registry

__all__ = ["command", "requirement"]


@click.command("install")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("-U", "--upgrade", is_flag=True, help="Take the newest version that fits.")
@click.option("--dry-run", is_flag=True, help="Print the command instead of running it.")
def command(*, names: tuple[str, ...], upgrade: bool, dry_run: bool) -> None:
    """Install plugins with pip.

    NAME is a plugin of the registry (flow, kexue-flow), weights (their plugin is installed), or
    what pip takes: a folder, a wheel, a requirement with a version such as some-plugin>=1.

    \b
    Examples:
      kexue install kexue-flow
      kexue install glow-celeba
      kexue install ./my-plugin
      kexue install 'their-plugin>=1.0' --dry-run
    """
    wanted = list(dict.fromkeys(requirement(name) for name in names))
    arguments = ["install", *(["--upgrade"] if upgrade else []), *wanted]
    if dry_run:
        click.echo(command_line(arguments))
        return
    run_pip(arguments)
    _output.note("installed; `kexue plugins` lists what is there now")


def requirement(name: str) -> str:
    """What to tell pip for a plugin, weights, path or requirement.

    A bare name that the registry does not know is refused: whatever has that name on the package
    index need be no plugin, and its setup would run. A folder is written as a path: pip looks for
    a bare name on the index even where there is a folder of that name.

    Raises:
        NotFoundError: No plugin or weights have that name.
    """
    folder, bracket, extras = name.partition("[")  # folder[extra]
    if not re.match(r"\.|.*[/\\]", folder) and Path(folder).is_dir():
        return f"./{folder}{bracket}{extras}"
    if re.search(r"[/\\]|^\.|\.whl$|[<>=!~@\[]", name):
        return name
    registry = load_registry()
    known = normalize(name)
    for candidate in (known, f"kexue-{known}"):
        if candidate in registry.plugins:
            return registry.plugins[candidate].requires
    try:
        plugin = normalize(registry.find(name).plugin)
    except KexueError as error:
        suggestion = did_you_mean(known, {*registry.plugins, *(w.name for w in registry.weights)})
        raise NotFoundError(
            f"No plugin or weights are named {name!r}",
            hint=suggestion or f"For a distribution of someone else's give a version: '{name}>=0'",
        ) from error
    entry = registry.plugins.get(plugin)
    return entry.requires if entry else plugin
