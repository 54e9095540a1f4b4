"""``kexue check``: hold a plugin against the conformance kit."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from kexue_core.commands import _output
from kexue_core.commands._options import json_option, quiet_option

if TYPE_CHECKING:
    from kexue_core.testing import Outcome

__all__ = ["command"]


@click.command("check")
@click.argument("distribution", metavar="DIST")
@click.option("--only", metavar="GLOB", default="*", help="Checks to run, such as 'model:glow-*'.")
@click.option("--list", "names_only", is_flag=True, help="Print the names of the checks only.")
@quiet_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    *,
    distribution: str,
    only: str,
    names_only: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Hold an installed plugin against the conformance kit.

    Every spec is looked at: that it loads lightly, that its config survives JSON, that models are
    saved and loaded bit for bit, that densities are normalised, that samplers keep their seeds.
    A failed check says what to change; exit code 1 if there is one. "recorded" is no fault.

    \b
    Examples:
      kexue check kexue-flow
      kexue check kexue-flow --only 'model:glow-*'
      kexue check kexue-flow --json > report.json
    """
    from kexue_core.testing import cases, run_checks

    if names_only:
        named = [(case.id, case.check.promise) for case in cases(distribution)]
        if as_json:
            _output.json([{"check": name, "promise": promise} for name, promise in named])
        else:
            _output.table(["check", "promise"], named)
        return
    with _output.progress("checking", None, quiet=quiet or as_json) as advance:
        outcomes = run_checks(distribution, only=only, report=lambda outcome: advance())
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if as_json:
        _output.json(outcomes)
    else:
        _print(outcomes, failed_only=quiet)
        counts = Counter(outcome.status for outcome in outcomes)
        _output.note(
            f"{distribution}: {counts['passed']} passed, {counts['recorded']} recorded, "
            f"{counts['failed']} failed",
            quiet=quiet,
        )
    if failed:
        context.exit(1)


def _print(outcomes: list[Outcome], *, failed_only: bool) -> None:
    columns = [
        _output.Column("subject"),
        _output.Column("check"),
        _output.Column("status"),
        _output.Column("seconds", align="right", drop=1),
        _output.Column("what to change, or what was recorded", least=30),
    ]
    rows = [
        (o.subject, o.check, o.status, f"{o.seconds:.1f}", o.detail)
        for o in outcomes
        if not failed_only or o.status == "failed"
    ]
    _output.table(columns, rows)
