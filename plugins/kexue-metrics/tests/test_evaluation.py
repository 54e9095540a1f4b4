"""What ``kexue eval --metrics`` measures: on a generator whose quality is known, and for real."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from kexue_metrics import sample_quality
from kexue_metrics.evaluation import (
    ClassAgreementConfig,
    ClassAgreementMetric,
    SampleQualityConfig,
    SampleQualityMetric,
)
from kexue_metrics.recipes import ClassifierFashion, ClassifierFashionConfig

import kexue_core as kexue
from kexue_core.commands import cli
from kexue_core.errors import ConfigError, DataError, KexueError
from kexue_core.folder import WeightsConfig
from kexue_core.metrics import Subject
from kexue_core.plugins import discover
from kexue_core.training.loop import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator(Subject):
    """Draws shades as the data has them, or as asked for: the first ``wrong`` the other way."""

    shades: Callable[..., Any]
    wrong: int = 0

    def sample(self, n, *, seed, sampler=None, options=None):
        images, labels = self.shades(12 * n, seed=seed + 100)
        asked = (options or {}).get("labels")
        rows = np.arange(n)
        if asked is not None:
            wanted = np.array([asked[i % len(asked)] for i in range(n)])
            wanted[: self.wrong] = 2 - wanted[: self.wrong]
            rows = np.array([np.flatnonzero(labels == w)[i // 3] for i, w in enumerate(wanted)])
        drawn = torch.from_numpy(images[rows]).float()[:, None] / 255
        return drawn, {"sampler": "shades", "options": dict(options or {})}


@pytest.fixture
def subject(shades):
    def make(source, **more):
        values = {"split": "test", "limit": None, **more}
        return Generator(
            name="shades",
            model=torch.nn.Identity(),
            config=WeightsConfig(
                model="glow",
                plugin="kexue-flow",
                config={},
                preprocess={"modality": "image", "size": 8, "channels": 1},
            ),
            source=str(source),
            device=torch.device("cpu"),
            shades=shades,
            **values,
        )

    return make


@pytest.fixture(scope="module")
def classifier(shades, tmp_path_factory) -> str:
    """A reference to a classifier that tells the shades apart."""
    folder = tmp_path_factory.mktemp("classifier")
    images, labels = shades(300, seed=5)
    np.savez(folder / "data.npz", images=images, labels=labels)
    settings = {"labels": ("dark", "grey", "light"), "size": 8, "widths": (4, 8), "steps": 60}
    recipe = ClassifierFashion(ClassifierFashionConfig(**settings, shift=0, ema=0.0))
    model = discover().find("model", "image-classifier")
    data = str(folder / "data.npz")
    train(recipe, name="short", model=model, data=data, out=folder / "run", device="cpu")
    return f"file:{folder / 'run' / 'weights'}"


def test_a_perfect_generator_gets_the_floor(classifier, subject, shades_file):
    found = SampleQualityMetric(SampleQualityConfig(features=classifier, seed=4)).measure(
        subject(shades_file)
    )
    assert (found.n, found.seed, found.dataset) == (60, 4, "shades (8x8 grey)")
    name, digest = found.settings["features"].split("@")
    assert name == classifier
    assert len(digest) == 64
    assert found.settings["sampler"] == "shades"
    assert found.values.keys() == found.floors.keys()
    for share in ("precision", "recall", "coverage"):
        # Both are shares of 60 samples from one distribution: 0.06 is a deviation, four are room.
        assert found.values[share] == pytest.approx(found.floors[share], abs=0.25)
    assert found.values["frechet_distance"] < 5 * found.floors["frechet_distance"]


def test_reference_and_floor_share_no_image(classifier, subject, shades_file, monkeypatch):
    seen = {}

    def spy(features, real, fake, *, real_floor):
        seen.update(real=real, floor=real_floor)
        return sample_quality(features, real, fake, real_floor=real_floor)

    monkeypatch.setattr("kexue_metrics.evaluation.sample_quality", spy)
    metric = SampleQualityMetric(SampleQualityConfig(features=classifier))
    for split, n in (("train", 135), ("val", 30), ("test", 40)):
        assert metric.measure(subject(shades_file, split=split, limit=n)).n == n
        # The shades are noise: equal features are equal images.
        assert float(torch.cdist(seen["real"], seen["floor"]).min()) > 0
        assert len(seen["real"]) == len(seen["floor"]) == n


def test_class_agreement_counts_what_was_asked_in_turn(classifier, subject, shades_file):
    metric = ClassAgreementMetric(ClassAgreementConfig(features=classifier))
    right = metric.measure(subject(shades_file))
    assert right.values["class_agreement"] > 0.95
    assert right.floors["class_agreement"] > 0.95
    assert right.floors.keys() == right.values.keys()
    assert right.settings["options"]["labels"] == [0, 1, 2]
    assert list(right.settings["per_class"]) == ["dark", "grey", "light"]
    # Of 60 samples the first 24 are of the opposite class, which grey has not.
    half = metric.measure(subject(shades_file, wrong=24))
    gap = right.values["class_agreement"] - half.values["class_agreement"]
    assert gap == pytest.approx(16 / 60, abs=0.05)


def test_what_does_not_suffice_is_said(classifier, subject, shades, shades_file, tmp_path):
    metric = SampleQualityMetric(SampleQualityConfig(features=classifier))
    with pytest.raises(DataError, match=r"61 samples need as many .* has 60 to offer. Take -n 60"):
        metric.measure(subject(shades_file, limit=61))
    with pytest.raises(DataError, match=r"136 samples .* has 135"):
        metric.measure(subject(shades_file, split="train", limit=136))
    with pytest.raises(DataError, match="5 samples are too few"):
        metric.measure(subject(shades_file, limit=5))
    odd = SampleQualityConfig(features=classifier, options=("temperature",))
    with pytest.raises(ConfigError, match="of the form KEY=VALUE"):
        SampleQualityMetric(odd).measure(subject(shades_file))
    with pytest.raises(DataError, match=r"61 samples .* has 60"):
        ClassAgreementMetric(ClassAgreementConfig(features=classifier)).measure(
            subject(shades_file, limit=61)
        )
    images, _ = shades(60)
    np.savez(tmp_path / "plain.npz", images=images)
    agreement = ClassAgreementMetric(ClassAgreementConfig(features=classifier))
    with pytest.raises(DataError, match="has no labels to check"):
        agreement.measure(subject(tmp_path / "plain.npz", split="train"))


def test_the_command_measures_published_weights(tmp_path):
    pytest.importorskip("kexue_flow")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", images=rng.integers(0, 256, (60, 28, 28), np.uint8))
    arguments = ["eval", "glow-fashion", "--metrics", "sample-quality", "--split", "train"]
    arguments += ["--data", str(tmp_path / "noise.npz"), "-n", "20", "--json"]
    settings = ("features=classifier-fashion", "options=temperature=0.9", "seed=2")
    for setting in settings:
        arguments += ["--set", setting]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.exception
    records = json.loads(result.stdout)
    assert [r["metric"] for r in records][:2] == ["frechet_distance", "kernel_distance"]
    info = kexue.info("classifier-fashion").entry.files["model.safetensors"].sha256
    for record in records:
        assert record["settings"]["features"] == f"classifier-fashion@{info}"
        assert record["settings"]["options"]["temperature"] == 0.9
        assert (record["n"], record["seed"]) == (20, 2)
    # Clothes are far from noise, noise is near to noise.
    assert records[0]["value"] > 5 * records[0]["floor"]
    without = [a for a in arguments if not a.startswith("features=")]
    without.remove("--set")
    error = CliRunner().invoke(cli, without).exception
    assert isinstance(error, KexueError)
    assert "features=classifier-fashion" in str(error)
