"""``kexue classify``, with a classifier that counts the words it knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kexue_core.commands import cli
from kexue_core.errors import DataError

PLUGIN = """
from kexue_core import ModelSpec, hookimpl

@hookimpl
def kexue_components():
    yield ModelSpec(
        name="word-spotter", factory="spotter_model:Spotter", config="spotter_model:Config",
        capabilities=("classifier",), summary="Spots words",
    )
"""

MODEL = """
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class Config:
    words: tuple = ("cocoa", "wheat", "可可")

class Spotter(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.ones(1))

    def classify(self, x):
        assert not torch.is_grad_enabled() and len(x) <= 16
        counts = [{w: text.count(w) for w in self.config.words} for text in x]
        ranked = [sorted(c.items(), key=lambda p: -p[1]) for c in counts]
        return [[(w, 1 - 0.6 ** (n + 1) * float(self.weight)) for w, n in r] for r in ranked]
"""


@pytest.fixture
def folder(site, here, tmp_path) -> Path:
    import kexue_core as kexue
    from kexue_core.plugins import discover

    site.install("kexue-spotter", PLUGIN)
    (site.folder / "spotter_model.py").write_text(MODEL)
    discover.cache_clear()
    return kexue.save(
        kexue.create("word-spotter"), tmp_path / "spotter", preprocess={"modality": "text"}
    )


def run(*args: object, **options):
    return CliRunner().invoke(cli, ["classify", *map(str, args)], **options)


def test_a_line_for_each_label_and_one_for_none(folder):
    result = run(f"file:{folder}", "cocoa and wheat, cocoa", "nothing", "可可\t!")
    assert result.exit_code == 0, result.exception
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows[0] == ["text", "label", "score"]
    assert rows[1:4] == [
        ["cocoa and wheat, cocoa", "cocoa", "0.7840"],
        ["cocoa and wheat, cocoa", "wheat", "0.6400"],
        ["nothing", "", ""],
    ]
    assert rows[4][1:] == ["可可", "0.6400"]
    assert result.stderr == "kexue: 1 of 3 texts got no label\n"
    assert run(f"file:{folder}", "nothing", "-q").stderr == ""


def test_top_and_threshold(folder):
    top = json.loads(run(f"file:{folder}", "nothing", "--top", 2, "--json").stdout)
    assert [x["label"] for x in top["texts"][0]["labels"]] == ["cocoa", "wheat"]
    assert top["threshold"] is None
    few = json.loads(
        run(f"file:{folder}", "cocoa wheat cocoa", "--threshold", 0.7, "--json").stdout
    )
    assert few["texts"] == [
        {"text": "cocoa wheat cocoa", "labels": [{"label": "cocoa", "score": pytest.approx(0.784)}]}
    ]
    assert few["threshold"] == 0.7


def test_texts_of_a_file_and_of_stdin_in_batches(folder, tmp_path):
    lines = [f"cocoa {i}" for i in range(40)]
    (tmp_path / "texts.txt").write_text("\n\n".join(lines) + "\r\n", encoding="utf-8")
    for options in ({"file": tmp_path / "texts.txt"}, {"file": "-", "input": "\n".join(lines)}):
        result = run(f"file:{folder}", "--file", options.pop("file"), **options)
        assert [r.split("\t")[0] for r in result.stdout.splitlines()[1:]] == lines


def test_mistakes_are_named(folder):
    assert run(f"file:{folder}").exit_code == 2
    assert run(f"file:{folder}", "--file", "missing.txt").exit_code == 2
    assert run(f"file:{folder}", "a", "--top", 0).exit_code == 2
    config = json.loads((folder / "config.json").read_text())
    config["preprocess"]["modality"] = "sound"
    (folder / "config.json").write_text(json.dumps(config))
    error = run(f"file:{folder}", "a").exception
    assert isinstance(error, DataError)
    assert "classifies sound" in str(error)


BRIGHTNESS = """
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class Config:
    size: int = 4

class Brightness(torch.nn.Module):
    data_shape = (1, 4, 4)

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.ones(1))

    def classify(self, x):
        assert x.shape[1:] == self.data_shape
        light = x.mean((1, 2, 3)).tolist()
        return [sorted([("light", s), ("dark", 1 - s)], key=lambda p: -p[1]) for s in light]
"""


@pytest.fixture
def brightness(site, here, tmp_path) -> Path:
    import kexue_core as kexue
    from kexue_core.plugins import discover

    plugin = PLUGIN.replace("spotter_model:Spotter", "brightness_model:Brightness")
    site.install("kexue-brightness", plugin.replace("spotter_model:", "brightness_model:"))
    (site.folder / "brightness_model.py").write_text(BRIGHTNESS)
    discover.cache_clear()
    return kexue.save(
        kexue.create("word-spotter"),
        tmp_path / "brightness",
        preprocess={"modality": "image", "size": 4, "channels": 1},
    )


def test_images_are_prepared_as_the_weights_say_and_labelled(brightness, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, level in (("a.png", 255), ("b.png", 51)):
        Image.fromarray(np.full((9, 12, 3), level, np.uint8)).save(pictures / name)
    np.save(tmp_path / "rows.npy", np.full((20, 1, 4, 4), 102, np.uint8))
    result = run(f"file:{brightness}", pictures, tmp_path / "rows.npy", "--threshold", 0.6)
    assert result.exit_code == 0, result.exception
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows[0] == ["image", "label", "score"]
    assert rows[1:3] == [
        [str(pictures / "a.png"), "light", "1.0000"],
        [str(pictures / "b.png"), "dark", "0.8000"],
    ]
    assert [row[1] for row in rows[3:]] == [""] * 20
    assert result.stderr == "kexue: 20 of 22 images got no label\n"
    top = run(f"file:{brightness}", pictures / "b.png", "--top", 1, "--json")
    assert json.loads(top.stdout)["images"][0]["labels"][0]["label"] == "dark"
    assert "does not exist" in str(run(f"file:{brightness}", "no.png").exception)
