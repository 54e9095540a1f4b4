"""The experiments run, on images of a size at which nothing can be claimed; the criteria judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexue_vqlinear.experiments import (
    METRICS,
    VARIANTS,
    Diagonal,
    Frozen,
    SmallCodec,
    SmallCodecConfig,
    Utilization,
)
from kexue_vqlinear.vq import EMAVQ
from PIL import Image

from kexue_core.experiments import Results, RunResult
from kexue_core.reproduce import reproduce
from kexue_core.training.records import ResultRecord

EXPERIMENTS = (Utilization, Diagonal, Frozen)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_variants_differ_in_quantiser_codes_and_its_rate_alone(experiment: Any) -> None:
    asked = experiment()
    base = asked.settings(asked.variants[0], quick=False)
    free = {"quantizer", "num_embeddings", "quantizer_learning_rate"}
    for variant in asked.variants:
        other = asked.settings(variant, quick=False)
        assert {key for key in base if base[key] != other[key]} <= free
        assert variant.startswith(other["quantizer"].removesuffix("-x"))
        assert variant.endswith(str(other["num_embeddings"]))


def test_the_variant_reaches_the_model() -> None:
    model: Any = SmallCodec(Utilization._config("vq-ema-1024", quick=False)).build()["model"]
    assert isinstance(model.quantizer, EMAVQ)
    assert model.config.num_embeddings == 1024


def test_from_images_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(data / f"{i}.png")
    tiny: dict[str, Any] = {
        **{"steps": 4, "batch_size": 4, "size": 8, "hidden": (8, 8), "dim": 8, "warmup": 1},
        **{"evaluate_every": 2, "num_embeddings": 16},
    }
    monkeypatch.setattr(
        "kexue_vqlinear.experiments._Study._config",
        staticmethod(lambda v, *, quick: SmallCodecConfig(quantizer=VARIANTS[v][0], **tiny)),
    )
    out = tmp_path / "out"
    report = reproduce(Frozen(), out=out, seeds=1, data=str(data), device="cpu")
    assert [run["variant"] for run in report["runs"]] == list(Frozen.variants)
    for run in report["runs"]:
        assert {r["metric"] for r in run["records"]} == {*METRICS, "psnr"}
        for metric in METRICS:
            assert [step for step, _ in run["curves"][metric]] == [2, 4]
    assert str(tmp_path) not in json.dumps(report)
    assert (out / "simvq-frozen" / "plot.png").read_bytes().startswith(b"\x89PNG")
    said: list[str] = []
    reproduce(Diagonal(), out=out, seeds=1, data=str(data), device="cpu", say=said.append)
    assert sum("was finished before" in line for line in said) == 2  # the simvq runs are shared


def results(experiment: Any, figures: dict[str, tuple[float, float, float]]) -> Results:
    """Runs of one seed with (mse, utilization, perplexity) a quantiser, at every size."""

    def record(metric: str, value: float) -> ResultRecord:
        return ResultRecord(
            metric=metric,
            value=value,
            dataset="none",
            split="val",
            n=1,
            seed=0,
            command="none",
            weights="0" * 64,
            versions={},
            device="cpu",
        )

    runs = []
    for variant in experiment.variants:
        values = figures[variant.rpartition("-")[0].removesuffix("-slow")]
        records = tuple(record(m, v) for m, v in zip(METRICS, values, strict=True))
        runs.append(RunResult(variant=variant, seed=0, records=records))
    return Results(runs)


ORDERED = {
    "vq": (3.0, 0.1, 9.0),
    "vq-ema": (1.5, 0.9, 99.0),
    "simvq-diagonal": (2.0, 0.5, 20.0),
    "simvq": (1.0, 0.8, 50.0),
    "simvq-both": (1.04, 0.8, 50.0),
}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_criterion_judges(experiment: Any) -> None:
    asked = experiment()
    assert asked.verdict(results(asked, ORDERED)).holds
    for simvq in [
        (3.5, 0.8, 50.0),
        *([(1.0, 0.05, 50.0), (1.0, 0.8, 5.0)] * (asked.name == "simvq-utilization")),
    ]:
        assert not asked.verdict(results(asked, {**ORDERED, "simvq": simvq})).holds
