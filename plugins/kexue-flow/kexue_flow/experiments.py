"""What the posts and papers claim about flows, put to the test.

Three comparisons of Glow's parts share one study: a small Glow of Fashion-MNIST and four others
that differ from it in one part each, all with the same budget of steps. NICE and RealNVP have a
study of two variants each.

References:
    [1] Kingma & Dhariwal, Glow, 2018. https://arxiv.org/abs/1807.03039
    [2] Su Jianlin, https://kexue.fm/archives/5776 and https://kexue.fm/archives/5807
    [3] Dinh, Krueger & Bengio, NICE, 2014. https://arxiv.org/abs/1410.8516
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

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
from kexue_core.training.recipe import RecipeConfig
from kexue_core.training.records import ResultRecord, read_records
from kexue_flow.glow import Glow
from kexue_flow.mnist import NICEMNIST, NICEMNISTConfig, RealNVPMNIST, RealNVPMNISTConfig
from kexue_flow.recipes import FlowRecipe, GlowFashion, GlowFashionConfig

__all__ = [
    "AffineCoupling",
    "Checkerboard",
    "NICEPrior",
    "Permutation",
    "SmallGlow",
    "SmallGlowConfig",
    "SmallNICE",
    "SmallNICEConfig",
    "SmallRealNVP",
    "SmallRealNVPConfig",
    "SplitPrior",
]

METRIC = "bits_per_dim"

#: Smallest mean advantage that counts, in bits per dimension. The seeds of a short run scatter by
#: a few thousandths; an advantage below a hundredth would not be worth a part of a model.
MARGIN = 0.01

#: How much worse, in bits per dimension, still counts as as good.
TOLERANCE = 0.05

#: Points of a curve.
POINTS = 25

#: Variant -> the one part in which it differs from ``base``.
VARIANTS: Mapping[str, Mapping[str, str]] = {
    "base": {},
    "standard-prior": {"split_prior": "standard"},
    "shuffle": {"permutation": "shuffle"},
    "reverse": {"permutation": "reverse"},
    "additive": {"coupling": "additive"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallGlowConfig(GlowFashionConfig):
    """A Glow that one core trains in a minute, with the parts that are compared.

    The learning rate is high for the sake of that minute, in all variants alike.

    Attributes:
        coupling, permutation, split_prior: See :class:`kexue_flow.glow.GlowConfig`.
    """

    steps: int = 500
    evaluate_every: int = 0
    preview_every: int = 0
    checkpoint_every: int = 250
    depth: int = 4
    hidden: int = 64
    learning_rate: float = 5e-3
    warmup: int = 50
    net_dtype: Literal["float32", "bfloat16"] = "float32"
    coupling: str = "affine"
    permutation: str = "conv-lu"
    split_prior: str = "learned"


class SmallGlow(GlowFashion):
    """The recipe of every run of the study."""

    Config = SmallGlowConfig
    config: SmallGlowConfig

    def flow(self) -> Glow:
        """A Glow with the parts of the config."""
        c = self.config
        parts = {name: getattr(c, name) for name in ("coupling", "permutation", "split_prior")}
        return Glow(replace(super().flow().config, **parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallNICEConfig(NICEMNISTConfig):
    """A NICE that one core trains in half a minute."""

    steps: int = 600
    evaluate_every: int = 0
    preview_every: int = 0
    checkpoint_every: int = 300
    hidden: int = 256
    learning_rate: float = 3e-3
    warmup: int = 50
    net_dtype: Literal["float32", "bfloat16"] = "float32"


class SmallNICE(NICEMNIST):
    """The recipe of both runs of NICE's study, on the data of the others."""

    Config = SmallNICEConfig
    hub = GlowFashion.hub


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallRealNVPConfig(RealNVPMNISTConfig):
    """A RealNVP that one core trains in a minute."""

    steps: int = 400
    evaluate_every: int = 0
    preview_every: int = 0
    checkpoint_every: int = 200
    learning_rate: float = 3e-3
    warmup: int = 50


class SmallRealNVP(RealNVPMNIST):
    """The recipe of both runs of RealNVP's study, on the data of the others."""

    Config = SmallRealNVPConfig
    hub = GlowFashion.hub


class _Parts(Experiment):
    """A comparison of variants of one small flow; of Glow, where a subclass says nothing else."""

    study = "glow-parts"
    post = 5807
    papers: ClassVar[tuple[str, ...]] = ("1807.03039",)
    model: ClassVar[str] = "glow"
    recipe: ClassVar[type[FlowRecipe]] = SmallGlow
    #: Variant -> settings of the recipe.
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = VARIANTS

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        settings = asdict(self._config(variant, quick=quick))
        del settings["reversible"]  # changes what a run takes, not what comes of it
        return settings

    def identity(self, data: str | None) -> str:
        return self.recipe(self.recipe.Config()).data(data, "train").fingerprint

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        config = self._config(variant, quick=context.quick)
        folder = context.train(
            self.recipe(config),
            name=f"{self.study}-{variant}",
            model=f"kexue-flow::{self.model}",
            seed=seed,
        )
        records = read_records(folder / "results.jsonl")
        [final] = [r for r in records if r.metric == METRIC][-1:]
        return [final], {METRIC: _curve(folder / "log.jsonl")}

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        plot_curves(
            results,
            METRIC,
            path,
            variants=self.variants,
            title=f"{self.claim}:\n{verdict}",
            ylabel="bits per dimension while training",
        )

    def _config(self, variant: str, *, quick: bool) -> RecipeConfig:
        budget = {"steps": 60, "warmup": 10} if quick else {}
        return self.recipe.Config(**budget, **self.parts[variant])

    @staticmethod
    def _better(results: Results, better: str, worse: str) -> Comparison:
        return compare(results, METRIC, better=better, worse=worse, margin=MARGIN)


def _curve(log: Path) -> list[tuple[float, float]]:
    """Points (step, bits per dimension of the training batches), means over a few steps each."""
    rows = list(map(json.loads, log.read_text(encoding="utf-8").splitlines()))
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    window = max(1, len(losses) // POINTS)
    groups = [losses[i : i + window] for i in range(0, len(losses), window)]
    return [(group[-1][0], fmean(loss for _, loss in group)) for group in groups]


_RULE = f"by at least {MARGIN} bits a dimension on average, and on every seed"


class SplitPrior(_Parts):
    """[2]: the half that a level splits off should not have to be independent of the other."""

    name = "glow-split-prior"
    claim = "A learned conditional prior of what is split off beats a standard normal"
    criterion = f"base is below standard-prior {_RULE}"
    variants: ClassVar[tuple[str, ...]] = ("base", "standard-prior")

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        return Verdict.of(self._better(results, "base", "standard-prior"))


class Permutation(_Parts):
    """[1, figure 3]: the generalised permutation is learned."""

    name = "glow-permutation"
    claim = "An invertible 1x1 convolution beats a random shuffle, which beats reversing"
    criterion = f"base is below shuffle, and shuffle below reverse, each {_RULE}"
    variants: ClassVar[tuple[str, ...]] = ("base", "shuffle", "reverse")

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        return Verdict.of(
            self._better(results, "base", "shuffle"), self._better(results, "shuffle", "reverse")
        )


class AffineCoupling(_Parts):
    """[1, figure 3], and the step from NICE to RealNVP."""

    name = "glow-affine"
    post = 5776
    papers = ("1605.08803", "1807.03039")
    claim = "An affine coupling beats an additive one"
    criterion = f"base is below additive {_RULE}"
    variants: ClassVar[tuple[str, ...]] = ("base", "additive")

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        return Verdict.of(self._better(results, "base", "additive"))


class NICEPrior(_Parts):
    """[3, section 3.4]: the tails of the prior decide what an unusual pixel costs."""

    name = study = "nice-prior"
    post = 5776
    papers = ("1410.8516",)
    model = "nice"
    recipe = SmallNICE
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "logistic": {"prior": "logistic"},
        "normal": {"prior": "normal"},
    }
    claim = "NICE fits images better with a logistic prior than with a normal one"
    criterion = f"logistic is below normal {_RULE}"
    variants: ClassVar[tuple[str, ...]] = ("logistic", "normal")

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        return Verdict.of(self._better(results, "logistic", "normal"))


class Checkerboard(_Parts):
    """[2]: shuffling channels is enough, and keeps neighbours together."""

    name = study = "realnvp-checkerboard"
    papers = ("1605.08803",)
    model = "realnvp"
    recipe = SmallRealNVP
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "checkerboard": {"checkerboard": True},
        "channels": {"checkerboard": False},
    }
    claim = "The checkerboard of RealNVP buys little: halves of the channels do as well"
    criterion = (
        f"channels is on average at most {TOLERANCE} bits a dimension above checkerboard, with as "
        "many couplings and steps"
    )
    variants: ClassVar[tuple[str, ...]] = ("checkerboard", "channels")

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        pairs = compare(results, METRIC, better="checkerboard", worse="channels")
        loss = fmean(pairs.advantages)
        shown = ", ".join(f"{a:+.3f}" for a in pairs.advantages)
        because = f"channels less checkerboard: {shown} bits a dimension, {loss:+.3f} on average"
        return Verdict(holds=loss <= TOLERANCE, because=(because,))
