"""What the command line does with VAEs: `sample -o labels`, traversals, scores, clusters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import kexue_core as kexue
from kexue_core.commands import cli
from kexue_core.errors import ConfigError, DataError

IMAGES = {"modality": "image", "size": 8, "channels": 1, "range": [0, 1]}
SMALL = {"size": 8, "latent": 3, "widths": (8,)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Weights of every model, untrained."""
    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("weights")
    found = {}
    for name, extra in (("vae", {}), ("cvae", {"classes": 3}), ("vae-cluster", {"clusters": 3})):
        model = kexue.create(name, **SMALL, **extra)
        path = kexue.save(
            model, base / name, preprocess=IMAGES, sampler=("latent-prior", {"temperature": 0.5})
        )
        found[name] = f"file:{path}"
    return found


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*args: object) -> Any:
    return CliRunner().invoke(cli, [str(a) for a in args])


def ok(*args: object) -> Any:
    result = run(*args)
    assert result.exit_code == 0, result.output or result.exception
    return result


def test_sample_draws_the_classes_that_are_asked_for(folders) -> None:
    options = ("-n", 6, "--device", "cpu", "--out", "drawn.npy")
    ok("sample", folders["cvae"], *options, "-o", "labels=[2,0]")
    model = kexue.load(folders["cvae"])
    expected = model.decode(
        model.prior(
            6,
            temperature=0.5,
            condition=torch.tensor([2, 0, 2, 0, 2, 0]),
            generator=torch.Generator().manual_seed(0),
        )
    )
    np.testing.assert_allclose(np.load("drawn.npy"), expected.numpy(), atol=1e-6)
    assert torch.equal(
        kexue.sample(model, 6, labels=[2, 0]), torch.from_numpy(np.load("drawn.npy"))
    )
    said = ok("sample", folders["cvae"], *options, "-o", "labels=1").stderr
    assert "labels=1" in said
    for name, message in (("cvae", r"labels must be in 0..2"), ("vae", "unconditional")):
        error = run("sample", folders[name], "-o", "labels=3").exception
        assert isinstance(error, ConfigError)
        assert message in str(error)


def test_the_prior_is_the_default_and_a_traversal_can_be_asked_for(folders) -> None:
    model = kexue.create("vae", **SMALL)
    assert torch.equal(kexue.sample(model, 2), kexue.sample(model, 2, sampler="latent-prior"))
    sampler = ("--sampler", "latent-traversal", "-o", "points=5")
    ok("sample", folders["vae"], "-n", 15, *sampler, "--columns", 5, "--out", "walks.png")
    width, height = Image.open("walks.png").size
    assert (width - 2) // 5 == (height - 2) // 3


def test_scores_are_bounds_and_binarise_by_their_seed(folders, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save("grey.png")
    binary = (rng.random((2, 1, 8, 8)) < 0.5).astype(np.float32)
    np.save("binary.npy", binary)
    said = json.loads(ok("score", folders["vae"], "grey.png", "--json").stdout)
    assert said["bound"] is True
    other = json.loads(ok("score", folders["vae"], "grey.png", "--seed", 1, "--json").stdout)
    assert said["images"] != other["images"]
    nats = json.loads(
        ok("score", folders["vae"], "--data", "binary.npy", "--unit", "nats", "--json").stdout
    )
    model = kexue.load(folders["vae"])
    expected = model.log_prob(torch.from_numpy(binary)).tolist()
    assert [row["log_prob"] for row in nats["images"]] == pytest.approx(expected, rel=1e-5)
    error = run("score", folders["vae"], "grey.png", "--unit", "nats").exception
    assert isinstance(error, DataError)
    assert "binary images" in str(error)


def test_interpolate_and_reconstruct(folders) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save("grey.png")
    ok("interpolate", folders["vae"], "--steps", 4, "--out", "walk.png")
    ok("reconstruct", folders["cvae"], "grey.png", "--out", "pair.png")


def test_classify_names_clusters(folders) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save("grey.png")
    assert (
        '"0"'
        in ok("classify", folders["vae-cluster"], "grey.png", "--threshold", 0, "--json").stdout
    )
