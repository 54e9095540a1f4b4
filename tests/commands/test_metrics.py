"""``kexue eval --metrics`` and the entry points behind it, with metrics of a made-up plugin."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kexue_core.commands import cli
from kexue_core.errors import (
    AmbiguousNameError,
    ConfigError,
    DataError,
    NotFoundError,
    PluginError,
    UnsupportedError,
)
from kexue_core.metrics import find_metric, metric_names
from kexue_core.training.records import read_records

METRICS = """
from dataclasses import dataclass
from kexue_core.metrics import Measurement, Metric

@dataclass(frozen=True)
class Config:
    seed: int = 0
    features: str = ""

class Brightness(Metric):
    Config = Config

    def measure(self, subject):
        real = subject.images(subject.split)
        n = subject.limit or len(real)
        fake, drawn = subject.sample(n, seed=self.config.seed, options={"temperature": 0.5})
        settings = {"features": self.config.features} if self.config.features else {}
        return Measurement(
            values={"real": real.batch(range(n))["image"].mean(), "fake": fake.mean()},
            floors={"fake": 0.25},
            n=n, seed=self.config.seed, dataset=real.name, settings=settings | drawn,
        )

class Labels(Brightness):
    verb = "classify"

no_metric = 3
"""


@pytest.fixture
def data(tmp_path, site, here):
    targets = {"brightness": "Brightness", "labels": "Labels", "none": "no_metric", "lost": "Lost"}
    entries = {name: f"kexue_light:{target}" for name, target in targets.items()}
    site.install("kexue-light", METRICS, entry_points={"kexue.metrics": entries})
    path = tmp_path / "grey.npz"
    np.savez(path, images=np.full((20, 9, 9, 3), 51, np.uint8))
    return path


@pytest.fixture
def name(here, tmp_path) -> str:
    import kexue_core as kexue

    torch.manual_seed(0)
    glow = kexue.create("glow", size=8, levels=2, steps=2, hidden=8)
    glow.initialize(torch.rand(64, 3, 8, 8))
    prepare = {"modality": "image", "size": 8, "channels": 3}
    return f"file:{kexue.save(glow.eval(), tmp_path / 'tiny', preprocess=prepare)}"


def run(*args):
    return CliRunner().invoke(cli, ["eval", *map(str, args)])


def test_metrics_become_records(name, data, tmp_path):
    import kexue_core as kexue

    arguments = (name, "--metrics", "brightness", "--data", data, "--split", "train", "-n", 10)
    result = run(*arguments, "--set", "seed=3", "--record", tmp_path / "r.jsonl")
    assert result.exit_code == 0, result.exception
    real, fake = read_records(tmp_path / "r.jsonl")
    assert (real.metric, real.dataset, real.split, real.n) == ("real", "grey (8x8)", "train", 10)
    assert real.value == pytest.approx(51 / 255)
    # The data is prepared, and samples are drawn, as the weights say.
    drawn = kexue.sample(kexue.load(name), 10, seed=3, temperature=0.5)
    assert fake.value == pytest.approx(float(drawn.mean()))
    assert fake.settings["metrics"] == "brightness"
    assert fake.settings["sampler"] == "latent-prior"
    assert fake.settings["options"]["temperature"] == 0.5
    assert (fake.floor, real.floor) == (0.25, None)
    assert (fake.seed, fake.versions["kexue-light"]) == (3, "1.0")
    assert fake.command == (
        "kexue eval file:tiny --metrics brightness --data grey.npz --split train --limit 10 "
        "--set seed=3"
    )


def test_how_samples_were_drawn_and_whose_features_were_compared_is_shown(name, data):
    arguments = (name, "--metrics", "brightness", "--data", data)
    head, *rows = run(*arguments, "--set", f"features=eye@{'0' * 64}").stdout.splitlines()
    assert head == "metric\tvalue\tfloor\tsplit\tn\tdataset\tconditions"
    assert [row.split("\t")[2] for row in rows] == ["", "0.25"]
    drawn = "latent-prior(temperature=0.5, batch_size=16)"
    assert {row.split("\t")[-1] for row in rows} == {f"{drawn}, features of eye@{'0' * 12}"}
    shown = json.loads(run(*arguments, "--set", f"features=eye@{'0' * 64}", "--json").stdout)
    assert shown[0]["settings"]["features"] == f"eye@{'0' * 64}"


def test_mistakes_are_named(name, data):
    for arguments, kind, said in (
        (("--metrics", "brightnes"), NotFoundError, "Did you mean brightness"),
        (("--metrics", "lost"), PluginError, "has no attribute 'Lost'"),
        (("--metrics", "none"), PluginError, "no subclass of kexue_core.metrics.Metric"),
        (("--metrics", "labels"), UnsupportedError, "cannot classify"),
        (("--metrics", "brightness", "--set", "sed=1"), ConfigError, "Did you mean seed"),
        (("--metrics", "brightness", "--split", "test"), DataError, "no test split"),
    ):
        error = run(name, "--data", data, *arguments).exception
        assert isinstance(error, kind), error
        assert said in str(error)
    assert "--data PATH" in str(run(name, "--metrics", "brightness").exception)
    both = run(name, "--metrics", "brightness", "--recipe", "glow-celeba")
    assert both.exit_code == 2


def test_where_the_weights_say_of_no_size_the_model_does(data, tmp_path):
    import kexue_core as kexue

    torch.manual_seed(0)
    glow = kexue.create("glow", size=8, levels=2, steps=2, hidden=8)
    glow.initialize(torch.rand(64, 3, 8, 8))
    for modality, said in (("image", None), ("text", "says of no size that images should have")):
        prepare = {"modality": modality}
        folder = kexue.save(glow.eval(), tmp_path / modality, preprocess=prepare)
        result = run(f"file:{folder}", "--metrics", "brightness", "--data", data, "-n", 2)
        assert (result.exit_code == 0) == (said is None), result.exception
        assert said is None or said in str(result.exception)


def test_metrics_are_listed_without_an_import_and_told_apart(data, site):
    assert {"brightness", "labels", "lost", "none"} <= set(metric_names())
    other = {"brightness": "kexue_absent:Brightness"}
    site.install("kexue-other", entry_points={"kexue.metrics": other})
    with pytest.raises(AmbiguousNameError, match="kexue-light::brightness or kexue-other::"):
        find_metric("brightness")
    assert find_metric("kexue-light::brightness").distribution == "kexue-light"
    with pytest.raises(PluginError, match="No module named 'kexue_absent'"):
        find_metric("kexue-other::brightness")
