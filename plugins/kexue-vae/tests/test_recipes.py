"""The recipes train what they say, measure it with the model's own bounds, and binarise once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kexue_vae import CVAE, VAE, binarize
from kexue_vae.conditional import CVAEFashion
from kexue_vae.data import BinarizedOnce
from kexue_vae.judge import disturb
from kexue_vae.recipes import VAECelebA, VAEMnist
from PIL import Image

from kexue_core.errors import DataError
from kexue_core.loading import load_folder
from kexue_core.plugins import discover
from kexue_core.training.data import open_images
from kexue_core.training.loop import train
from kexue_core.training.records import read_records

SMALL: dict[str, Any] = {
    "steps": 40,
    "batch_size": 16,
    "evaluate_every": 5,
    "preview_every": 40,
    "checkpoint_every": 20,
    "size": 8,
    "latent": 3,
    "warmup": 4,
    "learning_rate": 1e-2,
    "evaluation_samples": 5,
}
RECIPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "vae": (VAEMnist, {"widths": (16,), "iwae_steps": 8, "iwae_batch": 8}),
    "cvae": (CVAEFashion, {"widths": (16,), "classes": 2}),
    "vae-conv": (VAECelebA, {"widths": (4, 8)}),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of small ramps, upright and upside down, in colour, with labels."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 200, 8)[:, None, None] * np.ones((8, 3))
    labels = np.arange(200) % 2
    images = np.stack([ramp[::-1] if y else ramp for y in labels])
    noisy = images * rng.uniform(0.6, 1, (200, 1, 1, 1)) + rng.uniform(0, 50, (200, 8, 8, 3))
    path = tmp_path / "ramps.npz"
    np.savez(path, images=noisy.astype(np.uint8), labels=labels)
    return path


@pytest.mark.parametrize("kind", RECIPES)
def test_a_short_run_learns_and_publishes_what_it_evaluates(kind, data, tmp_path) -> None:
    recipe_class, settings = RECIPES[kind]
    recipe = recipe_class(recipe_class.Config(**{**SMALL, **settings}))
    folder = train(
        recipe,
        name="short",
        model=discover().find("model", "cvae" if kind == "cvae" else "vae", "kexue-vae"),
        data=str(data),
        out=tmp_path / "run",
        device="cpu",
    )
    published = {r.metric: r for r in read_records(folder / "results.jsonl")}
    names = list(published)
    assert len(names) == 2
    iwae, elbo = published[names[0]], published[names[1]]
    assert "iwae_5" in iwae.metric
    assert "elbo" in elbo.metric
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    early = next(line[f"val/{elbo.metric}"] for line in log if f"val/{elbo.metric}" in line)
    assert elbo.value < early
    model = load_folder(folder / "weights")
    assert isinstance(model, CVAE if kind == "cvae" else VAE)
    again = recipe.evaluate(model, recipe.data(str(data), "val"))
    for metric, record in published.items():
        assert again[metric] == pytest.approx(record.value, rel=1e-6)
    images = recipe.preview(model)
    assert images.shape == (20, recipe.config.channels, 8, 8)
    assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize("kind", ["vae", "cvae"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(kind, data, tmp_path) -> None:
    recipe_class, settings = RECIPES[kind]
    settings = {**SMALL, **settings, "steps": 8, "widths": (8,)}

    def run(name: str, minutes: float | None) -> Path:
        recipe = recipe_class(recipe_class.Config(**settings))
        return train(
            recipe,
            name="short",
            model=discover().find("model", kind, "kexue-vae"),
            data=str(data),
            out=tmp_path / name,
            max_minutes=minutes,
            device="cpu",
        )

    run("stopped", 1e-9)  # after its first step
    whole, resumed = run("whole", None), run("stopped", None)
    expected, found = load_folder(whole / "weights"), load_folder(resumed / "weights")
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


def test_a_judge_trains_what_is_drawn_and_nothing_is_drawn_to_train_the_judge() -> None:
    recipe = CVAEFashion(CVAEFashion.Config(**SMALL, widths=(16,), classes=2))
    modules = recipe.build()
    model, judge = modules["model"], modules["judge"]
    generator = torch.Generator().manual_seed(0)
    batch = {"image": torch.rand(6, 1, 8, 8), "label": torch.arange(6) % 2}
    steps: list[str] = []

    class Context:
        def noise(self, rows: int, draw: str, *shape: int) -> torch.Tensor:
            make = torch.randn if draw == "normal" else torch.rand
            return make(rows, *shape, generator=generator)

        def minimize(self, name: str, loss: torch.Tensor) -> dict[str, torch.Tensor]:
            steps.append(name)
            loss.backward()
            return {}

    found = recipe._beside(modules, batch, Context())
    assert steps == ["judge"]
    assert all(p.grad is None for p in model.parameters())
    judge.zero_grad()
    found["beside"].backward()
    assert all(p.grad is None for p in judge.parameters())
    assert all(p.requires_grad for p in judge.parameters())
    assert model.prior_mean.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in model.decoder.parameters())
    assert all(p.grad is None for p in model.encoder.parameters())
    # Without it, the recipe is that of the post: one network, one optimiser.
    plain = CVAEFashion(CVAEFashion.Config(**SMALL, classes=2, adversarial=0.0))
    assert list(plain.build()) == ["model"]


def test_a_disturbed_image_is_the_image_moved() -> None:
    image = torch.rand(3, 1, 6, 5)
    shift = torch.tensor([[0.5, 0.5], [0.0, 0.99], [0.99, 0.5]])
    moved = disturb(image, shift, torch.zeros_like(image))
    assert torch.equal(moved[0], image[0])
    # Two to the right and two down of where the window starts; zeros come in.
    assert torch.equal(moved[1, :, 2:, :-2], image[1, :, :-2, 2:])
    assert torch.equal(moved[2, :, :-2], image[2, :, 2:])
    assert not moved[2, :, -2:].any()
    assert disturb(image, shift, torch.ones_like(image)).sub(moved).allclose(torch.tensor(0.1))


def test_validation_and_test_images_are_binarised_once_and_hashed(data: Path) -> None:
    recipe = VAEMnist(VAEMnist.Config(**SMALL))
    once, again = recipe.data(str(data), "val"), recipe.data(str(data), "val")
    everything = range(len(once))
    bits = once.batch(everything)["image"]
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(bits, again.batch(everything)["image"])
    grey = open_images(data, "val", size=8, channels=1)
    assert torch.equal(bits, binarize(grey.batch(everything)["image"], seed=0))
    digest = hashlib.sha256(bits.to(torch.uint8).numpy().tobytes()).hexdigest()
    assert once.fingerprint == digest
    assert "binarised once (seed 0)" in once.name
    assert torch.equal(once.batch([3, 1])["label"], grey.batch([3, 1])["label"])
    other = VAEMnist(VAEMnist.Config(**SMALL, binarization_seed=1)).data(str(data), "val")
    assert other.fingerprint != once.fingerprint
    # What is trained on stays grey, to be drawn anew.
    assert len(recipe.data(str(data), "train").batch(range(20))["image"].unique()) > 2


def test_training_images_are_drawn_anew_from_the_step_s_noise() -> None:
    recipe = VAEMnist(VAEMnist.Config(**SMALL))

    class Context:
        def __init__(self, seed: int) -> None:
            self.generator = torch.Generator().manual_seed(seed)

        def noise(self, rows: int, draw: str, *shape: int) -> torch.Tensor:
            assert draw == "uniform"
            return torch.rand(rows, *shape, generator=self.generator)

    grey = torch.full((500, 1, 8, 8), 0.3)
    first = recipe._prepare(grey, Context(0))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    # Five standard errors over 32,000 values.
    assert float(first.mean()) == pytest.approx(0.3, abs=5 * 0.46 / 32_000**0.5)
    assert torch.equal(recipe._prepare(grey, Context(0)), first)
    assert not torch.equal(recipe._prepare(grey, Context(1)), first)


def test_binarising_in_batches_changes_nothing(data: Path, monkeypatch) -> None:
    grey = open_images(data, "val", size=8, channels=1)
    expected = BinarizedOnce(grey, seed=0).fingerprint
    monkeypatch.setattr("kexue_vae.data.BATCH", 7)
    assert BinarizedOnce(grey, seed=0).fingerprint == expected


def test_the_mnist_model_has_at_most_two_million_parameters() -> None:
    model = VAEMnist(VAEMnist.Config()).build()["model"]
    assert sum(p.numel() for p in model.parameters()) <= 2_000_000


def test_a_conditional_recipe_needs_labels_and_a_folder_a_class_gives_them(tmp_path) -> None:
    recipe = CVAEFashion(CVAEFashion.Config(**SMALL, classes=2))
    rng = np.random.default_rng(0)
    for name in ("boots", "coats"):
        folder = tmp_path / "sorted" / name
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    labels = recipe.data(str(tmp_path / "sorted"), "train").batch(range(18))["label"]
    assert set(labels.tolist()) == {0, 1}
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(mixed / f"{i}.png")
    with pytest.raises(DataError, match="has no labels"):
        recipe.data(str(mixed), "train")
