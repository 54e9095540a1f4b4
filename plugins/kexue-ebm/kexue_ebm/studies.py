"""What the tricks of post 6612 are worth, on small trainings: the buffer, spectral normalisation,
and how well an energy tells data from what is not.

References:
    [1] Su Jianlin, https://kexue.fm/archives/6612
    [2] Du & Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019.
        https://arxiv.org/abs/1903.08689
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

import kexue_core as kexue
from kexue_core.api import provenance
from kexue_core.errors import DataError, NonFiniteLossError
from kexue_core.experiments import Curve, Experiment, Results, RunContext, Verdict, compare
from kexue_core.images import grid
from kexue_core.metrics import Subject, find_metric
from kexue_core.plots import figure, save
from kexue_core.training.records import ResultRecord, device_name, read_records, versions
from kexue_ebm.recipes import EBMFashion, EBMMnist, EBMQuickConfig, EBMTrainingConfig

__all__ = ["Buffer", "Detection", "SpectralNormalization"]


class _Study(Experiment):
    """Trainings of a small energy of MNIST."""

    post = 6612
    papers = ("1903.08689",)
    #: Settings of every run of a study, over those of the recipe.
    common: ClassVar[Mapping[str, Any]] = {}

    def recipe(self, variant: str, *, quick: bool) -> EBMMnist:
        """The recipe of a variant."""
        base = EBMQuickConfig(steps=40) if quick else EBMTrainingConfig(**self.common)
        # Nothing but the end is measured; and no pictures are drawn on the way.
        base = replace(base, evaluate_every=0, preview_every=0, checkpoint_every=100)
        return EBMMnist(replace(base, **self.difference(variant)))

    def difference(self, variant: str) -> dict[str, Any]:
        """The settings in which a variant differs."""
        raise NotImplementedError

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """The recipe's config."""
        return asdict(self.recipe(variant, quick=quick).config)

    def identity(self, data: str | None) -> str:
        """Fingerprint of the training images."""
        return self.recipe(self.variants[0], quick=True).data(data, "train").fingerprint

    def train(self, recipe: EBMMnist, seed: int, context: RunContext) -> Path:
        """Train, or go on; the training's folder."""
        return context.train(recipe, name=self.study, model="kexue-ebm::ebm", seed=seed)


class Buffer(_Study):
    """[1] and [2]: without a buffer of earlier chains samples come from few modes."""

    name = study = "ebm-buffer"
    claim = "Training with a replay buffer gives more diverse samples than chains from noise alone"
    criterion = (
        "recall and coverage of 2,000 samples, in the features of classifier-mnist, are both "
        "higher with the buffer on every seed; chains are 200 steps from noise, and without the "
        "buffer the better of 200 steps and the 20 that it was trained with counts"
    )
    variants: ClassVar[tuple[str, ...]] = ("buffer", "no-buffer")
    common: ClassVar[Mapping[str, Any]] = {
        "steps": 1_000,
        "ema": 0.99,
        "sample_steps": 200,
        "learning_rate": 1e-3,
        "buffer": 1_000,
    }
    metrics: ClassVar[tuple[str, ...]] = ("recall", "coverage", "precision")
    features: ClassVar[str] = "classifier-mnist"

    def difference(self, variant: str) -> dict[str, Any]:
        """No buffer: every chain of training starts from noise."""
        return {} if variant == "buffer" else {"buffer": 0}

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train, draw and measure."""
        if context.data is None:
            raise DataError("Samples are held against real images", hint="Name MNIST with --data")
        recipe = self.recipe(variant, quick=context.quick)
        weights = self.train(recipe, seed, context) / "weights"
        lengths = [recipe.config.sample_steps]
        if variant == "no-buffer":
            lengths.append(recipe.config.chain_steps)
        found = [self._measure(weights, steps, seed, context) for steps in lengths]
        return max(found, key=lambda records: records[1].value), {}

    def _measure(
        self, weights: Path, steps: int, seed: int, context: RunContext
    ) -> list[ResultRecord]:
        model = kexue.load(f"file:{weights}", device="cpu")
        known, metric = provenance(model), find_metric("sample-quality")
        assert known is not None
        subject = Subject(
            name=self.study,
            model=model,
            config=known.config,
            source=context.data,
            split="val",
            limit=100 if context.quick else 2_000,
            device=torch.device("cpu"),
        )
        options = (f"steps={steps}",)
        config = metric.factory.Config(features=self.features, seed=seed, options=options)
        result = metric.factory(config).measure(subject)
        return [
            ResultRecord(
                metric=name,
                value=result.values[name],
                dataset=result.dataset,
                split="val",
                n=result.n,
                seed=seed,
                command=context.command,
                weights="",  # of a small training; not published
                versions=versions("kexue-ebm", metric.distribution),
                device=device_name("cpu"),
                settings={**result.settings, "floor": result.floors.get(name)},
            )
            for name in self.metrics
        ]

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        return Verdict.of(
            *(
                compare(results, m, better="buffer", worse="no-buffer", higher_is_better=True)
                for m in ("recall", "coverage")
            )
        )

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Samples of the first seed, with the buffer above, without below."""
        drawn = figure(8.0, 3.0)
        for axes, variant in zip(drawn.subplots(2, 1), self.variants, strict=True):
            run = results.of(variant)[results[0].seed]
            assert run.folder is not None
            model = kexue.load(f"file:{run.folder / 'training' / 'weights'}", device="cpu")
            samples = kexue.sample(model, 32, seed=run.seed, **_options(run.records[0]))
            axes.imshow(grid(samples, 16), cmap="gray")
            title = f"{variant}: recall {run.value('recall'):.2f}, seed {run.seed}"
            axes.set_title(title, fontsize="small")
            axes.set_axis_off()
        drawn.suptitle(f"{self.claim}: {verdict}", fontsize="small")
        save(drawn, path)


def _options(record: ResultRecord) -> dict[str, Any]:
    options: dict[str, Any] = dict(record.settings["options"])
    return options


class SpectralNormalization(_Study):
    """[1] and [2]: without it training runs away."""

    name = study = "ebm-spectral-norm"
    claim = "Spectral normalisation keeps the training of an energy bounded"
    criterion = (
        "with no other brake (no L2 on energies, no bound on gradients), the gap between the mean "
        "energies of samples and data stays below 20 at every step with spectral normalisation; "
        "without it, it grows to ten times the largest with it, or the run diverges; on every seed"
    )
    variants: ClassVar[tuple[str, ...]] = ("on", "off")
    common: ClassVar[Mapping[str, Any]] = {
        "steps": 600,
        "l2": 0.0,
        "clip": 1e9,
        "learning_rate": 1e-3,
        "warmup": 0,
        "buffer": 1_000,
        "sample_steps": 20,
    }
    metric: ClassVar[str] = "largest_gap"

    def difference(self, variant: str) -> dict[str, Any]:
        """On or off."""
        return {"spectral_norm": variant == "on"}

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train until the end or until it diverges."""
        recipe = self.recipe(variant, quick=context.quick)
        diverged = 0.0
        try:
            self.train(recipe, seed, context)
        except NonFiniteLossError:
            diverged = 1.0
        log = context.folder / "training" / "log.jsonl"
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        gaps = [
            (row["step"], abs(row["train/energy_samples"] - row["train/energy_data"]))
            for row in rows
            if "train/energy_data" in row
        ]
        largest = max(gap for _, gap in gaps)
        values = {self.metric: largest, "diverged": diverged}
        data = recipe.data(context.data, "train")
        records = [
            ResultRecord(
                metric=metric,
                value=value,
                dataset=data.name,
                split="train",
                n=len(data),
                seed=seed,
                command=context.command,
                weights="",
                versions=versions("kexue-ebm"),
                device=device_name("cpu"),
                settings={"steps": recipe.config.steps},
            )
            for metric, value in values.items()
        ]
        return records, {"gap": gaps[:: max(1, len(gaps) // 60)]}

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        on, off = results.of("on"), results.of("off")
        bounded = [run.value(self.metric) < 20 and not run.value("diverged") for run in on.values()]
        away = [
            bool(run.value("diverged")) or run.value(self.metric) > 10 * on[seed].value(self.metric)
            for seed, run in off.items()
        ]
        because = tuple(
            f"{name}: largest gap {', '.join(f'{r.value(self.metric):.3g}' for r in runs.values())}"
            f"; diverged on {sum(r.value('diverged') > 0 for r in runs.values())} of {len(runs)}"
            for name, runs in (("on", on), ("off", off))
        )
        return Verdict(holds=all(bounded) and all(away), because=because)

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """The gap while training."""
        drawn = figure()
        axes = drawn.subplots()
        for variant, colour in zip(self.variants, ("C0", "C3"), strict=True):
            for number, run in enumerate(results.of(variant).values()):
                points = run.curves["gap"]
                axes.semilogy(
                    [p[0] for p in points],
                    [max(p[1], 1e-4) for p in points],
                    color=colour,
                    lw=1,
                    label=f"spectral norm {variant}" if number == 0 else None,
                )
        axes.set(
            xlabel="step",
            ylabel="|energy of samples - of data|",
            title=f"Training without other brakes: {verdict}",
        )
        axes.grid(alpha=0.3)
        drawn.legend(loc="outside lower center", ncols=2)
        save(drawn, path)


class Detection(_Study):
    """[2, section 4.4]: the energy of what is not data is higher."""

    name = study = "ebm-detection"
    claim = "The energy tells data from other images better than scores that need no training"
    criterion = (
        "with MNIST in and Fashion-MNIST out, and the other way round, the area under the curve of "
        "the energy is above that of the share of grey pixels and of one Gaussian of the training "
        "images, and on uniform noise not below either, on every seed"
    )
    variants: ClassVar[tuple[str, ...]] = ("mnist", "fashion")
    common: ClassVar[Mapping[str, Any]] = {
        "steps": 1_000,
        "ema": 0.99,
        "learning_rate": 1e-3,
        "buffer": 1_000,
        "sample_steps": 20,
    }
    #: variant -> recipe, folder below --data, folder of what is outside.
    sources: ClassVar[Mapping[str, tuple[type[EBMMnist], str, str]]] = {
        "mnist": (EBMMnist, "MNIST", "Fashion-MNIST"),
        "fashion": (EBMFashion, "Fashion-MNIST", "MNIST"),
    }

    def difference(self, variant: str) -> dict[str, Any]:
        """They differ in their data alone."""
        return {}

    def identity(self, data: str | None) -> str:
        """Fingerprints of both."""
        recipe = self.recipe("mnist", quick=True)
        return "+".join(
            recipe.data(self._sources(variant, data)[0], "train").fingerprint
            for variant in self.variants
        )

    def _sources(self, variant: str, data: str | None) -> tuple[str, str]:
        """Where the data of a variant is, and what is outside of it."""
        if data is None:
            hubs = {v: recipe.hub for v, (recipe, *_) in self.sources.items()}
            return hubs[variant], next(hub for v, hub in hubs.items() if v != variant)
        _, inside, outside = self.sources[variant]
        return str(Path(data) / inside), str(Path(data) / outside)

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train; what the recipe evaluates is what is asked."""
        inside, outside = self._sources(variant, context.data)
        config = self.recipe(variant, quick=context.quick).config
        recipe = self.sources[variant][0](replace(config, outside=outside))
        folder = self.train(recipe, seed, replace(context, data=inside))
        found = {r.metric: r for r in read_records(folder / "results.jsonl")}
        return list(found.values()), {}

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        holds, because = True, []
        for run in results:
            energy, noise = run.value("auroc_outside"), run.value("auroc_uniform")
            trivial = [run.value(f"auroc_outside_{s}") for s in ("grey", "gaussian")]
            easy = [run.value(f"auroc_uniform_{s}") for s in ("grey", "gaussian")]
            # 5,000 x 5,000 pairs: a ten-thousandth is a matter of single images.
            holds = holds and energy > max(trivial) and noise >= max(easy) - 1e-4
            because.append(
                f"{run.variant} in, seed {run.seed}: energy {energy:.3f}, grey {trivial[0]:.3f}, "
                f"Gaussian {trivial[1]:.3f}; uniform noise {noise:.3f}, {easy[0]:.3f}, "
                f"{easy[1]:.3f}"
            )
        return Verdict(holds=holds, because=tuple(because))

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """A bar a score, over the seeds."""
        drawn = figure()
        axes = drawn.subplots()
        scores = {"energy": "auroc_outside"}
        scores |= {s: f"auroc_outside_{s}" for s in ("grey", "gaussian")}
        for place, variant in enumerate(self.variants):
            for number, (score, metric) in enumerate(scores.items()):
                values = [run.value(metric) for run in results.of(variant).values()]
                axes.bar(
                    place + 0.25 * (number - 1),
                    math.fsum(values) / len(values),
                    width=0.22,
                    color=f"C{number}",
                    label=score if place == 0 else None,
                )
        axes.set_xticks(range(len(self.variants)), [f"{v} in, other out" for v in self.variants])
        axes.axhline(0.5, color="black", lw=0.5)
        axes.set(ylabel="area under the curve", title=f"Telling the other data set: {verdict}")
        drawn.legend(loc="outside lower center", ncols=3)
        save(drawn, path)
