"""Does ZLPR need no tuned threshold and no weights? Five losses, eight data sets, equal nets.

References:
    [1] Su Jianlin, https://kexue.fm/archives/7359
    [2] Su et al., ZLPR, 2022. arXiv 2208.02955
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar

from kexue_core.errors import DataError
from kexue_core.experiments import (
    Comparison,
    Curve,
    Experiment,
    Results,
    RunContext,
    Verdict,
)
from kexue_core.training.records import ResultRecord, device_name, versions
from kexue_zlpr.study import DATASETS, LOSSES, open_parts, plan_of, train_run

__all__ = ["Losses", "sign_flip", "table"]

METRICS = ("micro_f1", "macro_f1", "micro_f1_tuned", "macro_f1_tuned")

#: Largest probability, by chance alone, of means over data sets as far apart as those found.
LEVEL = 0.05


class Losses(Experiment):
    """ZLPR against BCE, weighted BCE, focal and ASL at threshold 0 and at the tuned one."""

    name = "zlpr-losses"
    claim = (
        "Trained with ZLPR the threshold 0 is right: F1 is higher than BCE's there, and tuning "
        "the threshold gains BCE more"
    )
    post = 7359
    papers: ClassVar[tuple[str, ...]] = ("2208.02955",)
    criterion = (
        "Over the data sets, the mean macro F1 at threshold 0 is higher with ZLPR than with BCE, "
        "and what tuning adds to it is higher with BCE than with ZLPR, both with p < 0.05 in an "
        "exact two-sided sign-flip test of the data sets' mean differences over the seeds"
    )
    variants: ClassVar[tuple[str, ...]] = tuple(
        f"{dataset}-{loss}" for dataset in DATASETS for loss in LOSSES
    )
    seeds = 5
    study = "zlpr-losses"

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """The plan of the variant's data set."""
        dataset, loss = variant.split("-", 1)
        return {"dataset": dataset, "loss": loss, **plan_of(dataset, quick=quick)}

    def identity(self, data: str | None) -> str:
        """The names and sizes of the files; each run records its own file's fingerprint."""
        folder = _folder(data)
        files = [folder / plan.file for plan in DATASETS.values()]
        return ", ".join(f"{f.name} {f.stat().st_size}" for f in files if f.is_file())

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train and measure one net."""
        dataset, loss = variant.split("-", 1)
        folder = _folder(context.data)
        found, curves = train_run(dataset, loss, seed, folder, quick=context.quick)
        parts = open_parts(dataset, folder)
        records = [
            ResultRecord(
                metric=metric,
                value=value,
                dataset=dataset,
                split="val" if metric.startswith("dev_") else "test",
                n=len(parts.dev[0] if metric.startswith("dev_") else parts.test[0]),
                seed=seed,
                command=context.command,
                weights="",  # the nets are not kept
                versions=versions("kexue-zlpr"),
                device=device_name("cpu"),
                settings={**self.settings(variant, quick=context.quick), "data": parts.fingerprint},
            )
            for metric, value in found.items()
        ]
        return records, curves

    def verdict(self, results: Results) -> Verdict:
        """Hold ZLPR against each loss, over the data sets; the verdict is on BCE."""
        because, holds = [], []
        comparisons = []
        for other in LOSSES[1:]:
            for metric in METRICS:
                means = _differences(results, metric, "zlpr", other)
                p = sign_flip(list(means.values()))
                because.append(_sentence(f"{metric} of zlpr less that of {other}", means, p))
                good = fmean(means.values()) > 0 and p < LEVEL
                comparisons.append(
                    Comparison(
                        metric=metric,
                        better="zlpr",
                        worse=other,
                        advantages=tuple(means.values()),
                        margin=0.0,
                        holds=good,
                    )
                )
                if other == "bce" and metric == "macro_f1":
                    holds.append(good)
        gains = {
            loss: {
                d: _mean(results, d, loss, "macro_f1_tuned") - _mean(results, d, loss, "macro_f1")
                for d in _datasets(results)
            }
            for loss in ("bce", "zlpr")
        }
        more = {d: gains["bce"][d] - gains["zlpr"][d] for d in gains["bce"]}
        p = sign_flip(list(more.values()))
        because.append(_sentence("what tuning adds to macro_f1, bce less zlpr", more, p))
        holds.append(fmean(more.values()) > 0 and p < LEVEL)
        return Verdict(holds=all(holds), because=tuple(because), comparisons=tuple(comparisons))

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Above, macro F1 by data set (dot: threshold 0, dash: tuned); below, F1 by frequency."""
        from kexue_core.plots import figure, save

        drawn = figure(9.0, 7.0)
        axes, below = drawn.subplots(2)
        datasets = _datasets(results)
        for i, loss in enumerate(LOSSES):
            xs = [x + 0.14 * (i - 2) for x in range(len(datasets))]
            zero = [_values(results, d, loss, "macro_f1") for d in datasets]
            tuned = [_mean(results, d, loss, "macro_f1_tuned") for d in datasets]
            errors = [stdev(v) if len(v) > 1 else 0.0 for v in zero]
            [dots, *_] = axes.errorbar(xs, [fmean(v) for v in zero], errors, fmt="o", ms=4)
            axes.plot(xs, tuned, "_", ms=9, color=dots.get_color())
            points = _by_positives(results, loss)
            below.plot(points.keys(), points.values(), ".-", label=loss, color=dots.get_color())
        axes.set_xticks(range(len(datasets)), datasets)
        axes.set(ylabel="macro F1, test")
        axes.set_title(f"Dot: threshold 0. Dash: tuned on dev. The claim {verdict}.", fontsize=10)
        below.set(xscale="log", xlabel="positives of a label in training", ylabel="its F1 at 0")
        for part in (axes, below):
            part.grid(alpha=0.3)
        below.legend(fontsize=8, ncols=5)
        save(drawn, path)


def _by_positives(results: Results, loss: str) -> dict[float, float]:
    """Mean F1 of the labels of all data sets, by positives in bins of a factor of two."""
    bins: dict[int, list[float]] = {}
    for dataset in _datasets(results):
        for run in results.of(f"{dataset}-{loss}").values():
            for positives, f1 in run.curves.get("f1_by_positives", ()):
                bins.setdefault(int(positives).bit_length(), []).append(f1)
    return {2.0 ** (k - 0.5): fmean(v) for k, v in sorted(bins.items())}


def table(results: Results) -> str:
    """Mean and deviation of every figure as a Markdown table, in percent."""
    lines = ["| data set | loss | " + " | ".join(METRICS) + " |", "|---|---|" + "---:|" * 4]
    for dataset in _datasets(results):
        for loss in LOSSES:
            cells = []
            for metric in METRICS:
                values = [100 * v for v in _values(results, dataset, loss, metric)]
                spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{fmean(values):.1f}{spread}")
            lines.append(f"| {dataset} | {loss} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of paired differences: the share of their 2^n sign patterns whose
    sum is at least as far from 0 as that found.
    """
    found = abs(sum(differences))
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    # Sums in another order of addition differ by rounding.
    return sum(s >= found - 1e-12 for s in sums) / len(sums)


def _folder(data: str | None) -> Path:
    if data is None:
        files = ", ".join(plan.file for plan in DATASETS.values())
        raise DataError(
            "These data sets may not be redistributed, and have no one home",
            hint=f"Name a folder with {files} by --data",
        )
    return Path(data)


def _datasets(results: Results) -> list[str]:
    there = {run.variant.split("-", 1)[0] for run in results}
    return [d for d in DATASETS if d in there]


def _values(results: Results, dataset: str, loss: str, metric: str) -> list[float]:
    return [run.value(metric) for run in results.of(f"{dataset}-{loss}").values()]


def _mean(results: Results, dataset: str, loss: str, metric: str) -> float:
    return fmean(_values(results, dataset, loss, metric))


def _differences(results: Results, metric: str, ours: str, theirs: str) -> dict[str, float]:
    """Data set -> mean over the seeds of the difference within a seed."""
    return {
        d: _mean(results, d, ours, metric) - _mean(results, d, theirs, metric)
        for d in _datasets(results)
    }


def _sentence(what: str, means: Mapping[str, float], p: float) -> str:
    each = ", ".join(f"{d} {100 * m:+.1f}" for d, m in means.items())
    return f"{what}: {100 * fmean(means.values()):+.2f} points (p = {p:.3f}; {each})"
