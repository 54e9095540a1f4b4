"""What post 5253 says of the KL term, put to the test on small VAEs with and without it.

References:
    [1] Su Jianlin, https://kexue.fm/archives/5253
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kexue_core.experiments import Curve, Experiment, Results, RunContext, Verdict, compare
from kexue_core.plots import figure, plot_curves, save
from kexue_core.training import Dataset
from kexue_core.training.records import ResultRecord, read_records
from kexue_vae.recipes import EVALUATION_BATCH, VAEMnist, VAEMnistConfig
from kexue_vae.vae import VAE

__all__ = ["Aggregate", "Noise", "SmallVAE", "SmallVAEConfig", "moments"]

#: Variant -> weight of the KL.
BETA: Mapping[str, float] = {"kl": 1.0, "no-kl": 0.0}

#: Without the KL the variance is to be at most this part of what it is with it.
LEFT = 0.1

#: "Close to N(0, I)": bounds on the mean of every dimension, and on its variance's distance from 1.
MEAN, VARIANCE = 0.2, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallVAEConfig(VAEMnistConfig):
    """A VAE of binarised MNIST that one core trains in seconds, with or without the KL."""

    steps: int = 2_500
    batch_size: int = 128
    ema: float = 0.99
    evaluate_every: int = 250
    preview_every: int = 0
    checkpoint_every: int = 500
    latent: int = 10
    widths: tuple[int, ...] = (256,)
    learning_rate: float = 1e-3
    warmup: int = 100
    iwae_steps: int = 0
    net_dtype: Literal["float32", "bfloat16"] = "float32"


class SmallVAE(VAEMnist):
    """The recipe of both variants; what it measures is the aggregate posterior."""

    Config = SmallVAEConfig
    config: SmallVAEConfig

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """The mean posterior variance, and how far the aggregate posterior is from N(0, I)."""
        assert isinstance(model, VAE)
        found = moments(model, data, limit=limit)
        return {
            "posterior_variance": float(found["posterior"].mean()),
            "largest_mean": float(found["mean"].abs().max()),
            "largest_variance_error": float((found["variance"] - 1).abs().max()),
        }


@torch.no_grad()
def moments(model: VAE, data: Dataset, *, limit: int | None = None) -> dict[str, Tensor]:
    """Moments over a data set, a dimension each, (d,), float64.

    ``posterior`` is the mean of the variances of q(z|x); ``mean`` and ``variance`` are those of
    the aggregate posterior, the mixture of all q(z|x): its variance is that of the means plus the
    mean of the variances, exactly.
    """
    n = min(len(data), limit or len(data))
    first = next(model.parameters())
    means, variances = [], []
    for start in range(0, n, EVALUATION_BATCH):
        batch = data.batch(range(start, min(n, start + EVALUATION_BATCH)))["image"]
        mean, log_var = model.posterior(batch.to(first.device, first.dtype))
        means.append(mean.double())
        variances.append(log_var.double().exp())
    mean, posterior = torch.cat(means), torch.cat(variances).mean(0)
    return {
        "posterior": posterior,
        "mean": mean.mean(0),
        "variance": mean.var(0, correction=0) + posterior,
    }


class _KL(Experiment):
    """A comparison of training with and without the KL."""

    study = "vae-kl"
    post = 5253
    papers: ClassVar[tuple[str, ...]] = ("1312.6114",)
    variants: ClassVar[tuple[str, ...]] = ("kl", "no-kl")

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        return asdict(self._config(variant, quick=quick))

    def identity(self, data: str | None) -> str:
        return SmallVAE(SmallVAEConfig()).data(data, "train").fingerprint

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        from kexue_core.loading import load_folder

        recipe = SmallVAE(self._config(variant, quick=context.quick))
        folder = context.train(
            recipe,
            name=f"{self.study}-{variant}",
            model="kexue-vae::vae",
            seed=seed,
        )
        model = load_folder(folder / "weights")
        assert isinstance(model, VAE)
        found = moments(model, recipe.data(context.data, "val"))
        rows = {name: values.tolist() for name, values in found.items()}
        (context.folder / "moments.json").write_text(json.dumps(rows), encoding="utf-8")
        latest = {r.metric: r for r in read_records(folder / "results.jsonl")}
        return [replace(r, command=context.command) for r in latest.values()], {
            "posterior_variance": _curve(folder / "log.jsonl", "val/posterior_variance")
        }

    @staticmethod
    def _config(variant: str, *, quick: bool) -> SmallVAEConfig:
        budget = {"steps": 100, "warmup": 10, "evaluate_every": 20} if quick else {}
        return SmallVAEConfig(beta=BETA[variant], **budget)  # type: ignore[arg-type]


class Noise(_KL):
    """[1]: without the KL the network would let the noise die, and be a plain autoencoder."""

    name = "vae-noise"
    claim = "Without the KL term the variance of the posterior vanishes; with it, it does not"
    criterion = (
        "the mean variance of q(z|x) over validation images and dimensions is, without the KL, at "
        f"most {LEFT:g} times what it is with it, on every seed"
    )

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        comparison = compare(results, "posterior_variance", better="no-kl", worse="kl")
        kept, left = results.of("kl"), results.of("no-kl")
        shares = {
            seed: left[seed].value("posterior_variance") / run.value("posterior_variance")
            for seed, run in kept.items()
        }
        because = tuple(
            f"seed {seed}: variance {kept[seed].value('posterior_variance'):.4f} with the KL, "
            f"{left[seed].value('posterior_variance'):.4f} without: {share:.3f} times"
            for seed, share in shares.items()
        )
        return Verdict(
            holds=max(shares.values()) <= LEFT, because=because, comparisons=(comparison,)
        )

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """The variance while training."""
        plot_curves(
            results,
            "posterior_variance",
            path,
            variants=self.variants,
            title=f"{self.claim}:\n{verdict}",
            ylabel="mean variance of q(z|x)",
        )


class Aggregate(_KL):
    """[1]: the KL makes the aggregate posterior standard normal, which is why one may sample."""

    name = "vae-aggregate"
    claim = "With the KL term the aggregate posterior is close to N(0, I)"
    criterion = (
        f"with the KL, the mean of every dimension over validation images is within {MEAN:g} of 0 "
        f"and its variance within {VARIANCE:g} of 1, on every seed"
    )

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion; the runs without KL are there for comparison."""
        because, holds = [], True
        for variant in self.variants:
            for seed, run in results.of(variant).items():
                mean, error = run.value("largest_mean"), run.value("largest_variance_error")
                because.append(
                    f"{variant}, seed {seed}: the largest mean of a dimension is {mean:.3f}, the "
                    f"variance furthest from 1 is off by {error:.3f}"
                )
                if variant == "kl":
                    holds = holds and mean <= MEAN and error <= VARIANCE
        return Verdict(holds=holds, because=tuple(because))

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """Mean and variance of every dimension, one mark a seed."""
        drawn = figure(7.2, 3.6)
        for axes, name, target in zip(
            drawn.subplots(1, 2), ("mean", "variance"), (0.0, 1.0), strict=True
        ):
            for shift, variant in zip((-0.15, 0.15), self.variants, strict=True):
                places: list[float] = []
                values: list[float] = []
                for run in results.of(variant).values():
                    assert run.folder is not None
                    found = json.loads((run.folder / "moments.json").read_text(encoding="utf-8"))
                    places += [i + shift for i in range(len(found[name]))]
                    values += found[name]
                axes.plot(places, values, ".", label=variant)
            axes.axhline(target, color="black", lw=0.8)
            axes.set(xlabel="dimension of z", title=f"{name} of the aggregate posterior")
            axes.grid(alpha=0.3)
            if name == "variance":
                axes.set_yscale("log")
        axes.legend()
        save(drawn, path)


def _curve(log: Path, metric: str) -> list[tuple[float, float]]:
    """Points (step, value) of what was evaluated while training."""
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [(row["step"], row[metric]) for row in rows if metric in row]
