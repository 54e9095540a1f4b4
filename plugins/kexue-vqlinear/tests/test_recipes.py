"""The recipes, on a folder of a few images: train, resume, measure, publish, sample."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kexue_vqlinear.prior_recipes import SimVQPriorCelebA, SimVQPriorCelebAConfig
from kexue_vqlinear.recipes import SimVQCelebA, SimVQCelebAConfig, VQCelebA, VQCelebAConfig
from PIL import Image

import kexue_core as kexue
from kexue_core.errors import ConfigError
from kexue_core.folder import WeightsConfig
from kexue_core.plugins import discover
from kexue_core.training.loop import train
from kexue_core.training.recipe import Recipe
from kexue_core.training.records import read_records

CODEC: dict[str, Any] = {
    **{"size": 8, "hidden": (8, 8), "dim": 8, "blocks": 1, "num_embeddings": 16},
    **{"batch_size": 4, "warmup": 1, "checkpoint_every": 2, "net_dtype": "float32"},
}
PRIOR: dict[str, Any] = {
    **{"shape": (2, 2), "num_embeddings": 16, "width": 8, "depth": 1, "heads": 2},
    **{"batch_size": 4, "steps": 4, "warmup": 1, "net_dtype": "float32"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of one colour with noise."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(40):
        pixels = rng.integers(0, 200, 3) + rng.integers(0, 56, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def run(
    recipe: Recipe, out: Path, images: Path, model: str = "vq-autoencoder", **options: Any
) -> Path:
    declared = discover().find("model", model, "kexue-vqlinear")
    train(recipe, name="test", model=declared, data=str(images), out=out, device="cpu", **options)
    return out


def test_a_stopped_run_goes_on_bit_for_bit(images: Path, tmp_path: Path) -> None:
    recipe = SimVQCelebA(SimVQCelebAConfig(**CODEC, steps=6))
    whole = run(recipe, tmp_path / "whole", images)
    part = run(recipe, tmp_path / "part", images, max_minutes=1e-9)
    done = [json.loads(x) for x in (part / "log.jsonl").read_text().splitlines()]
    assert done[-1]["step"] < 6
    run(recipe, tmp_path / "part", images)
    files = [p / "weights" / "model.safetensors" for p in (whole, part)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("recipe", "config"), [(SimVQCelebA, SimVQCelebAConfig), (VQCelebA, VQCelebAConfig)]
)
def test_figures_are_of_all_validation_images(
    recipe: Any, config: Any, images: Path, tmp_path: Path
) -> None:
    made = recipe(config(**CODEC, steps=2))
    out = run(made, tmp_path / "run", images)
    values = {r.metric: r.value for r in read_records(out / "results.jsonl")}
    assert list(values) == ["mse", "psnr", "utilization", "perplexity"]
    codec = kexue.load(f"file:{out / 'weights'}")
    assert codec.config.quantizer == config().quantizer
    data = made.data(str(images), "val")
    x = data.batch(range(len(data)))["image"]
    with torch.no_grad():
        codes = codec.to_codes(x)
        mse = float((codec.from_codes(codes) - x).double().square().mean())
    assert values["mse"] == pytest.approx(mse, rel=1e-5)
    assert values["psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    assert values["utilization"] == len(codes.unique()) / 16


def test_the_quantiser_learns_at_its_own_rate() -> None:
    recipe = SimVQCelebA(SimVQCelebAConfig(**CODEC))
    modules = recipe.build()
    groups = recipe.optimizers(modules)["model"].param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in modules["model"].named_parameters():
        inside = name.startswith("quantizer.")
        wanted = recipe.config.quantizer_learning_rate if inside else recipe.config.learning_rate
        assert rates[id(parameter)] == wanted


def test_a_prior_is_trained_on_codes_and_samples_through_its_codec(
    images: Path, tmp_path: Path
) -> None:
    codec = run(SimVQCelebA(SimVQCelebAConfig(**CODEC, steps=6)), tmp_path / "codec", images)
    reference = f"file:{codec / 'weights'}"
    recipe = SimVQPriorCelebA(SimVQPriorCelebAConfig(**PRIOR, codec=reference))
    training, validation = recipe.data(str(images), "train"), recipe.data(str(images), "val")
    assert (len(training), len(validation)) == (72, 4)  # each mirrored, and each as it is
    assert training.batch([5, 3])["codes"].shape == (2, 2, 2)
    out = run(recipe, tmp_path / "prior", images, "code-transformer")
    config = WeightsConfig.read(out / "weights")
    assert config.requires == (reference,)
    assert config.sampler is not None
    assert config.sampler.name == "code-prior"
    prior: Any = kexue.load(f"file:{out / 'weights'}")
    samples = kexue.sample(prior, 2, seed=1)
    assert samples.shape == (2, 3, 8, 8)
    [record] = [r for r in read_records(out / "results.jsonl") if r.metric == "bits_per_code"]
    codes = validation.batch(range(4))["codes"]
    bits = -float(prior.log_prob(codes).detach().mean()) / 4 / math.log(2)
    assert record.value == pytest.approx(bits, rel=1e-4)
    assert (out / "previews").is_dir()

    other = SimVQPriorCelebA(SimVQPriorCelebAConfig(**{**PRIOR, "shape": (4, 4)}, codec=reference))
    with pytest.raises(ConfigError, match=r"are \(2, 2\) of 16, not \(4, 4\) of 16"):
        other.data(str(images), "train")
