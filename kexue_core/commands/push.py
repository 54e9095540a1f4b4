"""``kexue push``: publish a folder of weights, to a mirror or to the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from kexue_core.commands import _output
from kexue_core.commands._options import json_option

__all__ = ["command"]

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(name="push")
@click.argument("folder", metavar="[DIR]", type=_FOLDER, required=False)
@click.argument("repo", metavar="[REPO]", required=False)
@click.option("--mirror", type=_FOLDER, help="Copy into this mirror instead.")
@click.option("--all", "everything", is_flag=True, help="Publish all that the mirrors hold.")
@click.option("--owner", help="Whose repositories --all makes: OWNER/name.")
@click.option("--name", help="Name of the weights; default: the repository's or folder's.")
@click.option(
    "--registry",
    type=click.Path(dir_okay=False, path_type=Path),
    help="registry.yaml to write the entry into; default: kexue's own, and REPO only prints it.",
)
@click.option("--summary", help="One line about the weights.")
@click.option("--license", "license_", help="SPDX identifier or LicenseRef-...")
@click.option("--dataset", help="What they were trained on.")
@click.option("--part", "parts", multiple=True, help="Weights that belong to these; repeatable.")
@click.option("--tag", help="Tag for the commit; default: named by the content.")
@click.option("--private", is_flag=True, help="Make new repositories private.")
@click.option("--dry-run", is_flag=True, help="Check and show, write and send nothing.")
@json_option
def command(
    *,
    folder: Path | None,
    repo: str | None,
    mirror: Path | None,
    everything: bool,
    owner: str | None,
    name: str | None,
    registry: Path | None,
    summary: str | None,
    license_: str | None,
    dataset: str | None,
    parts: tuple[str, ...],
    tag: str | None,
    private: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check a folder of weights and publish it, with its entry for a registry.yaml.

    The folder must load strictly, and its card must name the licence and the data. Results come
    from results.jsonl beside the weights. To publish on the Hub, log in: hf auth login.

    \b
    Examples:
      kexue push out/glow owner/glow-celeba --dry-run
      kexue push out/glow owner/glow-celeba --registry registry.yaml
      kexue push out/glow --mirror hub --name glow-celeba --registry registry.yaml
      kexue push --all --owner NAME --registry registry.yaml
    """
    from kexue_core.registry import CORE_REGISTRY

    if everything:
        if owner is None or folder or mirror:
            raise click.UsageError("--all goes with --owner NAME, without DIR or --mirror")
        _push_all(owner, registry or CORE_REGISTRY, private=private, dry_run=dry_run, json=as_json)
        return
    if folder is None or (repo is None) == (mirror is None):
        raise click.UsageError("Name the folder and where to publish it: REPO or --mirror FOLDER")
    given = {
        "summary": summary,
        "license": license_,
        "dataset": dataset,
        "parts": list(parts) or None,
    }
    from kexue_core.hub.registry_file import render_entry

    would = "would be" if dry_run else "is"
    if mirror is not None:
        from kexue_core.hub.mirroring import push_to_mirror

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
            return
        click.echo(render_entry(done.name, done.entry), nl=False)
        _output.note(f"{done.name} {would} in {done.folder} and in {done.registry}")
        return
    from kexue_core.hub.publish import push

    assert repo is not None
    pushed = push(
        folder,
        repo,
        name=name,
        registry=registry or CORE_REGISTRY,
        write=registry is not None,
        tag=tag,
        private=private,
        given=given,
        dry_run=dry_run,
    )
    if as_json:
        _output.json(pushed)
        return
    click.echo(render_entry(pushed.name, pushed.entry), nl=False)
    where = f" and in {registry}" if registry else "; add the entry above to a registry.yaml"
    _output.note(f"{pushed.name} {would} at hf:{pushed.repo}@{pushed.tag}{where}")


def _push_all(owner: str, registry: Path, *, private: bool, dry_run: bool, json: bool) -> None:
    from kexue_core.hub.publish import push_all

    done = []
    for pushed in push_all(owner, registry=registry, private=private, dry_run=dry_run):
        done.append(pushed)
        _output.note(f"{pushed.name} {'would go' if dry_run else 'went'} to hf:{pushed.repo}")
    if json:
        _output.json(done)
    else:
        _output.table(
            ("name", "repo", "revision", "tag"),
            [(p.name, p.repo, p.entry.get("revision"), p.tag) for p in done],
        )
