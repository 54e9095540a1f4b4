"""Do the figures see what is wrong? Real images, disturbed more and more, against other real ones.

References:
    [1] Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, figure 3.
        https://arxiv.org/abs/1706.08500
    [2] Kynkaanniemi et al., Improved Precision and Recall Metric, 2019, section 4.
        https://arxiv.org/abs/1904.06991
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_core.errors import DataError
from kexue_core.experiments import Curve, Experiment, Results, RunContext, Verdict, published_sha256
from kexue_core.training.data import open_images
from kexue_core.training.records import ResultRecord, device_name, versions
from kexue_metrics.features import load_features
from kexue_metrics.quality import QualityFigures

__all__ = ["Disturbances", "TwoAxes"]

DATA = "zalando-datasets/fashion_mnist"
CLASSIFIER = "classifier-fashion"
#: From none to much: the same five levels for every disturbance.
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def noisy(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Mixed with uniform noise: at level 1 half and half."""
    noise = torch.rand(images.shape, generator=generator)
    return torch.lerp(images, noise, 0.5 * level)


def blurred(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Averaged by a Gaussian of up to 2 pixels' deviation."""
    if not level:
        return images
    x = torch.arange(-6.0, 7.0)
    kernel = torch.exp(-0.5 * (x / (2 * level)) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(images, (6, 6, 6, 6), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def covered(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """A black square somewhere in each image, up to half of its side."""
    n, _, height, width = images.shape
    side = round(0.5 * level * height)
    corner = (torch.rand(n, 2, 1, generator=generator) * (height - side + 1)).long()
    rows, columns = torch.arange(height), torch.arange(width)
    high = (rows >= corner[:, 0]) & (rows < corner[:, 0] + side)
    wide = (columns >= corner[:, 1]) & (columns < corner[:, 1] + side)
    return images.masked_fill((high[:, :, None] & wide[:, None, :])[:, None], 0.0)


#: A fourth, "dropped", chooses images instead of changing them.
CHANGES: Mapping[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "noisy": noisy,
    "blurred": blurred,
    "covered": covered,
}


def keep_classes(labels: Tensor, level: float) -> Tensor:
    """Where ``labels`` (n,) are of the classes that are left: all at level 0, two at level 1."""
    classes = int(labels.max()) + 1
    return labels < classes - round(level * (classes - 2))


class Disturbances(Experiment):
    """The Frechet distance against the level of four disturbances."""

    name = "quality-disturbances"
    claim = (
        "Over the features of a small classifier the Frechet distance grows with every "
        "disturbance of the images"
    )
    papers = ("1706.08500",)
    criterion = (
        "On every seed, and for noise, blur, covered squares and dropped classes, the distance "
        "rises from each of five levels to the next"
    )
    variants: ClassVar[tuple[str, ...]] = ("noisy", "blurred", "covered", "dropped")
    study = "quality"

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """Images of each set, and the levels."""
        # Two of ten classes must hold as many: 1,500 of the 8,500 test images that are left.
        features = published_sha256(CLASSIFIER)
        return {"n": 200 if quick else 1_500, "levels": list(LEVELS), "features": features}

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Every figure at every level; the records are of the highest."""
        n = int(self.settings(variant, quick=context.quick)["n"])
        features = load_features(CLASSIFIER)
        images = open_images(context.data or DATA, "test", size=features.size, channels=1)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=generator)
        real = features(images.batch(order[:n].tolist())["image"])
        rest = images.batch(order[n:].tolist())
        curves: dict[str, list[tuple[float, float]]] = {}
        for level in LEVELS:
            if variant == "dropped":
                chosen = rest["image"][keep_classes(rest["label"], level)][:n]
            else:
                chosen = CHANGES[variant](rest["image"][:n], level, generator)
            if len(chosen) < n:  # a distance of fewer would be biased by more
                raise DataError(f"{images.name} has {len(chosen):,} of {n:,} images at {level:g}")
            found = asdict(QualityFigures.of(real, features(chosen)))
            for metric, value in found.items():
                curves.setdefault(metric, []).append((level, value))
        records = [
            ResultRecord(
                metric=metric,
                value=points[-1][1],
                floor=points[0][1],
                dataset=images.name,
                split="test",
                n=n,
                seed=seed,
                command=context.command,
                weights=features.weights_sha256,
                versions=versions("kexue-metrics"),
                device=device_name("cpu"),
                settings={
                    "disturbance": variant,
                    "features": f"{features.name}@{features.weights_sha256}",
                    "data": images.fingerprint,
                },
            )
            for metric, points in curves.items()
        ]
        return records, curves

    def verdict(self, results: Results) -> Verdict:
        """Strictly rising, everywhere."""
        rising = True
        because = []
        for variant in self.variants:
            runs = results.of(variant).values()
            curves = [[y for _, y in run.curves["frechet_distance"]] for run in runs]
            rising = rising and all(a < b for c in curves for a, b in pairwise(c))
            means = ", ".join(f"{fmean(values):.3g}" for values in zip(*curves, strict=True))
            because.append(f"{variant}: {means} at the five levels")
        return Verdict(holds=rising, because=tuple(because))

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """The distance by level, on a logarithmic axis."""
        from kexue_core.plots import figure, save

        drawn = figure()
        axes = drawn.subplots()
        for variant in self.variants:
            axes.plot(*_mean_curve(results, variant, "frechet_distance"), "o-", label=variant)
        axes.set(xlabel="level of the disturbance", ylabel="Frechet distance", yscale="log")
        axes.set_title(f"It grows with every disturbance: the claim {verdict}", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.legend()
        save(drawn, path)


class TwoAxes(Disturbances):
    """Precision and recall against the same disturbances."""

    name = "quality-two-axes"
    claim = "What is left out costs recall and not precision, noise costs precision"
    papers = ("1904.06991",)
    criterion = (
        "On every seed, dropping eight of ten classes lowers recall by at least 0.3 and precision "
        "by at most 0.05, and noise lowers precision by at least 0.3"
    )

    def verdict(self, results: Results) -> Verdict:
        """The fall from the first level to the last."""
        falls = {
            (variant, metric): [_fall(run.curves[metric]) for run in results.of(variant).values()]
            for variant in ("dropped", "noisy")
            for metric in ("precision", "recall")
        }
        holds = (
            min(falls["dropped", "recall"]) >= 0.3
            and max(falls["dropped", "precision"]) <= 0.05
            and min(falls["noisy", "precision"]) >= 0.3
        )
        because = tuple(
            f"{variant}: {metric} falls by {fmean(values):.3f}"
            for (variant, metric), values in falls.items()
        )
        return Verdict(holds=holds, because=because)

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Recall against precision, a line a disturbance from its first level to its last."""
        from kexue_core.plots import figure, save

        drawn = figure()
        axes = drawn.subplots()
        for variant in self.variants:
            _, precision = _mean_curve(results, variant, "precision")
            _, recall = _mean_curve(results, variant, "recall")
            axes.plot(recall, precision, "o-", label=variant)
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set_title(f"Two axes of quality: the claim {verdict}", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.legend()
        save(drawn, path)


def _fall(points: Curve) -> float:
    return points[0][1] - points[-1][1]


def _mean_curve(results: Results, variant: str, metric: str) -> tuple[list[float], list[float]]:
    """Levels, and the mean over the seeds at each."""
    curves = [run.curves[metric] for run in results.of(variant).values()]
    levels = [level for level, _ in curves[0]]
    return levels, [fmean(y for _, y in points) for points in zip(*curves, strict=True)]
