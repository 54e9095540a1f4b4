"""Experiments: a claim of a post, the runs that test it, and a criterion fixed beforehand.

A plugin subclasses :class:`Experiment` and names the class in the entry-point group
``kexue.experiments``, from whose metadata they are listed without an import::

    [project.entry-points."kexue.experiments"]
    glow-split-prior = "kexue_flow.experiments:SplitPrior"

The criterion is code that was committed before the runs: it compares variants pair by pair over
the same seeds and says "holds" or "does not hold here". The second is a result, not an error.

Experiments of one *study* share their runs: a baseline is trained once for all who compare with it.
:mod:`kexue_core.reproduce` does the runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, log10
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, ClassVar

from kexue_core.errors import DataError, UnsupportedError

if TYPE_CHECKING:
    from kexue_core.training import Recipe
    from kexue_core.training.records import ResultRecord

__all__ = [
    "Comparison",
    "Experiment",
    "Results",
    "RunContext",
    "RunResult",
    "Verdict",
    "compare",
    "published_sha256",
    "with_error",
]

#: A measurement on its way: points (step, value).
Curve = Sequence[tuple[float, float]]


def with_error(value: float, error: float | None, *, sign: str = "±") -> str:
    """A figure and its error, as ``0.00757 ± 0.00012`` or ``22,097 ± 3,780``: to the second digit
    of the error, of six decimals at most. Four digits where the error is ``None``, or 0.
    """
    if not error:
        digits = f"{value:#.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
        return digits if error is None else f"{digits} {sign} 0"
    decimals = min(6, max(0, 1 - floor(log10(error))))
    return f"{value:,.{decimals}f} {sign} {error:,.{decimals}f}"


def published_sha256(name: str) -> str:
    """sha256 of the weights of that name in the registry.

    Raises:
        NotFoundError: There are none of that name.
        UnsupportedError: Their hash is not known.
    """
    from kexue_core.folder import WEIGHTS_FILE
    from kexue_core.registry import load_registry

    files = load_registry().find(name).files
    if WEIGHTS_FILE not in files:
        raise UnsupportedError(
            f"{name} is not in the registry with its hash", hint="`kexue list` shows what is"
        )
    return files[WEIGHTS_FILE].sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What one run is given.

    Attributes:
        folder: The run's own. What an interrupted run left in it is there to go on with.
        data: ``--data``: a path or Hub name; ``None`` for the experiment's public default.
        device: ``auto``, ``cpu`` or ``cuda``.
        quick: Whether a fraction of the budget is asked for, to see that everything works.
        command: Command line for the records, without paths of this machine.
    """

    folder: Path
    data: str | None
    device: str
    quick: bool
    command: str

    def train(self, recipe: Recipe, *, name: str, model: str, seed: int) -> Path:
        """Train in ``folder/training``, or go on with what is there; that folder.

        Args:
            recipe: The recipe, with its config.
            name: Its name in the records.
            model: The kind of model it trains, best qualified: ``kexue-vae::vae``.
            seed: Seed of everything random.

        Raises:
            NotFoundError: No such model is installed.
            TrainingInterrupted: SIGINT or SIGTERM; a checkpoint was written.
        """
        from kexue_core.plugins import discover
        from kexue_core.training.loop import train

        return train(
            recipe,
            name=name,
            model=discover().find("model", model),
            data=self.data,
            out=self.folder / "training",
            seed=seed,
            device=self.device,
            command=self.command,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What one (variant, seed) measured.

    Attributes:
        variant: One of :attr:`Experiment.variants`.
        seed: Seed of everything random in it.
        records: The final figures; one a metric.
        curves: Metric -> points (step, value), for the plot.
        seconds: Wall time of the session that finished it.
        folder: Its folder, for a plot that needs more than figures; not part of reports.
    """

    variant: str
    seed: int
    records: tuple[ResultRecord, ...]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    seconds: float = 0.0
    folder: Path | None = None

    def value(self, metric: str) -> float:
        """The final figure of one metric.

        Raises:
            DataError: The run has no such record.
        """
        for record in self.records:
            if record.metric == metric:
                return record.value
        raise DataError(f"The run {self.variant}, seed {self.seed}, has no {metric}")


class Results(tuple[RunResult, ...]):
    """All runs of an experiment."""

    __slots__ = ()

    def of(self, variant: str) -> dict[int, RunResult]:
        """Seed -> run of one variant."""
        return {run.seed: run for run in self if run.variant == variant}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two variants over the same seeds.

    Attributes:
        metric: What is compared.
        better: The variant that the claim favours.
        worse: The other.
        advantages: One a seed: by how much ``better`` is better, in units of the metric.
        margin: Mean advantage that the criterion demands.
        holds: Whether every advantage is positive and their mean at least the margin.
    """

    metric: str
    better: str
    worse: str
    advantages: tuple[float, ...]
    margin: float
    holds: bool

    def __str__(self) -> str:
        count = len(self.advantages)
        mean = fmean(self.advantages)
        error = stdev(self.advantages) / count**0.5 if count > 1 else None
        good = sum(a > 0 for a in self.advantages)
        return (
            f"{self.better} against {self.worse}: {self.metric} better by "
            f"{with_error(mean, error, sign='+-')} (margin {self.margin:g}), "
            f"on {good} of {count} seeds"
        )


def compare(
    results: Results,
    metric: str,
    *,
    better: str,
    worse: str,
    margin: float = 0.0,
    higher_is_better: bool = False,
) -> Comparison:
    """Hold one variant against another, seed by seed.

    A seed fixes the order of the data and whatever noise the variants share, so that differences
    within a seed vary less than the figures themselves.

    Raises:
        DataError: The variants have no seed in common.
    """
    ours, theirs = results.of(better), results.of(worse)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise DataError(f"{better} and {worse} have no seed in common")
    sign = 1 if higher_is_better else -1
    advantages = tuple(sign * (ours[s].value(metric) - theirs[s].value(metric)) for s in seeds)
    holds = min(advantages) > 0 and fmean(advantages) >= margin
    return Comparison(
        metric=metric,
        better=better,
        worse=worse,
        advantages=advantages,
        margin=margin,
        holds=holds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the criterion says of the results.

    Attributes:
        holds: Whether the claim holds here.
        because: The figures, one sentence each.
        comparisons: What was held against what; empty for a criterion without pairs.
    """

    holds: bool
    because: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()

    @classmethod
    def of(cls, *comparisons: Comparison) -> Verdict:
        """The claim holds where every comparison does."""
        return cls(
            holds=all(c.holds for c in comparisons),
            because=tuple(map(str, comparisons)),
            comparisons=comparisons,
        )

    def __str__(self) -> str:
        return "holds" if self.holds else "does not hold here"


class Experiment(ABC):
    """One claim and how it is tested. Made without arguments.

    Attributes:
        name: The name in the entry point.
        claim: What the post says, in a sentence.
        post: Number of the kexue.fm post.
        papers: arXiv identifiers.
        criterion: The rule of :meth:`verdict` in a sentence; printed before the first run.
        variants: What is run.
        seeds: How many seeds, from 0; ``--seeds`` overrides.
        study: Experiments with the same study share runs; their settings must be the same.
    """

    name: ClassVar[str]
    claim: ClassVar[str]
    post: ClassVar[int | None] = None
    papers: ClassVar[tuple[str, ...]] = ()
    criterion: ClassVar[str]
    variants: ClassVar[tuple[str, ...]]
    seeds: ClassVar[int] = 3
    study: ClassVar[str]

    @abstractmethod
    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """Everything that the figures depend on beside data and seed, as JSON values.

        A finished run is used again only while its settings are these. Weights that a run loads by
        name belong here by their :func:`published_sha256`, as they may be published anew.
        """

    def identity(self, data: str | None) -> str:
        """What the data is, so that runs on other data are not mixed in: a fingerprint."""
        return data or "default"

    @abstractmethod
    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Run one variant, or go on with it; return the final records and curves."""

    @abstractmethod
    def verdict(self, results: Results) -> Verdict:
        """Judge the runs by the criterion."""

    @abstractmethod
    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Draw the results into ``path``, a PNG."""
