"""Find the installed experiments, do the runs that are missing, judge them, and write it down.

What lies in the folder afterwards::

    runs/<study>/<variant>-seed-<k>/  settings.json, run.json when finished, and the run's own files
    <experiment>/                     report.json and plot.png

The names of experiments come from package metadata; a module is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

from kexue_core.errors import (
    AmbiguousNameError,
    ConfigError,
    DataError,
    NotFoundError,
    PluginError,
    TrainingError,
)
from kexue_core.experiments import Experiment, Results, RunContext, RunResult
from kexue_core.names import did_you_mean, normalize

__all__ = ["GROUP", "Entry", "entries", "load_experiment", "reproduce"]

#: Entry-point group of experiments: ``name = "module:Class"``.
GROUP = "kexue.experiments"


@dataclass(frozen=True, slots=True)
class Entry:
    """An experiment as package metadata names it.

    Attributes:
        name: What ``kexue reproduce`` takes.
        distribution: Who brings it.
        target: Import string of the class.
    """

    name: str
    distribution: str
    target: str


def entries() -> list[Entry]:
    """The experiments of the installed distributions, by name. Imports none of them."""
    only = os.environ.get("KEXUE_PLUGINS")
    wanted = {normalize(n) for n in only.split(",") if n.strip()} if only else None
    found = [
        Entry(
            point.name, normalize(point.dist.name) if point.dist is not None else "?", point.value
        )
        for point in metadata.entry_points(group=GROUP)
    ]
    chosen = [e for e in found if wanted is None or e.distribution in wanted]
    return sorted(chosen, key=lambda e: (e.name, e.distribution))


def load_experiment(name: str) -> Experiment:
    """Import an experiment; ``name`` may be qualified as ``distribution::name``.

    Raises:
        NotFoundError: Nothing installed brings it.
        AmbiguousNameError: Several distributions do.
        PluginError: It does not import, or is no experiment.
    """
    qualifier, _, bare = name.rpartition("::")
    known = entries()
    found = [e for e in known if e.name == bare and normalize(qualifier) in ("", e.distribution)]
    if not found:
        suggestion = did_you_mean(bare, {e.name for e in known})
        raise NotFoundError(
            f"No installed plugin brings the experiment {name!r}",
            hint=suggestion or "`kexue reproduce` lists those that are",
        )
    if len(found) > 1:
        forms = " or ".join(f"{e.distribution}::{e.name}" for e in found)
        raise AmbiguousNameError(f"Several plugins bring {bare!r}", hint=f"Write {forms}")
    [entry] = found
    module, _, attribute = entry.target.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
        experiment = factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit at import must not end kexue either
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(
            f"The experiment {bare!r} of {entry.distribution} cannot be loaded: {reason}",
            hint=f"Install what it names, or update {entry.distribution}",
        ) from error
    if not isinstance(experiment, Experiment) or experiment.name != bare:
        raise PluginError(
            f"{entry.target} of {entry.distribution} is not the experiment {bare!r}",
            hint="It must be a kexue_core.experiments.Experiment with the name of its entry point",
        )
    return experiment


def reproduce(
    experiment: Experiment,
    *,
    out: Path,
    seeds: int | None = None,
    quick: bool = False,
    data: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Do the runs that are missing, judge them all, write report and plot.

    Args:
        experiment: The experiment.
        out: Folder for everything.
        seeds: How many, from 0; ``None`` for what the experiment says.
        quick: A fraction of the budget; kept apart from full runs, and no evidence.
        data: Path or Hub name; ``None`` for the public default.
        device: ``auto``, ``cpu`` or ``cuda``.
        say: Told one line before and after each run.

    Returns:
        The report, as ``report.json`` holds it.

    Raises:
        TrainingError: A run cannot go on, or was made with other settings or data.
    """
    count = experiment.seeds if seeds is None else seeds
    if count < 1:
        raise ConfigError(f"{count} seeds are no experiment", hint="Take --seeds 1 or more")
    suffix = "-quick" if quick else ""
    command = f"kexue reproduce {experiment.name} --seeds {count}{' --quick' if quick else ''}"
    identity = experiment.identity(data)
    # Seeds outermost: whoever stops early has whole comparisons.
    todo = [(variant, seed) for seed in range(count) for variant in experiment.variants]
    done: list[RunResult] = []
    for number, (variant, seed) in enumerate(todo, 1):
        folder = out / "runs" / (experiment.study + suffix) / f"{variant}-seed-{seed}"
        what = f"{experiment.name}: run {number}/{len(todo)}, {variant}, seed {seed}"
        plan = {
            "variant": variant,
            "seed": seed,
            "data": identity,
            "settings": dict(experiment.settings(variant, quick=quick)),
        }
        _claim_folder(folder, plan)
        found = _read_run(folder / "run.json")
        if found is not None:
            say(f"{what}: was finished before")
            done.append(found)
            continue
        say(what)
        context = RunContext(folder=folder, data=data, device=device, quick=quick, command=command)
        began = time.monotonic()
        records, curves = experiment.run(variant, seed, context)
        result = RunResult(
            variant=variant,
            seed=seed,
            records=tuple(records),
            curves=curves,
            seconds=round(time.monotonic() - began, 1),
            folder=folder,
        )
        _write_json(folder / "run.json", _run_dict(result), levels=2)
        done.append(result)
        left = (len(todo) - number) * fmean(run.seconds for run in done)
        figures = ", ".join(f"{r.metric} {r.value:.4f}" for r in result.records)
        say(f"{what}: {figures}; {result.seconds:.0f} s, about {left / 60:.0f} min left")

    results = Results(done)
    verdict = experiment.verdict(results)
    report: dict[str, Any] = {
        "format": 1,
        "experiment": experiment.name,
        "claim": experiment.claim,
        "post": experiment.post,
        "papers": list(experiment.papers),
        "criterion": experiment.criterion,
        "quick": quick,
        "seeds": count,
        "complete": not quick and count >= experiment.seeds,
        "command": command,
        "verdict": str(verdict),
        "holds": verdict.holds,
        "because": list(verdict.because),
        "comparisons": [
            {**asdict(c), "advantages": list(c.advantages)} for c in verdict.comparisons
        ],
        "runs": [_run_dict(run) for run in done],
    }
    folder = out / (experiment.name + suffix)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "report.json", report, levels=4)
    experiment.plot(results, verdict, folder / "plot.png")
    return report


def _claim_folder(folder: Path, plan: Mapping[str, Any]) -> None:
    """Make a run's folder, or check that the one found is a run of this plan."""
    file = folder / "settings.json"
    wanted: dict[str, Any] = json.loads(json.dumps(plan))
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(file, wanted, levels=2)
        return
    found = _read_json(file)
    old, new = ({**plan, **plan.get("settings", {})} for plan in (found, wanted))
    differing = [
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted({*old, *new} - {"settings"})
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise TrainingError(
            f"{folder} holds another run: {'; '.join(differing)}",
            hint="Name another folder with --out, or remove this one",
        )


def _read_run(path: Path) -> RunResult | None:
    from kexue_core.training.records import ResultRecord

    if not path.is_file():
        return None
    found = _read_json(path)
    try:
        return RunResult(
            variant=found["variant"],
            seed=found["seed"],
            records=tuple(map(ResultRecord.from_dict, found["records"])),
            curves={k: [(x, y) for x, y in points] for k, points in found["curves"].items()},
            seconds=found["seconds"],
            folder=path.parent,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no finished run: {error}", hint="Remove the file") from error


def _run_dict(run: RunResult) -> dict[str, Any]:
    return {
        "variant": run.variant,
        "seed": run.seed,
        "seconds": run.seconds,
        "records": [record.to_dict() for record in run.records],
        "curves": {k: [list(point) for point in points] for k, points in run.curves.items()},
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}", hint="Remove the file") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no JSON object", hint="Remove the file")
    return found


def _write_json(path: Path, value: Mapping[str, Any], levels: int) -> None:
    """Write so that the file is either whole or not there."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(_dumps(value, levels) + "\n", encoding="utf-8")
    partial.replace(path)


def _dumps(value: Any, levels: int, margin: str = "") -> str:
    """JSON, indented as far as ``levels`` down; what lies deeper stands on one line."""
    if not levels or not value or not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    inner = f"{margin} "
    if isinstance(value, dict):
        parts = [f"{json.dumps(k)}: {_dumps(v, levels - 1, inner)}" for k, v in value.items()]
        begin, end = "{}"
    else:
        parts = [_dumps(v, levels - 1, inner) for v in value]
        begin, end = "[]"
    return f"{begin}\n{inner}" + f",\n{inner}".join(parts) + f"\n{margin}{end}"
