"""What post 6671 claims of the parts of its system, put to the test.

One study: a small network on DuIE, and others that differ from it in one part each, all with the
same budget of steps.

References:
    Su Jianlin, https://kexue.fm/archives/6671
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from kexue_core.experiments import (
    Comparison,
    Curve,
    Experiment,
    Results,
    RunContext,
    Verdict,
    compare,
)
from kexue_core.plots import plot_curves
from kexue_core.training.records import ResultRecord, read_records
from kexue_dgcnn_ie.recipes import DGCNNDuIE, DGCNNDuIEConfig

__all__ = ["Features", "Network", "SmallConfig", "SwappedEntities"]

METRICS = ("f1", "precision", "recall", "f1_unrepaired")

#: Smallest mean advantage in F1 that counts: a hundredth, several times the scatter of seeds.
MARGIN = 0.01

#: Variant -> what differs from ``base``.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "no-dilation": {"dilations": (1, 1, 1, 1, 1, 1)},
    "no-gate": {"gate": False},
    "no-attention": {"attention": False},
    "no-swap": {"swap": 0.0},
    "distant": {"distant": True},
    "words": {"words": True},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallConfig(DGCNNDuIEConfig):
    """Half the width and layers, and a high learning rate for the sake of a short training."""

    steps: int = 1_600
    ema: float = 0.99
    evaluate_every: int = 400
    checkpoint_every: int = 800
    width: int = 64
    dilations: tuple[int, ...] = (1, 2, 5, 1, 2, 5)
    heads: int = 4
    dropout: float = 0.1
    learning_rate: float = 3e-3
    warm_up: int = 200
    pretrain_steps: int = 0
    word_width: int = 32


class _Parts(Experiment):
    """Variants of the small network."""

    study = "dgcnn-ie-parts"
    post = 6671

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """The config of the variant."""
        return asdict(_config(variant, quick=quick))

    def identity(self, data: str | None) -> str:
        """Fingerprint of the training texts."""
        return DGCNNDuIE(SmallConfig()).data(data, "train").fingerprint

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Train a variant, and measure it on the validation split."""
        folder = context.train(
            DGCNNDuIE(_config(variant, quick=context.quick)),
            name=f"{self.study}-{variant}",
            model="kexue-dgcnn-ie::dgcnn-ie",
            seed=seed,
        )
        records = read_records(folder / "results.jsonl")
        final = [[r for r in records if r.metric == metric][-1] for metric in METRICS]
        steps = _config(variant, quick=context.quick).steps
        return final, {"f1": [*_curve(folder / "log.jsonl"), (steps, final[0].value)]}

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """F1 while training."""
        plot_curves(
            results,
            "f1",
            path,
            variants=self.variants,
            title=f"{self.claim}:\n{verdict}",
            ylabel="F1 on the validation split",
        )

    @staticmethod
    def _better(results: Results, better: str, worse: str) -> Comparison:
        return compare(
            results, "f1", better=better, worse=worse, margin=MARGIN, higher_is_better=True
        )


def _config(variant: str, *, quick: bool) -> SmallConfig:
    budget: dict[str, Any] = {"steps": 40, "warm_up": 10, "evaluate_every": 20} if quick else {}
    return SmallConfig(**budget, **VARIANTS[variant])


def _curve(log: Path) -> list[tuple[float, float]]:
    """Points (step, F1) of the evaluations while training."""
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [(row["step"], row["val/f1"]) for row in rows if "val/f1" in row]


_RULE = f"by at least {MARGIN} in F1 on average, and on every seed"


class Network(_Parts):
    """What the network is made of."""

    name = "dgcnn-ie-network"
    claim = "Dilation, gates and self-attention each help"
    criterion = f"base is above no-dilation, no-gate and no-attention, each {_RULE}"
    variants: ClassVar[tuple[str, ...]] = ("base", "no-dilation", "no-gate", "no-attention")

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        return Verdict.of(*(self._better(results, "base", v) for v in self.variants[1:]))


class SwappedEntities(_Parts):
    """The augmentation."""

    name = "dgcnn-ie-swap"
    claim = "Swapping entity pairs between texts helps"
    criterion = f"base is above no-swap {_RULE}"
    variants: ClassVar[tuple[str, ...]] = ("base", "no-swap")

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        return Verdict.of(self._better(results, "base", "no-swap"))


class Features(_Parts):
    """Distant supervision, and the character-word mixed embedding."""

    name = "dgcnn-ie-features"
    claim = "Distant supervision and word vectors each help"
    criterion = f"distant and words are above base, each {_RULE}"
    variants: ClassVar[tuple[str, ...]] = ("base", "distant", "words")

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        return Verdict.of(*(self._better(results, v, "base") for v in self.variants[1:]))
