"""``kexue verify``: hash weights on this machine again."""

from __future__ import annotations

import click

from kexue_core.commands import _output
from kexue_core.commands._options import WeightsName, json_option, quiet_option
from kexue_core.errors import ChecksumMismatch
from kexue_core.names import parse_reference

__all__ = ["command"]


@click.command(name="verify")
@click.argument("names", nargs=-1, type=WeightsName(), metavar="[NAME]...")
@click.option("--repair", is_flag=True, help="Fetch bad and missing files again.")
@json_option
@quiet_option
def command(names: tuple[str, ...], repair: bool, as_json: bool, quiet: bool) -> None:
    """Hash weights on this machine again, whatever was noted about them; offline.

    A NAME stands for the weights that it requires, too. Without NAME, everything on this machine.
    A bad file of the cache is moved aside, so that no program reads it; mirrors are reported and
    left alone. Exit code 4 if anything is bad.

    \b
    Examples:
      kexue verify
      kexue verify glow-celeba --repair
      kexue verify --json
    """
    from kexue_core.hub.planning import follow
    from kexue_core.hub.sources import MIRROR_HINT
    from kexue_core.hub.verification import references_here, verify

    wanted = follow(map(parse_reference, names), parts=False) if names else references_here()
    references = list(map(str, wanted))
    reports = [report for name in references for report in verify(name, repair=repair)]
    if as_json:
        _output.json(reports)
    elif not quiet:
        if reports:
            _output.table(
                ("name", "file", "state", "source", "path"),
                [(r.name, r.file, r.state, r.source, r.path) for r in reports],
            )
        else:
            _output.note("no weights are on this machine")
    bad = [r for r in reports if r.state in ("bad", "missing")]
    for report in bad[1:]:
        _output.note(report.detail)
    if bad:
        if bad[0].source == "mirror":
            hint = MIRROR_HINT
        else:
            hint = f"Run `kexue verify {bad[0].name} --repair`"
        raise ChecksumMismatch(bad[0].detail, hint=hint)
