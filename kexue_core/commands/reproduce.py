"""``kexue reproduce``: test a claim of a post by the runs and the criterion of its experiment."""

from __future__ import annotations

from pathlib import Path

import click

from kexue_core.commands import _output
from kexue_core.commands._options import json_option, quiet_option
from kexue_core.commands._output import Column
from kexue_core.errors import TrainingError

__all__ = ["command"]


@click.command(name="reproduce")
@click.argument("name", required=False, metavar="[EXPERIMENT]")
@click.option("--list", "as_list", is_flag=True, help="List the installed experiments.")
@click.option("--quick", is_flag=True, help="A fraction of the budget: a test run, no evidence.")
@click.option("--seeds", type=click.IntRange(min=1), help="How many, from 0.")
@click.option("--data", metavar="PATH|HUB", help="Folder or file, or owner/name on the Hub.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/reproduce"),
    show_default=True,
    help="Folder of runs and reports.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of one process on the CPU.")
@json_option
@quiet_option
def command(
    *,
    name: str | None,
    as_list: bool,
    quick: bool,
    seeds: int | None,
    data: str | None,
    out: Path,
    device: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Test a claim of a post: run EXPERIMENT and say whether it holds here.

    Without EXPERIMENT, list those that are installed. The criterion was fixed before the runs and
    is printed first. Every variant runs over the same seeds; what was finished before is not run
    again, and what was interrupted goes on. The report (report.json, plot.png) lies in
    OUT/EXPERIMENT. Exit code 0 whatever the verdict: that a claim does not hold is a result.

    \b
    Examples:
      kexue reproduce
      kexue reproduce glow-split-prior --quick
      kexue reproduce glow-split-prior --data path/to/fashion-mnist --seeds 3
      kexue reproduce glow-temperature --json
    """
    from kexue_core.reproduce import entries

    if name is None or as_list:
        rows = entries()
        if as_json:
            _output.json(rows)
        else:
            columns = (Column("name"), Column("plugin", least=8), Column("defined in", drop=1))
            _output.table(columns, [(e.name, e.distribution, e.target) for e in rows])
        return

    from kexue_core.reproduce import load_experiment, reproduce

    experiment = load_experiment(name)

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    _output.note(f"claim: {experiment.claim}", quiet=quiet)
    _output.note(f"criterion: {experiment.criterion}", quiet=quiet)
    try:
        report = reproduce(
            experiment,
            out=out,
            seeds=seeds,
            quick=quick,
            data=data,
            device=device,
            say=lambda line: _output.note(line, quiet=quiet),
        )
    except TrainingError as error:
        # TrainingInterrupted, whose module would import torch for experiments that do not.
        number = getattr(error, "signal", None)
        if number is None:
            raise
        _output.note(f"{error.message}. The same command goes on")
        click.get_current_context().exit(128 + number)
    folder = out / (experiment.name + ("-quick" if quick else ""))
    if as_json:
        _output.json(report)
        return
    figures = [(r["variant"], r["seed"], x) for r in report["runs"] for x in r["records"]]
    _output.table(
        ("variant", Column("seed", "right"), "metric", Column("value", "right"), "data", "split"),
        [(v, s, x["metric"], x["value"], x["dataset"], x["split"]) for v, s, x in figures],
    )
    for reason in report["because"]:
        _output.note(reason, quiet=quiet)
    _output.note(f"report and plot are in {folder}", quiet=quiet)
    click.echo(f"{experiment.name}: {report['verdict']}{' (quick)' if quick else ''}")
