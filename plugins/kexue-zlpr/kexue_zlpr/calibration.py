"""Which probability do ZLPR's logits give? Soft labels whose true probabilities are known.

References:
    [1] Su Jianlin, https://kexue.fm/archives/9064
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kexue_core.experiments import Curve, Experiment, Results, RunContext, Verdict, compare
from kexue_core.training.records import ResultRecord, device_name, versions
from kexue_zlpr.zlpr import soft_zlpr_loss, zlpr_prob

__all__ = ["Calibration"]

#: Bins of the curve from logit to probability.
BINS = 15


class Calibration(Experiment):
    """sigmoid(2 s) against sigmoid(s), trained on soft and on hard labels."""

    name = "zlpr-calibration"
    claim = "Trained on soft labels with ZLPR, the probability of a class is sigmoid(2 s)"
    post = 9064
    criterion = (
        "On unseen inputs whose probabilities are known, the mean absolute error of sigmoid(2 s) "
        "is below half of that of sigmoid(s) with soft labels, on every seed"
    )
    variants: ClassVar[tuple[str, ...]] = ("soft", "hard")
    seeds = 5
    study = "zlpr-calibration"

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """The problem and the training."""
        return {"steps": 200 if quick else 3000, "inputs": 20, "classes": 10, "batch_size": 256}

    def identity(self, data: str | None) -> str:
        """The data is drawn."""
        return "synthetic"

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train a net on labels of known probability; measure both readings of its logits."""
        settings = self.settings(variant, quick=context.quick)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            logits, truth = _train(settings, hard=variant == "hard")
        readings = {"sigmoid_2s": zlpr_prob(logits), "sigmoid_s": zlpr_prob(logits, loss="hard")}
        records = [
            ResultRecord(
                metric=f"mae_{name}",
                value=float((found - truth).abs().mean()),
                dataset="synthetic",
                split="test",
                n=len(truth),
                seed=seed,
                command=context.command,
                weights="",  # the nets are not kept
                versions=versions("kexue-zlpr"),
                device=device_name("cpu"),
                settings={**settings, "labels": variant},
            )
            for name, found in readings.items()
        ]
        return records, {"truth": _curve(logits, truth)}

    def verdict(self, results: Results) -> Verdict:
        """Half of the error, on every seed."""
        runs = results.of("soft").values()
        pairs = [(r.value("mae_sigmoid_2s"), r.value("mae_sigmoid_s")) for r in runs]
        because = [
            f"{labels} labels: mean absolute error of sigmoid(2 s) "
            f"{fmean(r.value('mae_sigmoid_2s') for r in results.of(labels).values()):.4f}, of "
            f"sigmoid(s) {fmean(r.value('mae_sigmoid_s') for r in results.of(labels).values()):.4f}"
            for labels in self.variants
        ]
        harder = compare(results, "mae_sigmoid_2s", better="soft", worse="hard")
        because.append(str(harder))
        return Verdict(
            holds=all(a < b / 2 for a, b in pairs), because=tuple(because), comparisons=(harder,)
        )

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """True probability by logit, with both sigmoids."""
        from kexue_core.plots import figure, save

        drawn = figure()
        axes = drawn.subplots()
        s = torch.linspace(-4, 4, 200)
        axes.plot(s, torch.sigmoid(2 * s), "k-", lw=1, label="sigmoid(2 s)")
        axes.plot(s, torch.sigmoid(s), "k:", lw=1, label="sigmoid(s)")
        for labels, mark in zip(self.variants, "ox", strict=True):
            points = [p for run in results.of(labels).values() for p in run.curves["truth"]]
            axes.plot(*zip(*points, strict=True), mark, ms=4, alpha=0.6, label=f"{labels} labels")
        axes.set(xlabel="logit s", ylabel="true probability", xlim=(-4, 4))
        axes.set_title(f"sigmoid(2 s) is the probability: the claim {verdict}", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.legend()
        save(drawn, path)


def _train(settings: Mapping[str, Any], *, hard: bool) -> tuple[Tensor, Tensor]:
    """Logits and true probabilities, (4096, classes), of inputs that were not trained on."""
    inputs, classes = settings["inputs"], settings["classes"]
    # The true logits are a random linear map with negative bias: most labels are false, as usual.
    weight = torch.randn(inputs, classes) / inputs**0.5 * 1.5

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, inputs)
        return x, torch.sigmoid(x @ weight - 1)

    net = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, classes))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, settings["steps"])
    for _ in range(settings["steps"]):
        x, t = draw(settings["batch_size"])
        optimizer.zero_grad()
        target = torch.bernoulli(t) if hard else t
        soft_zlpr_loss(net(x), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    x, t = draw(4096)
    with torch.no_grad():
        logits: Tensor = net(x)
    return logits, t


def _curve(logits: Tensor, truth: Tensor) -> list[tuple[float, float]]:
    """Mean logit and mean true probability of equally full bins of logits."""
    order = logits.flatten().argsort()
    s = torch.tensor_split(logits.flatten()[order], BINS)
    t = torch.tensor_split(truth.flatten()[order], BINS)
    return [(float(a.mean()), float(b.mean())) for a, b in zip(s, t, strict=True)]
