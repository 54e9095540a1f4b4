"""The page "Your first plugin in ten minutes", executed as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image
from sandbox import Sandbox
from synthetic import REPOSITORY

from kexue_core.testing.loopback_hub import LoopbackHub

PAGE = REPOSITORY / "docs" / "first-plugin.md"


def commands() -> list[str]:
    """What follows `$ ` in the page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def fashion(folder: Path) -> dict[str, bytes]:
    """A data set of the shape of Fashion-MNIST, with noise for pictures."""
    noise = np.random.default_rng(0)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    )
    files = {}
    for split, n in (("train", 200), ("test", 20)):
        pictures = noise.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        rows = {
            "image": [Image.fromarray(p) for p in pictures],
            "label": [k % 10 for k in range(n)],
        }
        path = folder / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
        files[f"fashion_mnist/{path.name}"] = path.read_bytes()
    return files


@pytest.mark.timeout(900)  # half a minute of one core, which a busy machine stretches
def test_every_command_of_the_page(tmp_path: Path, loopback_hub: LoopbackHub) -> None:
    sandbox = Sandbox(tmp_path / "environment")
    loopback_hub.store.add("datasets/zalando-datasets/fashion_mnist", fashion(tmp_path))
    sandbox.environment |= loopback_hub.environment(token="hf_loopback")
    sandbox.environment["HF_HOME"] = str(tmp_path / "hf")
    cwd = tmp_path
    said = {}
    for command in commands():
        if command.startswith("cd "):
            cwd = cwd / command.removeprefix("cd ")
            assert cwd.is_dir()
        else:
            said[command] = sandbox.run(command, cwd)
    assert "toy\tkexue-toy" in said["kexue list --kind model"].stdout
    assert " 0 failed" in said["kexue check kexue-toy"].stderr
    assert re.search(r"\d+ passed", said["pytest"].stdout)
    with Image.open(cwd / "samples.png") as drawn:
        assert min(drawn.size) >= 4 * 28
    assert list((cwd / "dist").glob("kexue_toy-*.whl"))
    entry = yaml.safe_load(said["kexue push runs/toy/weights you/toy"].stdout)["toy"]
    assert entry["revision"] == loopback_hub.store.repos["you/toy"].refs["main"]


def test_the_page_leads_to_a_passing_plugin_in_at_most_ten_commands() -> None:
    assert 1 <= commands().index("pytest") + 1 <= 10


def test_no_command_of_the_page_hides_in_a_sentence() -> None:
    text = re.sub(r"```.*?```", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = re.findall(r"`([^`]+)`", text)
    spoken = {s for s in spans if re.match(r"(kexue|pip|python|pytest|twine) \S+ \S", s)}
    assert spoken <= set(commands())
