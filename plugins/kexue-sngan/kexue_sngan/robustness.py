"""Does a penalty on spectral norms make a classifier less sensitive than weight decay does?

One small convolutional classifier of Fashion-MNIST, trained with neither, with weight decay in two
strengths and with the penalty in two; of each kind the strength with the better validation accuracy
is judged. Sensitivity is the loss of accuracy on test images with noise, and with the worst step
that the gradient's sign shows (FGSM [3]).

References:
    [1] Su Jianlin, https://kexue.fm/archives/6051
    [2] Yoshida & Miyato, Spectral Norm Regularization, 2017. arXiv 1705.10941
    [3] Goodfellow, Shlens & Szegedy, Adversarial examples, 2015. arXiv 1412.6572
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_core.experiments import Curve, Experiment, Results, RunContext, Verdict, compare
from kexue_core.plots import figure, save
from kexue_core.training import Dataset
from kexue_core.training.batches import Order
from kexue_core.training.data import open_images
from kexue_core.training.records import ResultRecord, device_name, versions
from kexue_core.training.seeding import derive
from kexue_sngan.penalty import SpectralNormPenalty

__all__ = ["Robustness", "accuracy_under", "train_classifier"]

HUB = "zalando-datasets/fashion_mnist"
SIZE, CLASSES, BATCH = 28, 10, 128
STEPS, QUICK_STEPS = 1_300, 20
LEARNING_RATE = 2e-3
#: Test images that are attacked; all of them would say the same to half a point.
TESTED, QUICK_TESTED = 10_000, 500

#: Variant -> (weight decay's factor, penalty's factor). [2] takes 1e-4 and 0.01.
STRENGTHS: Mapping[str, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "l2-0.0001": (1e-4, 0.0),
    "l2-0.001": (1e-3, 0.0),
    "spectral-0.01": (0.0, 0.01),
    "spectral-0.1": (0.0, 0.1),
}

#: Deviations of the noise, and steps of FGSM, on pixels in [0, 1].
NOISE = (0.05, 0.1, 0.2, 0.3)
STEPS_FGSM = (0.01, 0.02, 0.05, 0.1)


class Robustness(Experiment):
    """Accuracy under noise and FGSM: none, weight decay, spectral norm regularisation."""

    name = study = "spectral-robustness"
    claim = (
        "Spectral norm regularisation makes a classifier less sensitive to perturbations than "
        "weight decay or nothing, at no cost in accuracy"
    )
    post = 6051
    papers: ClassVar[tuple[str, ...]] = ("1705.10941",)
    #: Points of clean accuracy that the penalty may cost.
    tolerance: ClassVar[float] = 0.005
    criterion = (
        "of each kind the strength with the better mean validation accuracy is taken; mean test "
        "accuracy over the noise levels and over the FGSM steps is higher with the spectral "
        "penalty than with weight decay and than with neither, on every seed, and mean clean test "
        "accuracy is no more than half a point lower than either's"
    )
    variants: ClassVar[tuple[str, ...]] = tuple(STRENGTHS)

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """Strengths, steps and perturbations."""
        decay, penalty = STRENGTHS[variant]
        return {
            "l2": decay,
            "spectral": penalty,
            "steps": QUICK_STEPS if quick else STEPS,
            "batch_size": BATCH,
            "learning_rate": LEARNING_RATE,
            "noise": NOISE,
            "fgsm": STEPS_FGSM,
        }

    def identity(self, data: str | None) -> str:
        """The fingerprint of the training images."""
        fingerprint: str = _open(data, "train").fingerprint
        return fingerprint

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train and perturb one classifier."""
        decay, penalty = STRENGTHS[variant]
        steps = QUICK_STEPS if context.quick else STEPS
        model = train_classifier(
            _open(context.data, "train"), seed=seed, steps=steps, decay=decay, penalty=penalty
        )
        val, test = _open(context.data, "val"), _open(context.data, "test")
        limit = QUICK_TESTED if context.quick else TESTED
        noise = [(s, accuracy_under(model, test, noise=s, limit=limit)) for s in (0.0, *NOISE)]
        fgsm = [(0.0, noise[0][1])]
        fgsm += [(e, accuracy_under(model, test, fgsm=e, limit=limit)) for e in STEPS_FGSM]
        values = {
            "accuracy": noise[0][1],
            "accuracy_noise": fmean(a for _, a in noise[1:]),
            "accuracy_fgsm": fmean(a for _, a in fgsm[1:]),
            "accuracy_val": accuracy_under(model, val, limit=limit),
        }
        records = [
            ResultRecord(
                metric=metric,
                value=value,
                dataset=test.name,
                split="val" if metric.endswith("_val") else "test",
                n=min(limit, len(val if metric.endswith("_val") else test)),
                seed=seed,
                command=context.command,
                weights="",  # the classifiers are not kept
                versions=versions("kexue-sngan"),
                device=device_name("cpu"),
                settings=dict(self.settings(variant, quick=context.quick)),
            )
            for metric, value in values.items()
        ]
        return records, {"noise": noise, "fgsm": fgsm}

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        chosen = {kind: self._best(results, kind) for kind in ("l2", "spectral")}
        ours = chosen["spectral"]
        comparisons = [
            compare(results, metric, better=ours, worse=other, higher_is_better=True)
            for metric in ("accuracy_noise", "accuracy_fgsm")
            for other in (chosen["l2"], "none")
        ]
        clean = {v: _mean(results, v, "accuracy") for v in (ours, chosen["l2"], "none")}
        cheap = all(clean[ours] >= value - self.tolerance for value in clean.values())
        because = [str(c) for c in comparisons]
        because.append(
            "clean test accuracy: " + ", ".join(f"{v} {100 * a:.2f} %" for v, a in clean.items())
        )
        return Verdict(
            holds=cheap and all(c.holds for c in comparisons),
            because=tuple(because),
            comparisons=tuple(comparisons),
        )

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Accuracy by strength of the perturbation, a line a variant: the mean over its seeds."""
        drawn = figure(9.0, 4.0)
        labels = {"noise": "deviation of the noise", "fgsm": "step of FGSM"}
        for axes, (key, label) in zip(drawn.subplots(1, 2), labels.items(), strict=True):
            for variant in self.variants:
                curves = [run.curves[key] for run in results.of(variant).values()]
                points = list(zip(*curves, strict=True))
                x = [p[0][0] for p in points]
                axes.plot(x, [fmean(y for _, y in p) for p in points], ".-", label=variant)
            axes.set(xlabel=label, ylabel="test accuracy")
            axes.grid(alpha=0.3)
        drawn.axes[0].legend(fontsize=8)
        drawn.suptitle(f"The claim {verdict}.", fontsize="medium")
        save(drawn, path)

    def _best(self, results: Results, kind: str) -> str:
        """The strength of a kind with the best mean validation accuracy."""
        fitting = [v for v in self.variants if v.startswith(kind)]
        return max(fitting, key=lambda v: _mean(results, v, "accuracy_val"))


def train_classifier(
    data: Dataset, *, seed: int, steps: int, decay: float, penalty: float
) -> nn.Module:
    """A small convolutional classifier, the same start and batches for every strength."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "build"))
        model = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (SIZE // 4) ** 2, 128),
            nn.ReLU(),
            nn.Linear(128, CLASSES),
        )
    spectral = SpectralNormPenalty(penalty) if penalty else None
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    order = Order(len(data), BATCH, seed)
    for step in range(steps):
        batch = data.batch(order.indices(step))
        loss = F.cross_entropy(model(batch["image"]), batch["label"])
        if spectral is not None:
            loss = loss + spectral(model)
        if decay:  # in the loss, as the spectral penalty is, so that Adam treats both alike
            weights = (p for p in model.parameters() if p.ndim > 1)
            loss = loss + decay * torch.stack([w.square().sum() for w in weights]).sum()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
    return model.eval()


def accuracy_under(
    model: nn.Module, data: Dataset, *, noise: float = 0.0, fgsm: float = 0.0, limit: int
) -> float:
    """Accuracy on the first ``limit`` images, each perturbed and clipped to [0, 1]."""
    n, right = min(limit, len(data)), 0
    generator = torch.Generator().manual_seed(0)
    for first in range(0, n, 500):
        batch = data.batch(range(first, min(n, first + 500)))
        image, label = batch["image"], batch["label"]
        if noise:
            image = image + noise * torch.randn(image.shape, generator=generator)
        if fgsm:
            image = image + fgsm * _gradient(model, image, label).sign()
        with torch.no_grad():
            right += int((model(image.clamp(0, 1)).argmax(1) == label).sum())
    return right / n


def _gradient(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    image = image.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(image), label), image)
    return gradient


def _open(source: str | None, split: Any) -> Any:
    return open_images(source or HUB, split, size=SIZE, channels=1)


def _mean(results: Results, variant: str, metric: str) -> float:
    return fmean(run.value(metric) for run in results.of(variant).values())
