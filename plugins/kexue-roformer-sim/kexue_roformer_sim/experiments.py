"""What each part of RoFormer-Sim adds, what layers and seeds do, and what rewrites are worth.

References:
    [1] Su Jianlin, SimBERTv2: RoFormer-Sim, https://kexue.fm/archives/8454
    [2] Su Jianlin, RoFormer-Sim with supervision, https://kexue.fm/archives/8541
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

from kexue_core.errors import ConfigError
from kexue_core.experiments import (
    Curve,
    Experiment,
    Results,
    RunContext,
    Verdict,
    compare,
    published_sha256,
)
from kexue_core.training.records import ResultRecord, device_name, read_records, versions
from kexue_roformer_sim.recipes import SimRecipe
from kexue_roformer_sim.stages import (
    Stage1,
    Stage1Config,
    Stage2,
    Stage2Config,
    Supervised,
    SupervisedConfig,
)
from kexue_roformer_sim.tiny import RoFormerSimTiny, TinyConfig

__all__ = ["Parts", "Rewriting", "Seeds"]

MEAN, STSB = "spearman_mean", "spearman_stsb"

#: Smallest mean advantage that counts, in points of Spearman x 100: seeds of a short run differ by
#: about half a point.
MARGIN = 0.5

#: A net that one core trains in minutes.
SMALL: Mapping[str, Any] = {
    "vocab_size": 5_300,
    "hidden_size": 128,
    "layers": 2,
    "heads": 2,
    "intermediate_size": 512,
    "pooling": "mean",
    "learning_rate": 1e-3,
    "dropout": 0.1,
    "evaluate_every": 0,
    "checkpoint_every": 200,
    "warmup": 50,
    "questions": 20,
}


def _train(
    recipe: SimRecipe, name: str, seed: int, folder: Path, context: RunContext
) -> tuple[list[ResultRecord], Path]:
    """Train, or go on; the records of the last weights, and their folder."""
    context = replace(context, folder=folder)
    run = context.train(recipe, name=name, model="kexue-roformer-sim::roformer-sim", seed=seed)
    return read_records(run / "weights" / "results.jsonl"), run / "weights"


def _identity(data: str | None) -> str:
    return RoFormerSimTiny(TinyConfig()).data(data, "val").fingerprint


class Parts(Experiment):
    """Contrast alone, with writing, with holes; then labels; then distilled to write again."""

    name = "roformer-sim-parts"
    claim = (
        "Writing beside the contrast, and holes in what is read, make better vectors; labels "
        "better ones still; and distillation keeps most of that while the net goes on writing"
    )
    post = 8454
    papers: ClassVar[tuple[str, ...]] = ("2104.09864",)
    criterion = (
        "Mean Spearman x 100 of the held-out sets: corruption above contrast, supervised above "
        f"corruption and distilled above corruption, on every seed and by {MARGIN:g} in the mean"
    )
    variants: ClassVar[tuple[str, ...]] = (
        "contrast",
        "unilm",
        "corruption",
        "supervised",
        "distilled",
    )
    seeds = 3
    study = "roformer-sim-parts"

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """Of every stage that the variant goes through."""
        stages = {"first": asdict(self._first(variant, quick))}
        if variant in ("supervised", "distilled"):
            stages["labels"] = asdict(SupervisedConfig(initial="first", **self._budget(quick)))
        if variant == "distilled":
            config = Stage2Config(initial="first", teacher="labels", **self._budget(quick))
            stages["distilled"] = asdict(config)
        return stages

    def identity(self, data: str | None) -> str:
        """The held-out pairs."""
        return _identity(data)

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train through the stages of the variant.

        Labels and distillation go on from the weights of ``corruption``. A stage is trained once a
        seed, in a folder that the variants share: what is finished there is not done again.
        """

        def folder(stage: str) -> Path:
            return context.folder.parent / f"stage-{stage}-seed-{seed}"

        def trained(recipe: SimRecipe, stage: str) -> tuple[list[ResultRecord], Path]:
            return _train(recipe, f"{self.study}-{stage}", seed, folder(stage), context)

        whole = variant in ("supervised", "distilled")
        stage = "corruption" if whole else variant
        records, first = trained(Stage1(self._first(stage, context.quick)), stage)
        if whole:
            config = SupervisedConfig(initial=f"file:{first}", **self._budget(context.quick))
            records, labels = trained(Supervised(config), "supervised")
        if variant == "distilled":
            more = Stage2Config(
                initial=f"file:{first}", teacher=f"file:{labels}", **self._budget(context.quick)
            )
            records, _ = trained(Stage2(more), "distilled")
        return records, {}

    def verdict(self, results: Results) -> Verdict:
        """Hold the parts against each other."""
        pairs = (
            ("corruption", "contrast"),
            ("supervised", "corruption"),
            ("distilled", "corruption"),
        )
        return Verdict.of(
            *(
                compare(results, MEAN, better=a, worse=b, margin=MARGIN, higher_is_better=True)
                for a, b in pairs
            )
        )

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """A bar a variant, a dot a seed."""
        _bars(results, self.variants, MEAN, f"{self.name}: the claim {verdict}", path)

    @staticmethod
    def _first(variant: str, quick: bool) -> Stage1Config:
        parts: dict[str, Any] = {"corrupted": 0.0} if variant in ("contrast", "unilm") else {}
        if variant == "contrast":
            # The head stays, so that all nets have one size; nothing trains it.
            parts["write_weight"] = 0.0
        steps = {"steps": 30} if quick else {"steps": 700}
        return Stage1Config(**{**SMALL, **steps, **parts})

    @staticmethod
    def _budget(quick: bool) -> dict[str, Any]:
        return {
            "steps": 10 if quick else 300,
            "learning_rate": 3e-4,
            "dropout": 0.1,
            "evaluate_every": 0,
            "checkpoint_every": 200,
            "warmup": 20,
            "questions": 20,
        }


class Seeds(Experiment):
    """The recipe of roformer-sim-tiny in a fraction of its time, with and without its layers."""

    name = "roformer-sim-seeds"
    claim = "Layers add to a weighted mean of token vectors, on every seed"
    post = 8454
    criterion = (
        f"Spearman x 100 on STS-B valid is higher with layers than without on every seed, by "
        f"{MARGIN:g} in the mean"
    )
    variants: ClassVar[tuple[str, ...]] = ("static", "layers")
    seeds = 3
    study = "roformer-sim-seeds"

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """Those of the recipe."""
        return asdict(self._config(variant, quick=quick))

    def identity(self, data: str | None) -> str:
        """The held-out pairs."""
        return _identity(data)

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train one."""
        recipe = RoFormerSimTiny(self._config(variant, quick=context.quick))
        name = f"{self.study}-{variant}"
        records, _ = _train(recipe, name, seed, context.folder, context)
        return records, {}

    def verdict(self, results: Results) -> Verdict:
        """Hold the net with layers against that without."""
        found = [
            compare(
                results, metric, better="layers", worse="static", margin=m, higher_is_better=True
            )
            for metric, m in ((STSB, MARGIN), (MEAN, 0.0))
        ]
        return Verdict(
            holds=found[0].holds, because=tuple(map(str, found)), comparisons=tuple(found)
        )

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """A bar a variant, a dot a seed."""
        _bars(results, self.variants, STSB, f"{self.name}: the claim {verdict}", path)

    @staticmethod
    def _config(variant: str, *, quick: bool) -> TinyConfig:
        static, more = (20, 4) if quick else (400, 150)
        settings: dict[str, Any] = {"static_steps": static, "steps": static + more}
        if variant == "static":
            settings = {"static_steps": static, "steps": static, "layers": 0, "write_pairs": 0}
        return TinyConfig(
            evaluate_every=0, checkpoint_every=100, questions=20, warmup=30, shift=0.0, **settings
        )


class Rewriting(Experiment):
    """200 held-out questions, rewritten by the published weights in three ways."""

    name = "roformer-sim-rewriting"
    claim = (
        "Sampling writes more distinct texts than beams do, and beams nearer ones; hiding "
        "characters makes what is drawn more distinct"
    )
    post = 8454
    criterion = (
        "Of ten texts written for a question, the distinct share is higher by sampling than by "
        "beams and by masked than by plain sampling, and the mean cosine higher by beams than by "
        "sampling, on every seed"
    )
    variants: ClassVar[tuple[str, ...]] = ("sample", "beam", "masked")
    seeds = 3
    study = "roformer-sim-rewriting"
    weights = "roformer-sim-tiny"

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """How many questions, and how and by which weights they are rewritten."""
        return {
            "questions": 5 if quick else 200,
            "method": variant,
            "weights": published_sha256(self.weights),
        }

    def identity(self, data: str | None) -> str:
        """The held-out pairs."""
        return _identity(data)

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Rewrite the questions."""
        import kexue_core as kexue
        from kexue_roformer_sim.data import HeldOut
        from kexue_roformer_sim.measures import measure_rewrites
        from kexue_roformer_sim.model import RoFormerSim
        from kexue_roformer_sim.recipes import questions_of

        model = kexue.load(self.weights)
        if not isinstance(model, RoFormerSim):
            raise ConfigError(f"{self.weights} are of another model")
        held = RoFormerSimTiny(TinyConfig()).data(context.data, "val")
        assert isinstance(held, HeldOut)
        settings = self.settings(variant, quick=context.quick)
        questions = questions_of(held, settings["questions"])
        found = measure_rewrites(
            model,
            questions,
            seed=1_000_000 * seed,
            method="beam" if variant == "beam" else "sample",
            masked=0.2 if variant == "masked" else 0.0,
        )
        return [
            ResultRecord(
                metric=metric,
                value=value,
                dataset=held.name,
                split="val",
                n=len(questions),
                seed=seed,
                command=context.command,
                weights=settings["weights"],  # loading checks the file against it
                versions=versions("kexue-roformer-sim"),
                device=device_name("cpu"),
                settings={**settings, "data": held.fingerprint},
            )
            for metric, value in found.items()
        ], {}

    def verdict(self, results: Results) -> Verdict:
        """Hold the ways against each other."""
        pairs = (
            ("rewrite_distinct", "sample", "beam"),
            ("rewrite_distinct", "masked", "sample"),
            ("rewrite_cosine", "beam", "sample"),
        )
        return Verdict.of(
            *(
                compare(results, metric, better=a, worse=b, higher_is_better=True)
                for metric, a, b in pairs
            )
        )

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """A bar a variant, a dot a seed."""
        title = f"Distinct share of what is written: the claim {verdict}"
        _bars(results, self.variants, "rewrite_distinct", title, path)


def _bars(results: Results, variants: Sequence[str], metric: str, title: str, path: Path) -> None:
    from statistics import fmean

    from kexue_core.plots import figure, save

    drawn = figure(6.0, 3.5)
    axes = drawn.subplots()
    values = {v: [r.value(metric) for r in results.of(v).values()] for v in variants}
    axes.bar(list(values), [fmean(v) for v in values.values()], alpha=0.5)
    for x, seeds in enumerate(values.values()):
        axes.plot([x] * len(seeds), seeds, "k.", ms=5)
    low = min(min(v) for v in values.values())
    high = max(max(v) for v in values.values())
    axes.set_ylim(low - (high - low or 1), high + 0.2 * (high - low or 1))
    axes.set(ylabel=metric)
    axes.set_title(title, fontsize=9)
    save(drawn, path)
