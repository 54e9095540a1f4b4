"""The recipes train what they say, score it with the model's own bits, and keep what they saw."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from kexue_flow.glow import FLOAT32_KEYS, Flow
from kexue_flow.mnist import NICEMNIST, RealNVPMNIST
from kexue_flow.plugin import kexue_components
from kexue_flow.recipes import GlowCelebA, GlowCelebA32, GlowFashion

from kexue_core.loading import load_folder
from kexue_core.plugins import discover
from kexue_core.training.loop import train
from kexue_core.training.records import read_records

SMALL = {
    "steps": 12,
    "batch_size": 8,
    "warmup": 2,
    "evaluate_every": 6,
    "preview_every": 12,
    "checkpoint_every": 12,
    "size": 8,
    "depth": 2,
    "hidden": 8,
}

RECIPES = [GlowCelebA, GlowCelebA32, GlowFashion, NICEMNIST, RealNVPMNIST]


def small(recipe_class, **settings):
    known = {f.name for f in dataclasses.fields(recipe_class.Config)}
    settings = {**SMALL, "levels": 2, "couplings": 2, **settings}
    return recipe_class(recipe_class.Config(**{k: v for k, v in settings.items() if k in known}))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two hundred small ramps of different brightness, in colour."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 8)[:, None, None] * np.ones((8, 3))
    images = ramp * rng.uniform(0.2, 1, (200, 1, 1, 1)) + rng.uniform(0, 50, (200, 8, 8, 3))
    path = tmp_path / "ramps.npz"
    np.savez(path, images=images.astype(np.uint8))
    return path


@pytest.mark.parametrize("recipe_class", RECIPES)
def test_a_short_run_learns_and_publishes_what_it_evaluates(recipe_class, data, tmp_path):
    recipe = small(recipe_class, **({"learning_rate": 0.02} if recipe_class is NICEMNIST else {}))
    kind = type(recipe.flow()).__name__.lower()
    model = discover().find("model", kind, "kexue-flow")
    folder = train(
        recipe, name="short", model=model, data=str(data), out=tmp_path / "run", device="cpu"
    )
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    (early,) = [line["val/bits_per_dim"] for line in log if "val/bits_per_dim" in line]
    (published,) = read_records(folder / "results.jsonl")
    assert published.metric == "bits_per_dim"
    assert published.value < early
    assert published.value < recipe.config.bits + 0.5  # a uniform density costs `bits`

    flow = load_folder(folder / "weights")
    assert isinstance(flow, Flow)
    assert flow.config == recipe.flow().config
    again = recipe.evaluate(flow, recipe.data(str(data), "val"))
    assert again["bits_per_dim"] == pytest.approx(published.value, abs=1e-6)


@pytest.mark.parametrize("recipe_class", RECIPES)
def test_previews_are_images(recipe_class):
    recipe = small(recipe_class)
    torch.manual_seed(0)
    flow = recipe.build()["model"].eval()
    first, second = recipe.preview(flow), recipe.preview(flow)
    assert first.shape == (16, recipe.config.channels, 8, 8)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, second)


def test_the_learning_rate_rises_and_falls():
    recipe = GlowCelebA32(GlowCelebA32.Config(steps=1000, warmup=100))
    scale = [recipe.learning_rate_scale(step) for step in range(1000)]
    assert scale[0] == pytest.approx(0.01)
    assert max(scale) == pytest.approx(0.97, abs=0.01)  # the cosine has begun meanwhile
    assert int(np.argmax(scale)) == 99
    assert scale[-1] < 1e-5


@pytest.mark.parametrize("recipe_class", RECIPES)
def test_the_coupling_nets_train_in_bfloat16_unless_told_otherwise(recipe_class):
    usual = small(recipe_class).build()["model"]
    assert usual.net_dtype == torch.bfloat16
    assert not usual.reversible
    other = small(recipe_class, net_dtype="float32", reversible=True).build()["model"]
    assert other.net_dtype == torch.float32
    assert other.reversible


def test_what_stays_float32_is_what_the_model_says():
    # plugin.py repeats the patterns, since it must not import torch.
    (spec,) = [s for s in kexue_components() if s.kind == "model" and s.name == "glow"]
    assert spec.float32 == FLOAT32_KEYS
