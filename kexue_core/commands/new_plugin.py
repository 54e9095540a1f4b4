"""``kexue new-plugin``: a complete plugin to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kexue_core.commands import _output
from kexue_core.commands._options import quiet_option

if TYPE_CHECKING:
    from kexue_core.testing.scaffold import Kind

__all__ = ["command"]


@click.command("new-plugin")
@click.argument("name", metavar="NAME")
@click.option("--model", is_flag=True, help="A model and its recipe.  [default]")
@click.option("--loss", is_flag=True, help="A loss.")
@click.option("--sampler", is_flag=True, help="A sampler.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where the folder kexue-NAME is made.  [default: here]",
)
@quiet_option
def command(
    name: str, *, model: bool, loss: bool, sampler: bool, directory: Path, quiet: bool
) -> None:
    """Write a complete plugin, kexue-NAME, that passes its own tests.

    It holds a small real model (or loss, or sampler), a recipe, a README, tests and a CI file.
    Replace what it computes by what you want to publish; docs/first-plugin.md goes through it.

    \b
    Examples:
      kexue new-plugin toy-flow
      kexue new-plugin focal --loss
      kexue new-plugin mala --sampler --dir plugins
    """
    if model + loss + sampler > 1:
        raise click.UsageError("Choose one of --model, --loss and --sampler")
    from kexue_core.testing.scaffold import write_plugin

    kind: Kind = "loss" if loss else "sampler" if sampler else "model"
    folder = write_plugin(name, kind, directory)
    click.echo(folder)
    _output.note(
        f"next: cd {folder}, pip install -e ., kexue check {folder.name}, pytest", quiet=quiet
    )
