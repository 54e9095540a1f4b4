"""Does the conditional VAE draw the class that it is asked for? A classifier says.

The classifier is other weights, found by name through the registry, and so is the metric: this
plugin imports no other.

References:
    [1] Su Jianlin, https://kexue.fm/archives/5253, the section on CVAE
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

import kexue_core as kexue
from kexue_core.api import provenance
from kexue_core.errors import DataError, UnsupportedError
from kexue_core.experiments import Curve, Experiment, Results, RunContext, Verdict
from kexue_core.images import grid
from kexue_core.metrics import Subject, find_metric
from kexue_core.training.records import ResultRecord, device_name, versions

__all__ = ["Classes"]

#: Samples of a run, as many of each class.
SAMPLES, QUICK_SAMPLES = 5_000, 100

#: Share of samples on which the classifier has to agree.
LEAST = 0.9


class Classes(Experiment):
    """[1]: drawing from the prior of a class gives the class."""

    name = study = "cvae-classes"
    claim = "A CVAE draws the class that it is asked for"
    post = 5253
    papers = ("1312.6114",)
    criterion = (
        f"the classifier classifier-fashion agrees with the class asked for on at least {LEAST:.0%}"
        " of samples of cvae-fashion, drawn by its own sampler, on every seed"
    )
    weights: ClassVar[str] = "cvae-fashion"
    features: ClassVar[str] = "classifier-fashion"
    #: ``own`` is the sampler that the weights name; the others show what the temperature does.
    variants: ClassVar[tuple[str, ...]] = ("own", "temperature-1.0", "temperature-0.5")
    metric: ClassVar[str] = "class_agreement"

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """Both weights and the number of samples."""
        hashes = {name: _sha256(name) for name in (self.weights, self.features)}
        return {"weights": hashes, "samples": QUICK_SAMPLES if quick else SAMPLES}

    @cached_property
    def subject(self) -> tuple[torch.nn.Module, Any]:
        """The weights and their config."""
        model = kexue.load(self.weights, device="cpu")
        known = provenance(model)
        assert known is not None
        return model, known.config

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Draw and classify."""
        if context.data is None:
            raise DataError(
                "The classifier is measured on real images beside the samples",
                hint="Name Fashion-MNIST with --data",
            )
        model, config = self.subject
        found = find_metric("class-agreement")
        heat = variant.partition("-")[2]
        options = (f"temperature={heat}",) if heat else ()
        metric = found.factory(
            found.factory.Config(features=self.features, seed=seed, options=options)
        )
        measured = metric.measure(
            Subject(
                name=self.weights,
                model=model,
                config=config,
                source=context.data,
                split="val",
                limit=QUICK_SAMPLES if context.quick else SAMPLES,
                device=torch.device("cpu"),
            )
        )
        return [
            ResultRecord(
                metric=name,
                value=value,
                dataset=f"samples of {self.weights}",
                split="prior",
                n=measured.n,
                seed=seed,
                command=context.command,
                weights=_sha256(self.weights),
                versions=versions("kexue-vae", found.distribution),
                device=device_name("cpu"),
                settings=measured.settings,
            )
            for name, value in measured.values.items()
        ], {}

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        shares = {variant: results.of(variant).values() for variant in self.variants}
        because = tuple(
            f"{variant}, seed {run.seed}: the classifier agrees on {run.value(self.metric):.1%}"
            for variant, runs in shares.items()
            for run in runs
        )
        holds = all(run.value(self.metric) >= LEAST for run in shares["own"])
        return Verdict(holds=holds, because=because)

    @torch.no_grad()
    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """A column a class, four samples of each."""
        model, _ = self.subject
        images = kexue.sample(model, 40, seed=results[0].seed, labels=list(range(10)))
        grid(images, 10).save(path, optimize=True)


def _sha256(name: str) -> str:
    from kexue_core.registry import load_registry

    files = load_registry().find(name).files
    if "model.safetensors" not in files:
        raise UnsupportedError(
            f"{name} is not in the registry with its hash", hint="`kexue list` shows what is"
        )
    return files["model.safetensors"].sha256
