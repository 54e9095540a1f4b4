"""The recipes learn, publish what they evaluate, and say what data they cannot use."""

import json
import math

import numpy as np
import pytest
import torch
from kexue_metrics.recipes import (
    ClassifierCelebAAttributes,
    ClassifierCelebAAttributesConfig,
    ClassifierFashion,
    ClassifierFashionConfig,
    ClassifierMNIST,
    ClassifierMNISTConfig,
    random_shift,
)
from PIL import Image

from kexue_core.errors import DataError
from kexue_core.loading import load_folder
from kexue_core.plugins import discover
from kexue_core.training.loop import train
from kexue_core.training.records import read_records

SMALL = {
    "steps": 40,
    "batch_size": 32,
    "ema": 0.0,
    "evaluate_every": 40,
    "checkpoint_every": 40,
    "labels": ("dark", "grey", "light"),
    "size": 8,
    "channels": 1,
    "widths": (4, 8),
    "shift": 1,
}


def run(recipe, data, out, **more):
    model = discover().find("model", "image-classifier")
    return train(recipe, name="short", model=model, data=str(data), out=out, device="cpu", **more)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_short_run_learns_and_publishes_what_it_evaluates(dtype, shades_file, tmp_path):
    recipe = ClassifierFashion(ClassifierFashionConfig(**SMALL, dtype=dtype))
    folder = run(recipe, shades_file, tmp_path / "run")
    accuracy, loss = read_records(folder / "results.jsonl")
    assert (accuracy.metric, loss.metric) == ("accuracy", "cross_entropy")
    assert accuracy.value > 0.95  # three brightnesses far apart; by chance 0.33
    assert loss.value < 0.7 * math.log(3)  # nats; by chance log 3
    model = load_folder(folder / "weights")
    with torch.no_grad():
        again = recipe.evaluate(model, recipe.data(str(shades_file), "val"))
    assert again["accuracy"] == accuracy.value
    test = recipe.data(str(shades_file), "test").batch(range(60))
    assert float((model(test["image"]).argmax(-1) == test["label"]).float().mean()) > 0.95
    config = json.loads((folder / "weights" / "config.json").read_text())
    assert config["config"]["labels"] == ["dark", "grey", "light"]
    assert config["preprocess"] == {"modality": "image", "size": 8, "channels": 1, "range": [0, 1]}


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(shades_file, tmp_path):
    def recipe():
        return ClassifierFashion(ClassifierFashionConfig(**{**SMALL, "steps": 8, "ema": 0.9}))

    whole = run(recipe(), shades_file, tmp_path / "whole")
    parts = run(recipe(), shades_file, tmp_path / "parts", max_minutes=1e-6)
    after_first = (parts / "weights" / "model.safetensors").read_bytes()
    assert run(recipe(), shades_file, tmp_path / "parts", resume=True) == parts
    found = (parts / "weights" / "model.safetensors").read_bytes()
    assert found == (whole / "weights" / "model.safetensors").read_bytes() != after_first


def test_attributes_are_scored_one_by_one(shades, tmp_path):
    images, _ = shades(400)
    light = (images[:, :4].mean((1, 2)) > 120).astype(int)
    noise = np.random.default_rng(3).integers(0, 2, 400)
    path = tmp_path / "attributes.npz"
    np.savez(path, images=images, labels=np.stack([light, noise], 1))
    settings = {**SMALL, "labels": ("light", "noise")}
    recipe = ClassifierCelebAAttributes(ClassifierCelebAAttributesConfig(**settings))
    folder = run(recipe, path, tmp_path / "run")
    found = {r.metric: r.value for r in read_records(folder / "results.jsonl")}
    assert found["accuracy_light"] > 0.9
    assert found["accuracy_noise"] < 0.75  # nothing to learn: 40 images of validation by chance
    assert found["average_precision_light"] > 0.95
    assert found["accuracy"] == pytest.approx(
        (found["accuracy_light"] + found["accuracy_noise"]) / 2
    )

    # Average precision and prevalence by hand: precision at each hit, down the ranking.
    model, data = load_folder(folder / "weights"), recipe.data(str(path), "val")
    batch = data.batch(range(len(data)))
    scores, truth = model(batch["image"])[:, 1].tolist(), batch["label"][:, 1].tolist()
    ranked = [t for _, t in sorted(zip(scores, truth, strict=True), reverse=True)]
    hits = [i for i, t in enumerate(ranked) if t]
    by_hand = sum((k + 1) / (i + 1) for k, i in enumerate(hits)) / len(hits)
    assert found["average_precision_noise"] == pytest.approx(by_hand, abs=1e-5)
    assert found["prevalence_noise"] == pytest.approx(sum(truth) / len(truth))


def test_a_folder_of_a_folder_a_class_will_do(shades, tmp_path):
    images, labels = shades(60)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "mine" / "train" / ("dark", "grey", "light")[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    recipe = ClassifierMNIST(ClassifierMNISTConfig(**SMALL))
    batch = recipe.data(str(tmp_path / "mine"), "train").batch(range(54))
    dark = batch["image"][batch["label"] == 0].mean()
    assert dark < batch["image"][batch["label"] == 2].mean()


def test_celeba_is_read_as_the_frames_of_its_pack(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    pack = {"images": images, "attrs5": np.eye(6, 5, dtype=np.uint8), "split": [0, 1, 2] * 2}
    np.savez(tmp_path / "celeba-full64.npz", **pack)
    recipe = ClassifierCelebAAttributes(ClassifierCelebAAttributesConfig())
    for k, split in enumerate(("train", "val", "test")):
        data = recipe.data(str(tmp_path), split)
        batch = data.batch([0, 1])
        assert batch["image"].shape == (2, 3, 48, 48)
        assert batch["label"].tolist() == np.eye(6, 5)[[k, k + 3]].tolist()


def test_data_that_cannot_be_used_is_named(shades, shades_file, tmp_path):
    images, _ = shades(30)
    plain = tmp_path / "plain.npz"
    np.savez(plain, images=images)
    attributes = tmp_path / "attributes.npz"
    np.savez(attributes, images=images, labels=np.eye(30, 4, dtype=int))
    single = ClassifierMNIST(ClassifierMNISTConfig(**SMALL))
    two = ClassifierMNIST(ClassifierMNISTConfig(**{**SMALL, "labels": ("a", "b")}))
    several = ClassifierCelebAAttributes(ClassifierCelebAAttributesConfig(**SMALL))
    for recipe, source, said in (
        (single, plain, "has no labels. Name a folder of a folder a class"),
        (single, attributes, r"labels of the shape \(4,\) each"),
        (several, shades_file, r"labels of the shape \(\) each"),
        (two, shades_file, "has 3 labels, and 2 are named. Name them in their order"),
        (several, attributes, "has 4 labels, and 3 are named"),
    ):
        with pytest.raises(DataError, match=said):
            recipe.data(str(source), "train")
    with pytest.raises(DataError, match="may not be redistributed"):
        several.data(None, "train")


def test_the_rate_rises_once_and_falls_to_zero():
    recipe = ClassifierMNIST(ClassifierMNISTConfig(steps=100, warmup=0.2))
    scales = [recipe.learning_rate_scale(step) for step in range(100)]
    assert max(scales) == scales[19] == scales[20] == 1.0
    assert scales[:20] == sorted(scales[:20])
    assert scales[20:] == sorted(scales[20:], reverse=True)
    assert 0 < scales[-1] < 0.01


class Noise:
    """A step's noise that is given beforehand."""

    def __init__(self, values):
        self.values = values

    def noise(self, rows, draw, *shape):
        assert (rows, draw, *shape) == (len(self.values), "uniform", 2)
        return self.values


def test_shifts_move_whole_images_and_black_comes_in():
    image = torch.arange(1.0, 2 * 3 * 4 * 4 + 1).view(2, 3, 4, 4)
    # 5 offsets for +-2: noise 0 takes the first, just below 1 the last, 0.5 none.
    moved = random_shift(image, 2, Noise(torch.tensor([[0.5, 0.5], [0.0, 0.999]])))
    assert torch.equal(moved[0], image[0])
    expected = torch.zeros(3, 4, 4)
    expected[:, 2:, :2] = image[1, :, :2, 2:]
    assert torch.equal(moved[1], expected)
