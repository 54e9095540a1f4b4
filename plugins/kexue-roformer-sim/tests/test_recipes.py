"""Recipes: a minute net learns, goes on where it was stopped, and can be loaded."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kexue_roformer_sim.model import RoFormerSim
from kexue_roformer_sim.recipes import SimRecipe
from kexue_roformer_sim.stages import (
    Stage1,
    Stage1Config,
    Stage2,
    Stage2Config,
    Supervised,
    SupervisedConfig,
)
from kexue_roformer_sim.tiny import RoFormerSimTiny, TinyConfig

import kexue_core as kexue
from kexue_core.errors import ConfigError, DataError
from kexue_core.plugins import discover
from kexue_core.training.loop import train

SMALL: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 16,
    "layers": 1,
    "heads": 2,
    "intermediate_size": 32,
    "max_length": 24,
    "batch_size": 16,
    "write_pairs": 8,
    "evaluate_every": 0,
    "checkpoint_every": 3,
    "bfloat16": False,
    "pooling": "mean",
    "warmup": 2,
    "learning_rate": 5e-3,
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Pairs of two templates: alike where the number is the same."""
    drawn = random.Random(0)
    lines = []
    for i in range(400):
        label = i % 2
        other = i if label else drawn.randrange(400, 900)
        lines.append({"a": f"第{i}个问题怎么办", "b": f"问题{other}如何解决", "label": label})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(recipe: SimRecipe, data: Path, out: Path, **settings: Any) -> Path:
    return train(
        recipe,
        name="test",
        model=discover().find("model", "roformer-sim", "kexue-roformer-sim"),
        data=str(data),
        out=out,
        device="cpu",
        **settings,
    )


def losses(folder: Path, key: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[f"train/{key}"] for line in lines if f"train/{key}" in line]


def tiny(**settings: Any) -> RoFormerSimTiny:
    budget = {"steps": 40, "static_steps": 20, "static_learning_rate": 0.01}
    budget |= {
        "block": 1,
        "ranked": ("pairs",),
        "ranking": 0.5,
        "statistics": 0.7,
        "write_pairs": 8,
    }
    return RoFormerSimTiny(TinyConfig(**{**SMALL, "token_weights": True, **budget, **settings}))


def test_tiny_learns_and_is_whole(corpus: Path, tmp_path: Path) -> None:
    folder = run(tiny(), corpus, tmp_path / "run")
    found = losses(folder)
    assert sum(found[15:20]) < sum(found[:5])
    writing = losses(folder, "write")
    assert len(writing) == 20
    assert sum(writing[-5:]) < sum(writing[:5])
    restoring = losses(folder, "restore")
    assert len(restoring) == 20
    assert sum(restoring[-5:]) < sum(restoring[:5])
    model = kexue.load(f"file:{folder / 'weights'}")
    assert isinstance(model, RoFormerSim)
    assert (folder / "weights" / "vocab.txt").is_file()
    assert model.embed(["第3个问题怎么办"]).shape == (1, 16)
    records = [json.loads(x) for x in (folder / "results.jsonl").read_text().splitlines()]
    metrics = {r["metric"] for r in records}
    assert {"spearman_pairs", "spearman_mean", "tfidf_spearman_pairs"} <= metrics
    assert {"rewrite_distinct", "rewrite_cosine"} <= metrics


def test_layers_begin_as_nothing(corpus: Path) -> None:
    recipe = tiny()
    recipe.data(str(corpus), "train")
    torch.manual_seed(0)
    model = recipe.build()["model"].eval()
    tokens = torch.tensor([[2, 9, 11, 30, 3]])
    with torch.no_grad():
        gap = (model(tokens).vector - model(tokens, depth=0).vector).abs().max()
    # Two more layer norms of what is normalised already.
    assert gap < 1e-4


def test_ranking_weighs_by_the_source(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("first", "second"):
        (folder / f"{name}.jsonl").write_text(corpus.read_text().replace("问题", name))
    recipe = tiny(ranked=("first", "third"), ranking=0.8, ranking_elsewhere=0.2)
    recipe.data(str(folder), "train")
    assert recipe._ranking(torch.tensor([0, 0])).item() == pytest.approx(0.8)
    assert recipe._ranking(torch.tensor([0, 1])).item() == pytest.approx(0.5)


def test_the_learning_rate_falls_in_both_stages() -> None:
    recipe = tiny(steps=40, static_steps=20, warmup=5, learning_rate=0.001)
    rates = [0.001 * recipe.learning_rate_scale(step) for step in range(40)]
    assert rates[:12] == pytest.approx([0.01] * 12)
    assert 0 < rates[19] < rates[15] < 0.01
    assert rates[20] == pytest.approx(0.001 / 5)
    assert rates[39] < rates[30] < rates[24] <= 0.001


def test_a_stopped_run_ends_as_one_that_was_not(corpus: Path, tmp_path: Path) -> None:
    settings = {"steps": 8, "static_steps": 4, "dropout": 0.1}
    whole = run(tiny(**settings), corpus, tmp_path / "whole")
    run(tiny(**settings), corpus, tmp_path / "parts", max_minutes=1e-9)
    parts = run(tiny(**settings), corpus, tmp_path / "parts")
    files = [(f / "weights" / "model.safetensors").read_bytes() for f in (whole, parts)]
    assert files[0] == files[1]


def test_the_stages_follow_one_another(corpus: Path, tmp_path: Path) -> None:
    first = run(Stage1(Stage1Config(**SMALL, steps=30)), corpus, tmp_path / "first")
    assert sum(losses(first)[-5:]) < sum(losses(first)[:5])
    common = {k: v for k, v in SMALL.items() if k != "learning_rate"}
    initial = f"file:{first / 'weights'}"
    config = SupervisedConfig(**common, learning_rate=5e-3, steps=12, initial=initial)
    labels = run(Supervised(config), corpus, tmp_path / "labels")
    teacher = f"file:{labels / 'weights'}"
    config2 = Stage2Config(
        **common, learning_rate=5e-3, steps=20, initial=initial, teacher=teacher, write_weight=0.1
    )
    last = run(Stage2(config2), corpus, tmp_path / "last")
    distil = losses(last, "distil")
    assert sum(distil[-5:]) < sum(distil[:5])
    model = kexue.load(f"file:{last / 'weights'}")
    assert model.rewrite("第3个问题怎么办", 2)
    assert set(model.state_dict()) == set(kexue.load(initial).state_dict())


def test_what_is_missing_is_said(corpus: Path) -> None:
    with pytest.raises(DataError, match="no default data"):
        tiny().data(None, "train")
    held = corpus.rename(corpus.with_name("pairs.test.jsonl"))
    assert len(tiny().data(str(held), "test")) == 400
    with pytest.raises(DataError, match="held out"):
        tiny().data(str(held), "train")
    held.rename(corpus)
    with pytest.raises(ConfigError, match="teacher"):
        Stage2(Stage2Config(**SMALL)).data(str(corpus), "train")


def test_holes_are_only_in_what_is_read(corpus: Path) -> None:
    from kexue_roformer_sim.recipes import holes_in
    from kexue_roformer_sim.sequences import join

    recipe = tiny()
    data = recipe.data(str(corpus), "train")
    batch = data.batch(range(16))
    tokens, segments = join(batch["a"], batch["b"])

    class Context:
        generator = torch.Generator().manual_seed(0)

    chosen = torch.arange(16) < 8
    found = holes_in(
        tokens, segments, chosen, context=Context(), share=0.5, tokenizer=recipe.tokenizer
    )
    changed = found != tokens
    assert changed[:8].any()
    assert not changed[8:].any()
    assert not changed[segments == 1].any()
    assert not changed[(tokens == 0) | (tokens == recipe.tokenizer.sep)].any()


def test_the_mean_moves_all_vectors_at_the_end(corpus: Path, tmp_path: Path) -> None:
    plain, moved = (
        kexue.load(f"file:{run(tiny(shift=shift), corpus, tmp_path / str(shift)) / 'weights'}")
        for shift in (0.0, 0.5)
    )
    recipe = tiny()
    recipe.data(str(corpus), "train")
    assert recipe._train is not None
    mean = plain.embed(recipe._train.texts, normalize_embeddings=False).mean(0)
    texts = ["第3个问题怎么办", "怎么办"]
    before, after = (m.embed(texts, normalize_embeddings=False) for m in (plain, moved))
    np.testing.assert_allclose(after, before + 0.5 * mean, atol=5e-3)  # rounded to float16
    state = moved.state_dict()
    others = {n: t for n, t in plain.state_dict().items() if n != "pooler.bias"}
    assert all(torch.equal(t, state[n]) for n, t in others.items())
