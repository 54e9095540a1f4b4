"""The table by predicate and the curve over epochs; the experiments' criteria."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from kexue_dgcnn_ie.experiments import VARIANTS, Features, Network, SwappedEntities
from kexue_dgcnn_ie.metric import Score
from kexue_dgcnn_ie.report import curve, main, table
from kexue_dgcnn_ie.triples import read_triples

from kexue_core.api import create, save
from kexue_core.experiments import Results, RunResult
from kexue_core.training.records import ResultRecord

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_table_and_curve(tmp_path: Path) -> None:
    shown = table({"作者": Score(2, 4, 8), "朝代": Score(0, 0, 2)})
    assert "| 作者 | 8 | 0.500 | 0.250 | 0.333 |" in shown
    assert shown.endswith("| **all** | 10 | 0.500 | 0.200 | 0.286 |")
    config = {"pretrain_steps": 100, "batch_size": 10}
    (tmp_path / "run.json").write_text(json.dumps({"config": config, "data": {"samples": 200}}))
    rows = [{"step": 100, "val/f1": 0.0}, {"step": 120, "train/loss": 1.0},
            {"step": 120, "val/f1": 0.5}]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert curve(tmp_path) == [(1.0, 0.5)]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the sample that is shipped: it is valid, and has its schema."""
    sample = EXAMPLES / "sample.jsonl"
    assert len(read_triples(sample)) == 30
    model = create("dgcnn-ie", predicates=4, width=8, dilations=(1,), heads=1)
    folder = save(model, tmp_path / "weights")
    main([f"file:{folder}", "--data", str(sample)])
    assert "| **all** |" in capsys.readouterr().out


def run(variant: str, seed: int, f1: float) -> RunResult:
    record = ResultRecord(
        metric="f1", value=f1, dataset="x", split="val", n=1, seed=seed, command="", weights="",
        versions={}, device="cpu", settings={},
    )  # fmt: skip
    return RunResult(variant=variant, seed=seed, records=(record,), curves={"f1": [(1, f1)]})


def results(**values: float) -> Results:
    return Results(
        run(name.replace("_", "-"), seed, value + 0.001 * seed)
        for name, value in values.items()
        for seed in range(3)
    )


def test_criteria(tmp_path: Path) -> None:
    parts = {"no_dilation": 0.3, "no_gate": 0.3, "no_attention": 0.3, "no_swap": 0.3}
    good = results(base=0.4, distant=0.5, words=0.45, **parts)
    weak = results(base=0.4, distant=0.405, words=0.5, **dict.fromkeys(parts, 0.395))
    for experiment in (Network(), SwappedEntities(), Features()):
        assert experiment.verdict(good).holds
        assert not experiment.verdict(weak).holds
        assert set(experiment.variants) <= VARIANTS.keys()
        experiment.plot(good, experiment.verdict(good), tmp_path / "plot.png")
        settings = [experiment.settings(v, quick=False) for v in experiment.variants]
        assert all(a != b for a, b in itertools.pairwise(settings))
