"""Experiments that look at samples of published weights: temperature, and paths between latents.

Only latents drawn from the prior are decoded; no training image or its reconstruction is shown.

References:
    [1] Kingma & Dhariwal, Glow, 2018, section 6. https://arxiv.org/abs/1807.03039
    [2] Su Jianlin, https://kexue.fm/archives/5807
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

import kexue_core as kexue
from kexue_core.experiments import Curve, Experiment, Results, RunContext, Verdict, published_sha256
from kexue_core.images import grid
from kexue_core.latents import slerp
from kexue_core.training.records import ResultRecord, device_name, versions
from kexue_core.training.seeding import derive
from kexue_flow.glow import Glow

__all__ = [
    "FashionInterpolation",
    "FashionTemperature",
    "Interpolation",
    "Pictures",
    "Temperature",
]

#: Images that a figure is measured on; a full run of either takes a minute or two on one core.
IMAGES, QUICK_IMAGES = 64, 8
BATCH = 16


class Pictures(Experiment):
    """What these experiments share: the weights and how they are drawn from."""

    post = 5807
    papers = ("1807.03039",)
    seeds = 1
    #: The weights looked at.
    weights: ClassVar[str] = "glow-celeba"

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """The weights and the number of images."""
        return {"weights": self.sha256, "images": QUICK_IMAGES if quick else IMAGES}

    @cached_property
    def sha256(self) -> str:
        """sha256 of the published file."""
        return published_sha256(self.weights)

    @cached_property
    def glow(self) -> Glow:
        """The weights."""
        glow = kexue.load(self.weights, device="cpu")
        assert isinstance(glow, Glow)
        return glow

    def latents(self, seed: int, temperature: float, n: int) -> list[tuple[Tensor, ...]]:
        """Batches of prior latents; the same noise at every temperature."""
        generator = torch.Generator().manual_seed(derive(seed, "prior"))
        counts = [min(BATCH, n - first) for first in range(0, n, BATCH)]
        return [
            self.glow.prior(count, temperature=temperature, generator=generator) for count in counts
        ]

    def record(
        self, metric: str, value: float, n: int, seed: int, context: RunContext, **settings: Any
    ) -> ResultRecord:
        """A record of something measured on prior samples."""
        return ResultRecord(
            metric=metric,
            value=value,
            dataset=f"samples of {self.weights}",
            split="prior",
            n=n,
            seed=seed,
            command=context.command,
            weights=self.sha256,
            versions=versions("kexue-flow"),
            device=device_name("cpu"),
            settings=settings,
        )


class Temperature(Pictures):
    """[1, section 6]: sampling from p(x)^(1/T^2), for a flow by a prior of deviation T."""

    name = study = "glow-temperature"
    claim = "A lower temperature trades the variety of samples for their likelihood"
    criterion = (
        "from T = 0.5 to 1.0, the deviation of pixels between samples and the bits a dimension of "
        "the samples both rise at every step of 0.1"
    )
    variants: ClassVar[tuple[str, ...]] = ("0.5", "0.6", "0.7", "0.8", "0.9", "1.0")
    metrics: ClassVar[tuple[str, ...]] = ("pixel_deviation", "bits_per_dim")

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Measure samples at one temperature."""
        n = QUICK_IMAGES if context.quick else IMAGES
        generator = torch.Generator().manual_seed(derive(seed, "dequantization"))
        images, bits = [], []
        for latents in self.latents(seed, float(variant), n):
            decoded = self.glow.decode(latents)
            images.append(decoded)
            bits.append(self.glow.bits_per_dim(decoded, generator=generator))
        deviation = torch.cat(images).std(0).mean().item()
        values = zip(self.metrics, (deviation, torch.cat(bits).mean().item()), strict=True)
        return [
            self.record(metric, value, n, seed, context, temperature=float(variant))
            for metric, value in values
        ], {}

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        because, holds = [], True
        for metric in self.metrics:
            for seed in sorted({run.seed for run in results}):
                values = [results.of(t)[seed].value(metric) for t in self.variants]
                rises = all(a < b for a, b in itertools.pairwise(values))
                holds = holds and rises
                shown = ", ".join(f"{v:.3f}" for v in values)
                because.append(f"{metric} from T=0.5 to 1.0, seed {seed}: {shown}")
        return Verdict(holds=holds, because=tuple(because))

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Six samples, one a row; temperature rises from left to right."""
        columns = [
            torch.cat([self.glow.decode(z) for z in self.latents(results[0].seed, float(t), n=6)])
            for t in self.variants
        ]
        grid(torch.stack(columns, 1).flatten(0, 1), len(columns)).save(path, optimize=True)


class Interpolation(Pictures):
    """[2] and [1, section 6]: between two latents lie images that turn one into the other."""

    name = study = "glow-interpolation"
    claim = "A path between two latents decodes to a gradual change, without a jump"
    criterion = (
        "on at least 9 of 10 paths of 9 images, no two neighbours are further apart (root mean "
        "square of pixels) than half the distance of the ends"
    )
    variants: ClassVar[tuple[str, ...]] = ("great-circle",)
    temperature: ClassVar[float] = 0.7
    points: ClassVar[int] = 9
    metric: ClassVar[str] = "gradual_paths"

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Count the gradual paths between prior samples."""
        n = QUICK_IMAGES if context.quick else IMAGES
        gradual = 0
        for path in self._paths(seed, n):
            ends = _distance(path[0], path[-1])
            gradual += max(_distance(a, b) for a, b in itertools.pairwise(path)) <= ends / 2
        settings = {"temperature": self.temperature, "points": self.points}
        return [self.record(self.metric, gradual / n, n, seed, context, **settings)], {}

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        shares = [run.value(self.metric) for run in results]
        because = tuple(
            f"{share:.0%} of the paths are gradual, seed {run.seed}"
            for run, share in zip(results, shares, strict=True)
        )
        return Verdict(holds=min(shares) >= 0.9, because=because)

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Five paths, one a row."""
        rows = torch.cat(list(self._paths(results[0].seed, 5)))
        grid(rows, self.points).save(path, optimize=True)

    def _paths(self, seed: int, n: int) -> list[Tensor]:
        """Decoded paths, each (points, C, H, W), between 2 n prior samples."""
        batches = self.latents(seed, self.temperature, 2 * n)
        latents = [torch.cat(level) for level in zip(*batches, strict=True)]
        paths = []
        for i in range(n):
            start = tuple(z[2 * i : 2 * i + 1] for z in latents)
            end = tuple(z[2 * i + 1 : 2 * i + 2] for z in latents)
            walk = slerp(start, end, self.points)
            assert isinstance(walk, tuple)
            paths.append(self.glow.decode(walk))
        return paths


class FashionTemperature(Temperature):
    """The same of the weights of Fashion-MNIST."""

    name = study = "glow-fashion-temperature"
    weights = "glow-fashion"


class FashionInterpolation(Interpolation):
    """The same of the weights of Fashion-MNIST."""

    name = study = "glow-fashion-interpolation"
    weights = "glow-fashion"


def _distance(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().sqrt().item()
