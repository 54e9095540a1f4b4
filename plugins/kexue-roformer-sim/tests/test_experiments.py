"""The experiments run, on data and nets of a size at which nothing can be claimed."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kexue_roformer_sim import experiments
from kexue_roformer_sim.experiments import Parts, Rewriting, Seeds
from kexue_roformer_sim.tiny import TinyConfig

import kexue_core as kexue
from kexue_core.api import provenance
from kexue_core.errors import TrainingError
from kexue_core.reproduce import entries, load_experiment, reproduce
from kexue_core.training.data.sources import sha256_of

TINY: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 16,
    "layers": 1,
    "heads": 2,
    "intermediate_size": 32,
    "questions": 2,
    "evaluate_every": 0,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pairs of two sources."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    drawn = random.Random(0)
    for name, other in (("stsb", "如何解决"), ("lcqmc", "哪里有")):
        lines = []
        for i in range(400):
            j = i if i % 2 else drawn.randrange(400, 900)
            pair = {"a": f"{name}第{i}个问题怎么办", "b": f"{name}问题{j}{other}", "label": i % 2}
            lines.append(json.dumps(pair) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


class SmallSeeds(Seeds):
    @staticmethod
    def _config(variant: str, *, quick: bool) -> TinyConfig:
        config = Seeds._config(variant, quick=quick)
        layers = {"layers": 0} if variant == "static" else {}
        return replace(
            config, **{**TINY, **layers}, steps=4, static_steps=2, block=8, layer_pairs=4
        )


def test_all_are_found_by_their_names() -> None:
    mine = [e for e in entries() if e.distribution == "kexue-roformer-sim"]
    assert [e.name for e in mine] == [Parts.name, Rewriting.name, Seeds.name]
    for entry in mine:
        assert load_experiment(entry.name).name == entry.name


def test_static_is_the_same_without_layers() -> None:
    static, layers = (Seeds().settings(v, quick=False) for v in Seeds.variants)
    differing = {key for key in static if static[key] != layers[key]}
    assert differing == {"layers", "steps", "write_pairs"}
    assert static["steps"] == layers["static_steps"]


def test_the_layers_are_held_against_the_static_stage(data: Path, tmp_path: Path) -> None:
    report = reproduce(SmallSeeds(), out=tmp_path / "out", seeds=1, quick=True, data=str(data))
    assert [r["variant"] for r in report["runs"]] == ["static", "layers"]
    assert {c["metric"] for c in report["comparisons"]} == {"spearman_stsb", "spearman_mean"}
    assert not report["complete"]
    assert (tmp_path / "out" / f"{Seeds.name}-quick" / "plot.png").stat().st_size > 1_000


def test_each_part_goes_on_from_the_one_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "SMALL", {**experiments.SMALL, **TINY})
    monkeypatch.setattr(Parts, "_first", staticmethod(_shorter(Parts._first)))
    report = reproduce(Parts(), out=tmp_path / "out", seeds=1, quick=True, data=str(data))
    assert [r["variant"] for r in report["runs"]] == list(Parts.variants)
    runs = tmp_path / "out" / "runs" / f"{Parts.study}-quick"
    stages = sorted(p.name for p in runs.glob("stage-*"))
    names = ("contrast", "corruption", "distilled", "supervised", "unilm")
    assert stages == [f"stage-{name}-seed-0" for name in names], "none is trained twice"
    weights = {r["variant"]: r["records"][0]["weights"] for r in report["runs"]}
    assert len(set(weights.values())) == len(names)


def _shorter(first: Any) -> Any:
    return lambda variant, quick: replace(first(variant, quick), steps=3)


def test_rewriting_counts_for_the_weights_that_wrote(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> dict[str, Any]:
        return reproduce(
            Rewriting(), out=tmp_path / "out", seeds=1, quick=True, data=str(data), say=said.append
        )

    said: list[str] = []
    report = run()
    records = [record for r in report["runs"] for record in r["records"]]
    assert {r["metric"] for r in records} == {"rewrite_distinct", "rewrite_cosine"}
    loaded = provenance(kexue.load(Rewriting.weights))
    assert loaded is not None
    published = sha256_of(loaded.folder / "model.safetensors")
    assert {r["weights"] for r in records} == {published}
    assert all(0 <= r["value"] <= 1 for r in records if r["metric"] == "rewrite_distinct")
    assert run() == report
    assert sum("was finished before" in line for line in said) == len(Rewriting.variants)
    monkeypatch.setattr(experiments, "published_sha256", lambda name: "0" * 64)
    with pytest.raises(TrainingError, match=f"weights was '{published}'"):
        run()
