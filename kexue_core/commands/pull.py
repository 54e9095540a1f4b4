"""``kexue pull``: download weights and verify them."""

from __future__ import annotations

from pathlib import Path

import click

from kexue_core.commands import _output
from kexue_core.commands._options import WeightsName, json_option, quiet_option
from kexue_core.commands._output import Column
from kexue_core.names import Reference, parse_reference

__all__ = ["command"]


@click.command(name="pull")
@click.argument("names", nargs=-1, required=True, type=WeightsName(), metavar="NAME...")
@click.option("--dry-run", is_flag=True, help="Show sizes and licences, fetch nothing.")
@click.option(
    "--local-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Put plain files there instead of into the cache.",
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit, for all names.")
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Only these files of an hf: repository."
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 32),
    default=4,
    show_default=True,
    metavar="N",
    help="Files transferred at a time.",
)
@json_option
@quiet_option
def command(
    *,
    names: tuple[str, ...],
    dry_run: bool,
    local_dir: Path | None,
    revision: str | None,
    include: tuple[str, ...],
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Download weights with all that they require, and verify every byte.

    A transfer that broke off, even by a kill, goes on where it stopped when the command is run
    again. Weights that a folder mirror has are verified there and not copied. Tokens, proxies,
    HF_ENDPOINT, HF_HUB_OFFLINE and the cache are those of huggingface_hub. KEXUE_STALL_TIMEOUT
    (seconds), KEXUE_MIN_RATE (bytes a second) and KEXUE_ATTEMPTS say how patient to be.

    \b
    Examples:
      kexue pull glow-celeba
      kexue pull glow-celeba --dry-run
      kexue pull hf:owner/repo@v1.0 --local-dir weights
    """
    from kexue_core.hub.download import PullOptions, pull
    from kexue_core.hub.progress import terminal_meter

    references = [_with_revision(parse_reference(name), revision) for name in names]
    options = PullOptions(local_dir=local_dir, include=include, dry_run=dry_run, jobs=jobs)
    try:
        done = pull(references, options, meter=terminal_meter(quiet=quiet or as_json))
    except KeyboardInterrupt:
        again = " ".join(str(reference) for reference in references)
        _output.note(f"what arrived is kept; go on with: kexue pull {again}")
        raise
    if as_json:
        _output.json(done)
        return
    for each in done:
        if each.note:
            _output.note(f"{each.name}: {each.note}")
    if not quiet:
        _output.table(
            (
                "name",
                Column("size", align="right"),
                "source",
                Column("license", least=12),
                "folder",
            ),
            [
                (
                    each.name,
                    _output.size(sum(size or 0 for size in each.files.values())),
                    each.source,
                    each.license,
                    each.folder,
                )
                for each in done
            ],
        )


def _with_revision(reference: Reference, revision: str | None) -> Reference:
    """The reference at another revision, checked as if it had been written so."""
    if revision is None:
        return reference
    if reference.kind == "file":
        raise click.UsageError("--revision is for names and hf: references")
    bare = Reference(reference.kind, reference.target, reference.distribution)
    return parse_reference(f"{bare}@{revision}")
