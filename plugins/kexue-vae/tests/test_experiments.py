"""The experiments run, on data and weights of a size at which nothing can be claimed."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kexue_vae import VAE, VAEConfig
from kexue_vae.classes import Classes
from kexue_vae.conditional import CVAEFashionConfig
from kexue_vae.data import BinarizedOnce
from kexue_vae.experiments import Aggregate, Noise, SmallVAEConfig, moments

from kexue_core.experiments import Results, RunResult
from kexue_core.reproduce import entries, load_experiment, reproduce
from kexue_core.training.data import open_images
from kexue_core.training.records import ResultRecord


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Images in the files of MNIST."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (320, 28, 28), dtype=np.uint8)
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">IIII", 2051, 320, 28, 28) + images.tobytes())
    with gzip.open(folder / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">II", 2049, 320) + bytes(320))
    return folder


def record(metric: str, value: float) -> ResultRecord:
    return ResultRecord(
        metric=metric,
        value=value,
        dataset="",
        split="val",
        n=1,
        seed=0,
        command="",
        weights="0" * 64,
        versions={},
        device="cpu",
    )


def results(**runs: list[dict[str, float]]) -> Results:
    return Results(
        RunResult(
            variant=variant.replace("_", "-"),
            seed=seed,
            records=tuple(record(m, v) for m, v in values.items()),
        )
        for variant, seeds in runs.items()
        for seed, values in enumerate(seeds)
    )


def test_the_variants_differ_in_the_weight_of_the_kl_alone() -> None:
    kl, without = (Noise().settings(v, quick=False) for v in Noise.variants)
    assert {key for key in kl if kl[key] != without[key]} == {"beta"}
    assert (kl["beta"], without["beta"]) == (1.0, 0.0)
    assert Aggregate().settings("kl", quick=False) == kl  # one study: the runs are shared


def test_moments_are_those_of_samples_of_the_aggregate_posterior(digits: Path) -> None:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(latent=3, widths=(16,))).double().eval()
    with torch.no_grad():
        vae.encoder[-1].weight.mul_(20)  # posteriors that differ
    data = BinarizedOnce(open_images(digits, "train", size=28, channels=1), seed=0)
    found = moments(vae, data)
    x = data.batch(range(len(data)))["image"].double()
    posterior = vae.posterior(x)
    z, _ = vae.sample(posterior, torch.randn(len(x), 4000, 3, dtype=torch.float64))
    torch.testing.assert_close(found["posterior"], posterior[1].exp().mean(0))
    # A million draws: their moments are good to a percent.
    torch.testing.assert_close(found["mean"], z.mean((0, 1)), atol=0.02, rtol=0)
    torch.testing.assert_close(found["variance"], z.var((0, 1)), atol=0, rtol=0.02)


def test_from_data_to_report(digits: Path, tmp_path: Path, monkeypatch) -> None:
    tiny = SmallVAEConfig(steps=6, batch_size=16, latent=2, widths=(8,), evaluate_every=2, warmup=1)
    betas = {"kl": 1.0, "no-kl": 0.0}
    for experiment in (Noise, Aggregate):
        monkeypatch.setattr(
            experiment, "_config", lambda self, v, *, quick: replace(tiny, beta=betas[v])
        )
    out = tmp_path / "out"
    report = reproduce(Noise(), out=out, seeds=1, data=str(digits), device="cpu")
    assert [run["variant"] for run in report["runs"]] == ["kl", "no-kl"]
    for run in report["runs"]:
        metrics = {r["metric"] for r in run["records"]}
        assert metrics == {"posterior_variance", "largest_mean", "largest_variance_error"}
        assert [step for step, _ in run["curves"]["posterior_variance"]] == [2, 4]
    assert str(tmp_path) not in json.dumps(report)
    said: list[str] = []
    reproduce(Aggregate(), out=out, seeds=1, data=str(digits), device="cpu", say=said.append)
    assert said[0].endswith("kl, seed 0: was finished before")
    for name in ("vae-noise", "vae-aggregate"):
        assert (out / name / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_noise_has_to_vanish_on_every_seed() -> None:
    def judge(*left: float) -> bool:
        kept = [{"posterior_variance": 0.2} for _ in left]
        return (
            Noise().verdict(results(kl=kept, no_kl=[{"posterior_variance": v} for v in left])).holds
        )

    assert judge(0.019, 0.001)
    assert not judge(0.019, 0.021)


def test_the_aggregate_is_judged_with_the_kl_alone() -> None:
    good = {"largest_mean": 0.1, "largest_variance_error": 0.1}
    for bad in ({"largest_mean": 0.3}, {"largest_variance_error": 0.3}):
        worse = {**good, **bad}
        assert not Aggregate().verdict(results(kl=[good, worse], no_kl=[good, good])).holds
        assert Aggregate().verdict(results(kl=[good, good], no_kl=[worse, worse])).holds


def test_the_classes_have_to_be_drawn_without_a_judge_on_every_seed() -> None:
    def holds(alone: list[float], judge: list[float]) -> bool:
        runs = {
            "prior_alone": [{"class_agreement": v} for v in alone],
            "judge": [{"class_agreement": v} for v in judge],
        }
        return Classes().verdict(results(**runs)).holds

    assert holds([0.91, 0.90], [0.5, 0.5])
    assert not holds([0.91, 0.89], [0.99, 0.99])


def test_the_classes_differ_in_the_judge_alone() -> None:
    alone, judge = (Classes().settings(v, quick=False)["config"] for v in Classes.variants)
    assert {key for key in alone if alone[key] != judge[key]} == {"adversarial"}
    assert alone["adversarial"] == 0
    assert judge["adversarial"] == CVAEFashionConfig().adversarial


def test_every_entry_point_loads() -> None:
    ours = [entry.name for entry in entries() if entry.distribution == "kexue-vae"]
    assert ours == ["cvae-classes", "vae-aggregate", "vae-noise"]
    for name in ours:
        experiment = load_experiment(name)
        assert experiment.claim
        assert experiment.criterion
