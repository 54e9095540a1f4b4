"""Does a conditional VAE draw the class that it is asked for? A classifier says.

The classifier is other weights, found by name through the registry, and so is the metric: this
plugin imports no other.

References:
    [1] Su Jianlin, https://kexue.fm/archives/5253, the section on CVAE
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch

import kexue_core as kexue
from kexue_core.api import provenance
from kexue_core.experiments import (
    Curve,
    Experiment,
    Results,
    RunContext,
    Verdict,
    compare,
    published_sha256,
)
from kexue_core.images import grid
from kexue_core.metrics import Subject, find_metric
from kexue_core.training.records import ResultRecord, device_name, read_records, versions
from kexue_vae.conditional import CVAEFashion, CVAEFashionConfig

__all__ = ["Classes"]

#: Samples of a run, as many of each class.
SAMPLES, QUICK_SAMPLES = 5_000, 100

#: Share of samples on which the classifier has to agree.
LEAST = 0.9

#: Variant -> weight of the judge, see :mod:`kexue_vae.judge`.
ADVERSARIAL: Mapping[str, float] = {"prior-alone": 0.0, "judge": CVAEFashionConfig().adversarial}


class Classes(Experiment):
    """[1]: with one prior mean a class, drawing from the prior of a class gives the class."""

    name = study = "cvae-classes"
    claim = "A CVAE whose classes differ in their prior's mean alone draws the class asked for"
    post = 5253
    papers = ("1312.6114",)
    criterion = (
        f"the classifier classifier-fashion agrees with the class asked for on at least {LEAST:.0%}"
        " of prior-alone's samples at temperature 1, on every seed; judge, the same trained along "
        "with a judge of samples, is there for comparison"
    )
    variants: ClassVar[tuple[str, ...]] = tuple(ADVERSARIAL)
    features: ClassVar[str] = "classifier-fashion"
    metric: ClassVar[str] = "class_agreement"

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """The config of the variant, the classifier and the number of samples."""
        return {
            "config": asdict(_config(variant, quick=quick)),
            "features": published_sha256(self.features),
            "samples": QUICK_SAMPLES if quick else SAMPLES,
        }

    def identity(self, data: str | None) -> str:
        """Fingerprint of the training images."""
        return CVAEFashion(CVAEFashionConfig()).data(data, "train").fingerprint

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train, draw and classify."""
        recipe = CVAEFashion(_config(variant, quick=context.quick))
        folder = context.train(
            recipe,
            name=f"{self.study}-{variant}",
            model="kexue-vae::cvae",
            seed=seed,
        )
        trained = read_records(folder / "results.jsonl")[-1].weights
        model = kexue.load(f"file:{folder / 'weights'}", device="cpu")
        known = provenance(model)
        assert known is not None
        found = find_metric("class-agreement")
        metric = found.factory(
            found.factory.Config(features=self.features, seed=seed, options=("temperature=1.0",))
        )
        measured = metric.measure(
            Subject(
                name=f"{self.study}-{variant}",
                model=model,
                config=known.config,
                source=context.data or CVAEFashion.hub,
                split="val",
                limit=QUICK_SAMPLES if context.quick else SAMPLES,
                device=torch.device("cpu"),
            )
        )
        return [
            ResultRecord(
                metric=name,
                value=value,
                dataset="samples of the prior, asked for each class alike",
                split="prior",
                n=measured.n,
                seed=seed,
                command=context.command,
                weights=trained,
                versions=versions("kexue-vae", found.distribution),
                device=device_name("cpu"),
                settings=measured.settings,
            )
            for name, value in measured.values.items()
        ], {}

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        because = tuple(
            f"{variant}, seed {run.seed}: the classifier agrees on {run.value(self.metric):.1%}"
            for variant in self.variants
            for run in results.of(variant).values()
        )
        drawn = results.of("prior-alone").values()
        return Verdict(
            holds=all(run.value(self.metric) >= LEAST for run in drawn),
            because=because,
            comparisons=(
                compare(
                    results,
                    self.metric,
                    better="judge",
                    worse="prior-alone",
                    higher_is_better=True,
                ),
            ),
        )

    @torch.no_grad()
    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """A column a class, three samples of each: those of prior-alone above, of judge below."""
        images = []
        for variant in self.variants:
            run = min(results.of(variant).values(), key=lambda run: run.seed)
            assert run.folder is not None
            model = kexue.load(f"file:{run.folder / 'training' / 'weights'}", device="cpu")
            images.append(
                kexue.sample(model, 30, seed=run.seed, labels=list(range(10)), temperature=1.0)
            )
        grid(torch.cat(images), 10).save(path, optimize=True)


def _config(variant: str, *, quick: bool) -> CVAEFashionConfig:
    """Half the recipe's steps, and few samples for a bound that is not looked at here."""
    return CVAEFashionConfig(
        steps=40 if quick else CVAEFashionConfig().steps // 2,
        preview_every=0,
        evaluation_samples=5,
        adversarial=ADVERSARIAL[variant],
    )
