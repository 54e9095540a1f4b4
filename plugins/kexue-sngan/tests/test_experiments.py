"""The experiments run on data at which nothing can be claimed, and judge by what they say."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kexue_sngan import robustness
from kexue_sngan.experiments import PLACES, RATES, VARIANTS, Constraint, Quality
from kexue_sngan.robustness import STRENGTHS, Robustness, accuracy_under, train_classifier

from kexue_core.experiments import Results, RunResult
from kexue_core.reproduce import entries, load_experiment, reproduce
from kexue_core.training.data import open_images
from kexue_core.training.records import ResultRecord


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Ten kinds of images, each a bright row of its own in noise, as files of Fashion-MNIST."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, n in (("train", 640), ("t10k", 64)):
        labels = np.arange(n, dtype=np.uint8) % 10
        images = rng.integers(0, 100, (n, 28, 28), dtype=np.uint8)
        images[np.arange(n), 2 * labels] = 255
        header = struct.pack(">IIII", 2051, n, 28, 28)
        with gzip.open(folder / f"{name}-images-idx3-ubyte.gz", "wb") as file:
            file.write(header + images.tobytes())
        with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 2049, n) + labels.tobytes())
    return folder


def run(
    variant: str, seed: int, curves: dict[str, Any] | None = None, **values: float
) -> RunResult:
    common = {"dataset": "d", "split": "val", "n": 1, "seed": seed, "command": "c", "weights": ""}
    records = [
        ResultRecord(metric=m, value=v, versions={}, device="cpu", **common)
        for m, v in values.items()
    ]
    return RunResult(variant=variant, seed=seed, records=tuple(records), curves=curves or {})


def test_they_are_found():
    names = {e.name for e in entries() if e.distribution == "kexue-sngan"}
    assert names == {"sngan-quality", "sngan-constraint", "spectral-robustness"}
    for name in names:
        assert load_experiment(name).seeds >= 3


def test_the_variants_differ_in_the_constraint_alone():
    for rate in RATES:
        ours, theirs = (
            Quality().settings(f"{c}-{rate:g}", quick=False) for c in ("spectral", "penalty")
        )
        assert {k for k in ours if ours[k] != theirs[k]} == {"spectral", "gradient_penalty"}
        assert ours["learning_rate"] == ours["critic_learning_rate"] == rate
    assert Quality.study == Constraint.study
    for variant in VARIANTS:
        assert Quality().settings(variant, quick=True) == Constraint().settings(variant, quick=True)


def test_gans_are_compared_end_to_end(idx_folder, tmp_path):
    reports = [
        reproduce(e, out=tmp_path / "out", seeds=1, quick=True, data=str(idx_folder))
        for e in (Quality(), Constraint())
    ]
    for report in reports:
        assert {r["variant"] for r in report["runs"]} == set(VARIANTS)
        assert (tmp_path / "out" / f"{report['experiment']}-quick" / "plot.png").is_file()
        for found in report["runs"]:
            curve = found["curves"]["frechet_distance"]
            assert [step for step, _ in curve] == [10, 20]
            seconds = [x for x, _ in found["curves"]["frechet_distance_by_second"]]
            assert 0 < seconds[0] < seconds[1]
    # the second experiment found the runs of the first
    assert reports[0]["runs"] == reports[1]["runs"]


def test_quality_is_judged_on_every_seed():
    def results(distance: float) -> Results:
        found = {
            "spectral-0.0002": (9.0, 9.0, 9.0),  # worse than at the other rate: not compared
            "spectral-0.002": (5.0, 5.0, 5.0),
            "penalty-0.0002": (6.0, 6.0, distance),
            "penalty-0.002": (9.0, 9.0, 9.0),
        }
        return Results(
            run(v, seed, frechet_distance=d, seconds_per_step=1 + v.startswith("penalty"))
            for v, distances in found.items()
            for seed, d in enumerate(distances)
        )

    assert Quality().verdict(results(6)).holds
    assert not Quality().verdict(results(4)).holds


@pytest.mark.parametrize(
    ("noise", "bounds", "slope", "holds"),
    [
        (3.0, (8.0, 9.0), 2.0, True),
        (1.2, (8.0, 9.0), 2.0, False),  # the penalty does not break
        (3.0, (8.0, 17.0), 2.0, False),  # the bound drifts
        (3.0, (8.0, 9.0), 8.5, False),  # a slope above the bound
    ],
)
def test_the_constraint_is_judged_as_the_criterion_says(noise, bounds, slope, holds):
    slopes = {"slope_interpolates": 1, "slope_between_classes": 1}
    good = run("penalty-0.0002", 0, **slopes, slope_noise=3)
    other = run("penalty-0.002", 0, **slopes, slope_noise=noise)
    curves: dict[str, Any] = {f"slope_{p}": [(1, slope), (2, 2.0)] for p in PLACES}
    curves["upper_bound"] = list(enumerate(bounds, 1))
    spectral = [run(f"spectral-{rate:g}", 0, curves) for rate in RATES]
    verdict = Constraint().verdict(Results([good, other, *spectral]))
    assert verdict.holds == holds
    assert len(verdict.because) == 4


def test_classifiers_are_compared_end_to_end(idx_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "QUICK_STEPS", 4)
    report = reproduce(Robustness(), out=tmp_path, seeds=1, quick=True, data=str(idx_folder))
    assert {r["variant"] for r in report["runs"]} == set(STRENGTHS)
    assert (tmp_path / "spectral-robustness-quick" / "plot.png").is_file()


def test_robustness_is_judged_as_the_criterion_says():
    def results(clean: float) -> Results:
        values = {
            "none": (0.90, 0.60, 0.50),
            "l2-0.0001": (0.90, 0.61, 0.51),
            "l2-0.001": (0.89, 0.90, 0.90),  # worse on the validation images: not chosen
            "spectral-0.01": (clean, 0.70, 0.55),
            "spectral-0.1": (0.10, 0.70, 0.55),
        }
        return Results(
            run(v, 0, accuracy=a, accuracy_val=a, accuracy_noise=b, accuracy_fgsm=c)
            for v, (a, b, c) in values.items()
        )

    assert Robustness().verdict(results(0.898)).holds
    assert not Robustness().verdict(results(0.892)).holds


def test_a_classifier_learns_and_fgsm_hurts_more_than_noise(idx_folder):
    data = open_images(idx_folder, "train", size=28, channels=1)
    model = train_classifier(data, seed=0, steps=30, decay=0.0, penalty=0.01)
    clean = accuracy_under(model, data, limit=200)
    assert clean > 0.9
    assert accuracy_under(model, data, noise=0.1, limit=200) > 0.8
    assert accuracy_under(model, data, fgsm=0.2, limit=200) < clean - 0.2


def test_the_start_of_a_classifier_is_the_seeds_alone(idx_folder):
    data = open_images(idx_folder, "train", size=28, channels=1)
    nets = [
        train_classifier(data, seed=1, steps=0, decay=d, penalty=p) for d, p in STRENGTHS.values()
    ]
    for net in nets[1:]:
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), nets[0].parameters()))  # noqa: B905
