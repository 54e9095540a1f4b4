"""Spectral normalisation against the gradient penalty: quality, time, and where the bound holds.

Both experiments look at the same runs: one small GAN of Fashion-MNIST, trained from each seed with
the same nets, loss and batches, its discriminator held by spectral normalisation or by the gradient
penalty. Each is trained at two learning rates, since one need not be best for both.

References:
    [1] Su Jianlin, https://kexue.fm/archives/6051
    [2] Gulrajani et al., Improved Training of Wasserstein GANs, 2017. arXiv 1704.00028
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import kexue_core as kexue
from kexue_core.experiments import (
    Curve,
    Experiment,
    Results,
    RunContext,
    RunResult,
    Verdict,
    compare,
    published_sha256,
)
from kexue_core.plots import figure, save
from kexue_core.statistics import frechet_distance
from kexue_core.training import Batch, Dataset, StepContext
from kexue_core.training.records import ResultRecord, read_records
from kexue_sngan.lipschitz import jacobian_norms, lipschitz_bound
from kexue_sngan.recipes import SNGANFashion, SNGANFashionConfig

__all__ = ["Constraint", "Quality", "SmallGAN", "SmallGANConfig"]

#: Weights whose features say how good samples are.
FEATURES = "classifier-fashion"
#: Points at which slopes are measured, of each kind.
POINTS = 256
#: Where they lie.
PLACES = ("interpolates", "between_classes", "noise")

#: How the discriminator is held.
CONSTRAINTS: Mapping[str, Mapping[str, Any]] = {
    "spectral": {},
    "penalty": {"spectral": False, "gradient_penalty": 10.0},
}
#: Learning rates of both networks: SN-GAN's paper's, and that of the recipe `sngan-fashion`.
RATES = (2e-4, 2e-3)
#: Variant -> its settings.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"{constraint}-{rate:g}": {**settings, "learning_rate": rate, "critic_learning_rate": rate}
    for constraint, settings in CONSTRAINTS.items()
    for rate in RATES
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallGANConfig(SNGANFashionConfig):
    """A GAN that one core trains in a few minutes, in float32: second derivatives need it."""

    steps: int = 1_500
    width: int = 16
    critic_width: int = 16
    ema: float = 0.99
    evaluate_every: int = 150
    preview_every: int = 0
    checkpoint_every: int = 150
    dtype: str = "float32"  # type: ignore[assignment]  # one of the base's literals


class SmallGAN(SNGANFashion):
    """The recipe of every run: it watches quality, slopes and its own time."""

    Config = SmallGANConfig
    config: SmallGANConfig

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """One step, and the CPU seconds that it took."""
        began = time.process_time()
        metrics = super().step(modules, batch, context)
        return {**metrics, "seconds": torch.tensor(time.process_time() - began)}

    @cached_property
    def classifier(self) -> Any:
        """The classifier whose features are compared."""
        return kexue.load(FEATURES)

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Frechet distance of the averaged generator, slopes of the present discriminator."""
        n = min(len(data), limit or len(data))
        batch = data.batch(range(n))
        generator = torch.Generator().manual_seed(0)
        latent = model.prior(n, generator=generator)  # type: ignore[operator]
        fake = torch.cat([model.decode(z) for z in torch.split(latent, 256)])  # type: ignore[operator]
        features = [
            torch.cat([self.classifier.features(part) for part in torch.split(images, 256)])
            for images in (batch["image"], fake)
        ]
        training = self._critic.training
        self._critic.eval()
        slopes = self._slopes(batch, fake, generator)
        bound = lipschitz_bound(self._critic, 2 * batch["image"][:8] - 1)
        self._critic.train(training)
        return {
            "frechet_distance": frechet_distance(*features),
            **{f"slope_{place}": slopes[place] for place in PLACES},
            "upper_bound": bound.upper,
        }

    def _slopes(self, batch: Batch, fake: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Largest |dD/dx| between real and generated, between two classes, and at noise."""
        real, label = batch["image"], batch["label"]
        first = torch.randperm(len(real), generator=generator)
        second = torch.randperm(len(real), generator=generator)
        differ = label[first] != label[second]
        first, second = first[differ][:POINTS], second[differ][:POINTS]
        mix = torch.rand(len(first), 1, 1, 1, generator=generator)
        points = {
            "interpolates": mix * real[first] + (1 - mix) * fake[: len(first)],
            "between_classes": mix * real[first] + (1 - mix) * real[second],
            "noise": torch.rand(real[first].shape, generator=generator),
        }
        return {
            place: float(jacobian_norms(self._critic, 2 * x - 1).max())
            for place, x in points.items()
        }


class _Runs(Experiment):
    """The runs that both experiments look at."""

    study = "sngan-penalty"
    post = 6051
    papers: ClassVar[tuple[str, ...]] = ("1802.05957", "1704.00028")
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """The recipe's config, and the classifier."""
        features = published_sha256(FEATURES)
        return {**asdict(self._config(variant, quick=quick)), "features": features}

    def identity(self, data: str | None) -> str:
        """The fingerprint of the training images."""
        return SmallGAN(SmallGANConfig()).data(data, "train").fingerprint

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train one GAN; figures of its end, and curves by step and by second."""
        folder = replace(context, device="cpu").train(
            SmallGAN(self._config(variant, quick=context.quick)),
            name=f"{self.study}-{variant}",
            model="kexue-sngan::sngan-cnn",
            seed=seed,
        )
        last = {r.metric: r for r in read_records(folder / "results.jsonl")}
        curves, seconds = _curves(folder / "log.jsonl", last)
        speed = _record_of(last["frechet_distance"], "seconds_per_step", seconds)
        return [*last.values(), speed], curves

    @staticmethod
    def _config(variant: str, *, quick: bool) -> SmallGANConfig:
        budget: dict[str, Any] = {"width": 4, "critic_width": 4} if quick else {}
        if quick:
            budget |= {"steps": 20, "evaluate_every": 10, "checkpoint_every": 20}
        return SmallGANConfig(**budget, **VARIANTS[variant])


class Quality(_Runs):
    """[1]: fewer epochs, and less time an epoch."""

    name = "sngan-quality"
    claim = "Spectral normalisation reaches better samples in as many steps, and in less time each"
    criterion = (
        "after equally many steps the Frechet distance is lower with spectral normalisation than "
        "with the gradient penalty, and so are the CPU seconds a step, both on every seed; each at "
        "the learning rate of two at which its mean distance is the lower"
    )

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        spectral, penalty = (
            min(
                _variants(constraint),
                key=lambda v: fmean(r.value("frechet_distance") for r in results.of(v).values()),
            )
            for constraint in CONSTRAINTS
        )
        return Verdict.of(
            *(
                compare(results, metric, better=spectral, worse=penalty)
                for metric in ("frechet_distance", "seconds_per_step")
            )
        )

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Frechet distance by step and by second."""
        drawn = figure(9.0, 4.0)
        for axes, key, label in zip(
            drawn.subplots(1, 2, sharey=True),
            ("frechet_distance", "frechet_distance_by_second"),
            ("step", "CPU seconds of training"),
            strict=True,
        ):
            for variant, color in zip(self.variants, ("C0", "C9", "C1", "C3"), strict=True):
                for i, run in enumerate(results.of(variant).values()):
                    x, y = zip(*run.curves[key], strict=True)
                    axes.plot(x, y, ".-", color=color, label=None if i else variant, alpha=0.8)
            axes.set(xlabel=label, yscale="log")
            axes.grid(alpha=0.3, which="both")
        drawn.axes[0].set_ylabel("Frechet distance")
        drawn.legend(
            *drawn.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4
        )
        drawn.suptitle(f"{self.claim}:\n{verdict}", fontsize="medium")
        save(drawn, path)


class Constraint(_Runs):
    """[1]: the penalty is only felt where it is measured; normalisation holds everywhere."""

    name = "sngan-constraint"
    claim = (
        "Spectral normalisation bounds the slope everywhere and throughout; the gradient penalty "
        "holds it only between real and generated images"
    )
    #: How much steeper than on the interpolates it must be elsewhere to say that GP breaks.
    factor: ClassVar[float] = 1.5
    #: How far the bound may move in training to say that SN holds it.
    drift: ClassVar[float] = 2.0
    criterion = (
        "at both learning rates, on every seed: with the penalty, at the end, the largest slope "
        "between two classes or at noise is at least 1.5 times the largest on the interpolates; "
        "with spectral normalisation no slope that is measured exceeds the product bound, and the "
        "bound's largest value in training is at most twice its smallest"
    )

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        because, holds = [], True
        for variant, seed, run in _runs_of(results, "penalty"):
            inside = run.value("slope_interpolates")
            outside = max(run.value(f"slope_{place}") for place in PLACES[1:])
            holds = holds and outside >= self.factor * inside
            because.append(
                f"{variant}, seed {seed}: largest slope {inside:.2f} on the interpolates, "
                f"{outside:.2f} elsewhere ({outside / inside:.2f} times)"
            )
        for variant, seed, run in _runs_of(results, "spectral"):
            bounds = [y for _, y in run.curves["upper_bound"]]
            slopes = [max(y for _, y in run.curves[f"slope_{place}"]) for place in PLACES]
            below = all(
                y <= bound
                for place in PLACES
                for (_, y), bound in zip(run.curves[f"slope_{place}"], bounds, strict=True)
            )
            holds = holds and below and max(bounds) <= self.drift * min(bounds)
            because.append(
                f"{variant}, seed {seed}: slopes up to {max(slopes):.2f}, "
                f"{'all' if below else 'not all'} below the bound, which moved between "
                f"{min(bounds):.3g} and {max(bounds):.3g}"
            )
        return Verdict(holds=holds, because=tuple(because))

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Largest slope by step, a panel a variant, each place a colour."""
        drawn = figure(9.0, 7.0)
        panels = drawn.subplots(2, 2, sharex=True, sharey=True).flat
        for axes, variant in zip(panels, self.variants, strict=True):
            for i, run in enumerate(results.of(variant).values()):
                for place, color in zip(PLACES, ("C0", "C1", "C2"), strict=True):
                    x, y = zip(*run.curves[f"slope_{place}"], strict=True)
                    label = None if i else place.replace("_", " ")
                    axes.plot(x, y, ".-", color=color, label=label, alpha=0.8)
                if variant in _variants("spectral"):
                    x, y = zip(*run.curves["upper_bound"], strict=True)
                    axes.plot(x, y, "k--", label=None if i else "product bound", lw=1)
            axes.set(xlabel="step", ylabel="largest |dD/dx|", title=variant, yscale="log")
            axes.label_outer()
            axes.grid(alpha=0.3, which="both")
        drawn.legend(
            *drawn.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4
        )
        drawn.suptitle(f"The claim {verdict}.", fontsize="medium")
        save(drawn, path)


def _variants(constraint: str) -> list[str]:
    return [variant for variant in VARIANTS if variant.startswith(constraint)]


def _runs_of(results: Results, constraint: str) -> Iterator[tuple[str, int, RunResult]]:
    for variant in _variants(constraint):
        for seed, run in results.of(variant).items():
            yield variant, seed, run


def _curves(
    log: Path, last: Mapping[str, ResultRecord]
) -> tuple[dict[str, list[tuple[float, float]]], float]:
    """Points (step, value) of every metric, the distance by second too, and seconds a step."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    times = {row["step"]: row["train/seconds"] for row in rows if "train/seconds" in row}
    elapsed, clock = 0.0, {}
    for step in sorted(times):
        elapsed += times[step]
        clock[step] = elapsed
    final = max(times)
    curves = {
        metric: [(row["step"], row[f"val/{metric}"]) for row in rows if f"val/{metric}" in row]
        + [(final, record.value)]
        for metric, record in last.items()
    }
    distance = curves["frechet_distance"]
    curves["frechet_distance_by_second"] = [(clock[int(step)], y) for step, y in distance]
    return curves, fmean(times.values())


def _record_of(like: ResultRecord, metric: str, value: float) -> ResultRecord:
    return replace(like, metric=metric, value=value, split="train")
