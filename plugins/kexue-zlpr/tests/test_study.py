"""The study's parts: thresholds, precision, p-values; a whole run on data made up here."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kexue_zlpr import study
from kexue_zlpr.calibration import Calibration
from kexue_zlpr.experiments import Losses, sign_flip, table
from kexue_zlpr.study import (
    DATASETS,
    LOSSES,
    average_precision,
    best_thresholds,
    open_parts,
    train_run,
)

from kexue_core.errors import DataError
from kexue_core.experiments import Results, RunContext, RunResult


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files in the form of two Mulan sets, their labels linear in the features."""
    rng = np.random.default_rng(0)
    for name, binary in (("emotions", False), ("medical", True)):
        weight = rng.normal(size=(12, 4))
        parts = {}
        for part, n in (("train", 200), ("test", 100)):
            x = rng.normal(size=(n, 12)) * 5 + 3
            x = (x > 3).astype(np.uint8) if binary else x.astype(np.float32)
            parts[f"{part}_x"] = x
            parts[f"{part}_y"] = ((x - x.mean(0)) @ weight > 2).astype(np.uint8)
        np.savez(tmp_path / DATASETS[name].file, labels=np.array(list("abcd")), **parts)
    return tmp_path


def test_parts_do_not_overlap_and_are_standardised(folder: Path) -> None:
    parts = open_parts("emotions", folder)
    assert [len(p[0]) for p in (parts.train, parts.dev, parts.test)] == [160, 40, 100]
    x = parts.train[0]
    torch.testing.assert_close(x.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(12))
    assert set(open_parts("medical", folder).train[0].unique().tolist()) == {0, 1}
    with pytest.raises(DataError, match="mulan_scene"):
        open_parts("scene", folder)


def test_a_run_is_a_function_of_its_seed_and_learns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = replace(DATASETS["emotions"], epochs=20)
    monkeypatch.setattr(study, "DATASETS", {**DATASETS, "emotions": shorter})
    first, curves = train_run("emotions", "zlpr", 3, folder)
    again, _ = train_run("emotions", "zlpr", 3, folder)
    assert {k: v for k, v in first.items() if k != "cpu_s"} == {
        k: v for k, v in again.items() if k != "cpu_s"
    }
    assert first["micro_f1"] > 0.7
    assert len(curves["dev_average_precision"]) == 20
    assert len(curves["f1_by_positives"]) == 4


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_runs(folder: Path, loss: str) -> None:
    found, _ = train_run("medical", loss, 0, folder, quick=True)
    assert all(0 <= found[m] <= 1 for m in ("micro_f1", "macro_f1_tuned", "dev_average_precision"))


def test_thresholds_and_precision() -> None:
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    logits = torch.where(target > 0, -1.0, -3.0) + 0.1 * torch.rand(4, 2)
    for threshold in best_thresholds(logits, target):
        assert torch.equal(logits > threshold, target > 0)
    assert average_precision(logits, target) == pytest.approx(1)
    # Ranks of the true: 1 and 3 of 4.
    ranked = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    found = average_precision(ranked, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_sign_flip_is_exact() -> None:
    assert sign_flip([1.0] * 8) == 2 / 256
    assert sign_flip([1.0, -1.0]) == 1
    # Of the 16 patterns of 1, 2, 3, -4 all but those with a sum of 0 are at least 2 from 0.
    assert sign_flip([1.0, 2.0, 3.0, -4.0]) == 14 / 16


def results(seed: int, values: dict[str, float]) -> Results:
    """Runs of an experiment in which each loss has one value everywhere, but for the tuned F1."""
    context = RunContext(folder=Path(), data=None, device="cpu", quick=True, command="-")
    [record, *_], _ = Calibration().run("soft", seed, context)
    runs = []
    for dataset, loss in itertools.product(DATASETS, LOSSES):
        records = [
            _with(record, metric, values[loss] if "tuned" not in metric else 0.7)
            for metric in ("micro_f1", "macro_f1", "micro_f1_tuned", "macro_f1_tuned")
        ]
        runs.append(RunResult(variant=f"{dataset}-{loss}", seed=seed, records=tuple(records)))
    return Results(runs)


def _with(record: object, metric: str, value: float) -> object:
    return replace(record, metric=metric, value=value)  # type: ignore[type-var]


def test_the_verdict_follows_the_figures(tmp_path: Path) -> None:
    good = {"zlpr": 0.65, "bce": 0.5, "weighted-bce": 0.6, "focal": 0.4, "asl": 0.7}
    found = results(0, good)
    verdict = Losses().verdict(found)
    assert verdict.holds
    assert "macro_f1 of zlpr less that of bce: +15.00 points (p = 0.008" in str(verdict.because)
    Losses().plot(found, verdict, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    assert "| emotions | zlpr | 65.0 | 65.0 | 70.0 | 70.0 |" in table(found)
    assert not Losses().verdict(results(0, good | {"bce": 0.66})).holds


def test_variants_name_data_set_and_loss(folder: Path) -> None:
    experiment = Losses()
    assert len(experiment.variants) == 40
    settings = experiment.settings("goemotions-weighted-bce", quick=False)
    assert (settings["dataset"], settings["loss"]) == ("goemotions", "weighted-bce")
    assert "mulan_emotions.npz" in experiment.identity(str(folder))
    with pytest.raises(DataError, match="--data"):
        experiment.identity(None)


def test_calibration_runs(tmp_path: Path) -> None:
    experiment = Calibration()
    context = RunContext(folder=tmp_path, data=None, device="cpu", quick=True, command="-")
    runs = []
    for variant in experiment.variants:
        records, curves = experiment.run(variant, 0, context)
        runs.append(RunResult(variant=variant, seed=0, records=tuple(records), curves=dict(curves)))
    verdict = experiment.verdict(Results(runs))
    assert len(verdict.because) == 3
    experiment.plot(Results(runs), verdict, tmp_path / "plot.png")
