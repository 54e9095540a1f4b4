"""The experiments run, on a data set and weights of a size at which nothing can be claimed."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kexue_flow.attributes import Attributes
from kexue_flow.experiments import (
    VARIANTS,
    AffineCoupling,
    Checkerboard,
    NICEPrior,
    Permutation,
    SmallGlow,
    SplitPrior,
)
from kexue_flow.experiments import SmallGlowConfig as Config
from kexue_flow.glow import Glow, GlowConfig
from kexue_flow.pictures import Interpolation, Temperature
from PIL import Image

from kexue_core.errors import DataError
from kexue_core.experiments import Results, RunContext, RunResult
from kexue_core.reproduce import entries, load_experiment, reproduce
from kexue_core.training.records import ResultRecord

TINY = {"steps": 4, "batch_size": 8, "depth": 1, "hidden": 8, "warmup": 1}


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Images in the files of Fashion-MNIST."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, n in (("train", 320), ("t10k", 8)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        header = struct.pack(">IIII", 2051, n, 28, 28)
        with gzip.open(folder / f"{name}-images-idx3-ubyte.gz", "wb") as file:
            file.write(header + images.tobytes())
        with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 2049, n) + bytes(n))
    return folder


@pytest.mark.parametrize("experiment", [SplitPrior, Permutation, AffineCoupling])
def test_variants_differ_from_base_in_one_part(experiment: Any) -> None:
    base = experiment().settings("base", quick=False)
    for variant in experiment.variants:
        other = experiment().settings(variant, quick=False)
        differing = {key for key in base if base[key] != other[key]}
        assert differing == set(VARIANTS[variant])
        assert len(differing) == (variant != "base")


@pytest.mark.parametrize("experiment", [NICEPrior, Checkerboard])
def test_two_variants_differ_in_one_part(experiment: Any) -> None:
    one, other = (experiment().settings(v, quick=False) for v in experiment.variants)
    [differing] = [key for key in one if one[key] != other[key]]
    for variant, value in zip(experiment.variants, (one, other), strict=True):
        flow = experiment.recipe(experiment()._config(variant, quick=False)).flow()
        assert getattr(flow.config, differing) == value[differing]


@pytest.mark.parametrize(("worse", "holds"), [(4.04, True), (4.06, False), (3.5, True)])
def test_the_criterion_of_the_checkerboard(worse: float, holds: bool) -> None:
    def run(variant: str, seed: int, bits: float) -> RunResult:
        record = ResultRecord(
            metric="bits_per_dim",
            value=bits,
            dataset="",
            split="val",
            n=1,
            seed=seed,
            command="",
            weights="",
            versions={},
            device="cpu",
        )
        return RunResult(variant=variant, seed=seed, records=(record,))

    runs = [
        run(v, s, bits) for s in (0, 1) for v, bits in (("checkerboard", 4.0), ("channels", worse))
    ]
    assert Checkerboard().verdict(Results(runs)).holds is holds


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_parts_reach_the_model(variant: str) -> None:
    glow = SmallGlow(Config(**VARIANTS[variant])).build()["model"]
    assert isinstance(glow, Glow)
    for key, value in {"split_prior": "learned", **VARIANTS[variant]}.items():
        assert getattr(glow.config, key) == value


def test_a_comparison_from_data_to_report(
    idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        SplitPrior, "_config", lambda self, v, *, quick: Config(**TINY, **VARIANTS[v])
    )
    out = tmp_path / "out"
    report = reproduce(SplitPrior(), out=out, seeds=1, data=str(idx_folder), device="cpu")
    assert [run["variant"] for run in report["runs"]] == ["base", "standard-prior"]
    for run in report["runs"]:
        [record] = run["records"]
        assert (record["metric"], record["split"], record["n"]) == ("bits_per_dim", "val", 32)
        steps = [step for step, _ in run["curves"]["bits_per_dim"]]
        assert steps == [1, 2, 3, 4]
    assert str(tmp_path) not in json.dumps(report)
    assert (out / "glow-split-prior" / "plot.png").is_file()
    # Another comparison of the study finds the base finished.
    monkeypatch.setattr(AffineCoupling, "_config", SplitPrior._config)
    said: list[str] = []
    reproduce(AffineCoupling(), out=out, seeds=1, data=str(idx_folder), say=said.append)
    assert said[0].endswith("base, seed 0: was finished before")


@pytest.fixture
def tiny_glow() -> Glow:
    torch.manual_seed(0)
    glow = Glow(GlowConfig(size=8, levels=2, steps=2, hidden=8)).eval()
    glow.initialize(torch.rand(64, 3, 8, 8))
    return glow


@pytest.mark.parametrize("experiment", [Temperature, Interpolation])
def test_pictures_from_weights_to_report(experiment: Any, tiny_glow: Glow, tmp_path: Path) -> None:
    asked = experiment()
    # The weights are not loaded from the hub but given: both are cached properties.
    asked.__dict__ |= {"glow": tiny_glow, "sha256": "0" * 64}
    report = reproduce(asked, out=tmp_path, quick=True)
    assert {record["weights"] for run in report["runs"] for record in run["records"]} == {"0" * 64}
    assert (tmp_path / f"{asked.name}-quick" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert report == reproduce(asked, out=tmp_path, quick=True)  # same seed, same figures


def test_temperature_scales_the_same_noise(tiny_glow: Glow, tmp_path: Path) -> None:
    asked = Temperature()
    asked.__dict__ |= {"glow": tiny_glow, "sha256": "0" * 64}
    [cold], [hot] = asked.latents(0, 0.5, 4), asked.latents(0, 1.0, 4)
    for a, b in zip(cold, hot, strict=True):
        torch.testing.assert_close(2 * a, b)
    context = RunContext(folder=tmp_path, data=None, device="cpu", quick=True, command="")
    deviations = [asked.run(t, 0, context)[0][0].value for t in ("0.5", "1.0")]
    assert deviations[0] < deviations[1]


def test_temperature_verdict_needs_both_to_rise() -> None:
    asked = Temperature()
    asked.__dict__ |= {"sha256": "0" * 64}
    context = RunContext(folder=Path(), data=None, device="cpu", quick=True, command="")

    def results(deviations: list[float], bits: list[float]) -> Results:
        return Results(
            RunResult(
                variant=variant,
                seed=0,
                records=(
                    asked.record("pixel_deviation", d, 8, 0, context),
                    asked.record("bits_per_dim", b, 8, 0, context),
                ),
            )
            for variant, d, b in zip(asked.variants, deviations, bits, strict=True)
        )

    rising = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert asked.verdict(results(rising, rising)).holds
    assert not asked.verdict(results(rising, [1.0, 2.0, 3.0, 3.0, 5.0, 6.0])).holds


@pytest.fixture
def face_pack(tmp_path: Path) -> Path:
    """A pack like CelebA's frames, in which the attributes are colours, and 128 each have one."""
    rng = np.random.default_rng(0)
    n = 640
    attributes = np.zeros((n, 5), np.uint8)
    attributes[np.arange(n), np.arange(n) % 5] = 1
    blobs = []
    for row in attributes:
        pixels = rng.integers(0, 80, (64, 64, 3))
        pixels[..., :2] += 120 * row[[0, 3]]  # bangs are red, smiling is green
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG")
        blobs.append(file.getvalue())
    path = tmp_path / "celeba-full64.npz"
    np.savez(
        path,
        head=np.zeros(0, np.uint8),
        data=np.frombuffer(b"".join(blobs), np.uint8),
        offsets=np.cumsum([0, *map(len, blobs)]),
        split=np.arange(n) // 5 % 2,
        attrs5=attributes,
    )
    return path


def test_attributes_are_found_where_there_are_any(
    face_pack: Path, tiny_glow: Glow, tmp_path: Path
) -> None:
    asked = Attributes()
    asked.__dict__ |= {"glow": tiny_glow, "sha256": "0" * 64}
    out = tmp_path / "out"
    report = reproduce(asked, out=out, quick=True, data=str(face_pack.parent))
    areas = {run["variant"]: run["records"][0]["value"] for run in report["runs"]}
    assert areas["bangs"] > 0.95
    assert areas["smiling"] > 0.95
    assert 0.3 < areas["beard"] < 0.75  # pixels do not know of it, but for the other colours
    assert report["holds"] == (min(areas.values()) >= 2 / 3)
    assert (out / "glow-attributes-quick" / "plot.png").is_file()
    with pytest.raises(DataError, match="no public copy"):
        reproduce(asked, out=out)


def test_every_entry_point_loads() -> None:
    ours = [entry.name for entry in entries() if entry.distribution == "kexue-flow"]
    assert {"glow-split-prior", "glow-permutation", "glow-affine"} <= set(ours)
    for name in ours:
        experiment = load_experiment(name)
        assert experiment.claim
        assert experiment.criterion
