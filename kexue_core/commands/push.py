"""``kexue push``: publish a folder of weights, to a mirror or to the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from kexue_core.commands import _output
from kexue_core.commands._options import json_option

__all__ = ["command"]


@click.command(name="push")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--mirror", type=click.Path(file_okay=False, path_type=Path), help="Copy into this mirror."
)
@click.option("--name", help="Name of the weights; default: the folder's.")
@click.option(
    "--registry",
    type=click.Path(dir_okay=False, path_type=Path),
    help="registry.yaml to write the entry into; default: kexue's own.",
)
@click.option("--summary", help="One line about the weights.")
@click.option("--license", "license_", help="SPDX identifier or LicenseRef-...")
@click.option("--dataset", help="What they were trained on.")
@click.option("--part", "parts", multiple=True, help="Weights that belong to these; repeatable.")
@click.option("--dry-run", is_flag=True, help="Check and show, write nothing.")
@json_option
def command(
    *,
    folder: Path,
    mirror: Path | None,
    name: str | None,
    registry: Path | None,
    summary: str | None,
    license_: str | None,
    dataset: str | None,
    parts: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check a folder of weights and publish it, with its entry in a registry.yaml.

    \b
    Examples:
      kexue push out/glow-celeba --mirror hub --registry registry.yaml
      kexue push out/glow --mirror hub --name glow-celeba --dry-run
    """
    from kexue_core.hub.mirroring import push_to_mirror
    from kexue_core.hub.registry_file import render_entry
    from kexue_core.registry import CORE_REGISTRY

    if mirror is None:
        raise click.UsageError("Name where to publish: --mirror FOLDER")
    given = {
        "summary": summary,
        "license": license_,
        "dataset": dataset,
        "parts": list(parts) or None,
    }
    done = push_to_mirror(
        folder,
        mirror,
        name=name,
        registry=registry or CORE_REGISTRY,
        given=given,
        dry_run=dry_run,
    )
    if as_json:
        _output.json(done)
    else:
        click.echo(render_entry(done.name, done.entry), nl=False)
        would = "would be" if dry_run else "is"
        _output.note(f"{done.name} {would} in {done.folder} and in {done.registry}")
