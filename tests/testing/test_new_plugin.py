"""What ``kexue new-plugin`` writes passes ruff, mypy and the kit unchanged, and trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sandbox import Sandbox
from synthetic import REPOSITORY

from kexue_core.errors import ConfigError, InvalidReferenceError
from kexue_core.testing.scaffold import KINDS, LONGEST_NAME, Kind, write_plugin


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("sandbox") / "environment")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind: x-model, x-loss, x-sampler."""
    folder = tmp_path_factory.mktemp("plugins")
    for kind in KINDS:
        write_plugin(f"x-{kind}", kind, folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x", "3d-net", "a" * LONGEST_NAME])  # names are inside of lines
def test_ruff_has_nothing_to_say(name: str, kind: Kind, sandbox: Sandbox, tmp_path: Path) -> None:
    folder = write_plugin(name, kind, tmp_path)
    sandbox.run("ruff check --no-cache . && ruff format --no-cache --check .", folder)


@pytest.mark.timeout(900)  # mypy reads torch anew where its cache is cold
def test_mypy_has_nothing_to_say(plugins: Path, sandbox: Sandbox) -> None:
    packages = sorted(plugins.glob("kexue-x-*/kexue_*"))
    assert len(packages) == len(KINDS)
    cache = REPOSITORY / ".mypy_cache" / "new-plugin"
    sandbox.run(f"mypy --strict --cache-dir {cache} " + " ".join(map(str, packages)), plugins)


@pytest.mark.parametrize("kind", ["loss", "sampler"])  # the page's test does it for a model
def test_the_kit_passes(kind: str, plugins: Path, sandbox: Sandbox) -> None:
    name = f"kexue-x-{kind}"
    sandbox.run("pip install --quiet -e .", plugins / name)
    done = sandbox.run(f"kexue check {name} --json", plugins)
    outcomes = json.loads(done.stdout)
    assert {o["subject"].partition(":")[0] for o in outcomes} == {"plugin", kind}
    assert not [o for o in outcomes if o["status"] == "failed"]


@pytest.mark.timeout(600)
def test_the_recipe_trains_and_its_weights_are_sampled(plugins: Path, sandbox: Sandbox) -> None:
    name = "x-model"
    sandbox.run("pip install --quiet -e .", plugins / f"kexue-{name}")
    images = plugins.parent / "images"
    images.mkdir()
    source = np.random.default_rng(0)
    for index in range(40):
        pixels = source.integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index:02}.png")
    run = plugins.parent / "run"
    sandbox.run(
        f"kexue train {name} --data {images} --steps 4 --set batch_size=8 --out {run}", plugins
    )
    assert (run / "weights" / "model.safetensors").is_file()
    sandbox.run(f"kexue sample file:{run / 'weights'} -n 4 --out samples.png", plugins)
    assert (plugins / "samples.png").is_file()


def test_taken_names_and_folders_are_refused(tmp_path: Path) -> None:
    write_plugin("fresh", "model", tmp_path)
    with pytest.raises(ConfigError, match="exists already"):
        write_plugin("fresh", "model", tmp_path)
    with pytest.raises(ConfigError, match="plugin of kexue itself"):
        write_plugin("flow", "model", tmp_path)
    with pytest.raises(ConfigError, match="kexue-flow declares a model 'glow'"):
        write_plugin("glow", "model", tmp_path)
    with pytest.raises(ConfigError, match="kexue declares a sampler 'latent-prior'"):
        write_plugin("latent-prior", "sampler", tmp_path)
    with pytest.raises(ConfigError, match="31 characters"):
        write_plugin("a" * 31, "model", tmp_path)
    with pytest.raises(InvalidReferenceError):
        write_plugin("Not A Name", "model", tmp_path)


def test_a_prefix_is_not_doubled(tmp_path: Path) -> None:
    assert write_plugin("kexue-fresh", "loss", tmp_path).name == "kexue-fresh"
