"""The recipes learn, resume bit for bit with their buffer, and publish what they sample with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from kexue_ebm.energy import EBM
from kexue_ebm.recipes import EBMFashion, EBMMnist, EBMMnistQuick, EBMQuickConfig
from kexue_ebm.samplers import igebm_langevin
from safetensors.torch import load_file

import kexue_core as kexue
from kexue_core.errors import NonFiniteLossError
from kexue_core.plugins import discover
from kexue_core.training.loop import train
from kexue_core.training.records import read_records

SMALL = {
    "steps": 12,
    "batch_size": 16,
    "checkpoint_every": 6,
    "size": 8,
    "width": 4,
    "warmup": 2,
    "chain_steps": 4,
    "buffer": 40,
    "kept": 6,
    "sample_steps": 8,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two hundred bright squares on black."""
    rng = np.random.default_rng(0)
    images = np.zeros((200, 8, 8), np.uint8)
    images[:, 2:6, 2:6] = rng.integers(150, 256, (200, 1, 1))
    path = tmp_path / "squares.npz"
    np.savez(path, images=images)
    return path


def run(recipe_class, data: Path, out: Path, **settings):
    recipe = recipe_class(EBMQuickConfig(**{**SMALL, **settings}))
    minutes = settings.pop("max_minutes", None)
    model = discover().find("model", "ebm", "kexue-ebm")
    folder = train(
        recipe,
        name="small",
        model=model,
        data=str(data),
        out=out,
        device="cpu",
        max_minutes=minutes,
    )
    return recipe, folder


@pytest.mark.parametrize("recipe_class", [EBMMnist, EBMFashion])
def test_a_short_run_tells_data_from_noise(recipe_class, data: Path, tmp_path: Path) -> None:
    _, folder = run(
        recipe_class, data, tmp_path / "run", steps=60, learning_rate=3e-3, outside=str(data)
    )
    found = {r.metric: r.value for r in read_records(folder / "results.jsonl")}
    assert found["auroc_uniform"] > 0.95
    assert found["auroc_outside"] == pytest.approx(0.5, abs=1e-6)  # the data itself
    assert {f"auroc_{o}_{s}" for o in ("uniform", "outside") for s in ("grey", "gaussian")} < set(
        found
    )
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"train/energy_data", "train/energy_samples", "train/grad_norm"} <= set(log[-1])


def test_weights_bring_their_sampler_and_a_buffer(data: Path, tmp_path: Path) -> None:
    recipe, folder = run(EBMMnist, data, tmp_path / "run")
    model = kexue.load(f"file:{folder / 'weights'}")
    assert isinstance(model, EBM)
    checkpoint = load_file(folder / "checkpoints" / "step-00000012" / "tensors.safetensors")
    assert torch.equal(model.replay, checkpoint["module.replay.data"][:6])
    name, options = recipe.sampler()
    assert name == "igebm-langevin"
    generator = torch.Generator().manual_seed(3)
    expected = igebm_langevin(model, 4, generator=generator, **options)
    assert torch.equal(kexue.sample(model, 4, seed=3), expected)
    from_buffer = kexue.sample(model, 4, seed=3, start="replay")
    assert 0 <= from_buffer.min() <= from_buffer.max() <= 1
    assert not torch.equal(from_buffer, expected)
    preview = recipe.preview(model)
    assert preview.shape == (64, 1, 8, 8)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path, spectral_norm) -> None:
    settings = {"spectral_norm": spectral_norm}
    _, whole = run(EBMMnist, data, tmp_path / "whole", **settings)
    # A budget that is over after one step; the same call goes on.
    recipe = EBMMnist(EBMQuickConfig(**{**SMALL, **settings}))
    model = discover().find("model", "ebm", "kexue-ebm")
    for minutes in (1e-9, 1e-9, None):
        parts = train(
            recipe,
            name="small",
            model=model,
            data=str(data),
            out=tmp_path / "parts",
            device="cpu",
            max_minutes=minutes,
        )
    files = [f / "checkpoints" / "step-00000012" / "tensors.safetensors" for f in (whole, parts)]
    first, second = map(load_file, files)
    assert first.keys() == second.keys()
    assert "module.replay.data" in first
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_without_a_buffer_all_chains_start_from_noise(data, tmp_path) -> None:
    recipe, folder = run(EBMMnist, data, tmp_path / "run", buffer=0)
    assert recipe.build()["replay"].restart == 1.0
    assert kexue.load(f"file:{folder / 'weights'}").config.replay == 0
    assert recipe.preview(kexue.load(f"file:{folder / 'weights'}")).shape == (32, 1, 8, 8)


def test_a_run_that_diverges_says_so(data, tmp_path) -> None:
    with pytest.raises(NonFiniteLossError, match="step"):
        run(
            EBMMnist,
            data,
            tmp_path / "run",
            steps=60,
            learning_rate=1e9,
            clip=1e9,
            l2=0.0,
            chain_dtype="float32",
        )


def test_the_learning_rate_rises_and_falls_to_a_tenth() -> None:
    recipe = EBMMnist(EBMMnist.Config(steps=1_000, warmup=100))
    scale = [recipe.learning_rate_scale(step) for step in range(1_000)]
    assert scale[0] == pytest.approx(0.01)
    assert int(np.argmax(scale)) == 99
    assert scale[-1] == pytest.approx(0.1, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_five_seeds_finish_without_nan(seed: int, tmp_path: Path) -> None:
    # On random digits-like strokes, so that it runs without any data: thin bright lines.
    rng = np.random.default_rng(seed)
    images = np.zeros((500, 28, 28), np.uint8)
    for image in images:
        row, column = rng.integers(5, 20, 2)
        image[row : row + 8, column] = image[row, column - 3 : column + 4] = 255
    np.savez(tmp_path / "strokes.npz", images=images)
    recipe = EBMMnistQuick(EBMQuickConfig())
    folder = train(
        recipe,
        name="ebm-mnist-quick",
        model=discover().find("model", "ebm", "kexue-ebm"),
        data=str(tmp_path / "strokes.npz"),
        out=tmp_path / "run",
        seed=seed,
        device="cpu",
    )
    assert {r.metric: r.value for r in read_records(folder / "results.jsonl")}[
        "auroc_uniform"
    ] > 0.99
