"""Parquet, and data sets by their name on the Hub."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kexue_core.errors import DataError, NetworkError, OfflineError
from kexue_core.testing.loopback_hub import LoopbackHub
from kexue_core.training.data import open_images

Rng = np.random.Generator
SPLITS = ("train", "val", "test")
# Nothing listens on the discard port: connections to it are refused at once.
NOBODY = "http://127.0.0.1:9"


def pictures(rng: Rng, n: int) -> np.ndarray[Any, Any]:
    return rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def png(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(images: Any) -> np.ndarray[Any, Any]:
    read = images.batch(range(len(images)))["image"]
    return np.asarray((read * 255).round().byte().numpy().transpose(0, 2, 3, 1))


# --- parquet ------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path: Path, rng: Rng) -> Path:
    import datasets

    folder = tmp_path / "table"
    folder.mkdir()
    columns = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    for split, n in (("train", 20), ("test", 4)):
        rows = {
            "image": [Image.fromarray(a) for a in pictures(rng, n)],
            "label": [k % 2 for k in range(n)],
        }
        table = datasets.Dataset.from_dict(rows, features=columns)
        table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def test_parquet(parquet: Path) -> None:
    train, val, test = (open_images(parquet, s, size=8) for s in SPLITS)  # type: ignore[arg-type]
    assert (len(train), len(val), len(test)) == (18, 2, 4)
    assert test.batch([0, 1, 3])["label"].tolist() == [0, 1, 1]
    assert pixels(test).shape == (4, 8, 8, 3)
    alone = open_images(parquet / "test-00000-of-00001.parquet", "test", size=8)
    assert np.array_equal(pixels(alone), pixels(test))
    assert train.fingerprint == open_images(parquet, "train", size=8).fingerprint


def structs(blobs: list[bytes]) -> Any:
    return pa.array([{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(blobs)])


@pytest.mark.parametrize(
    ("column", "made", "label"),
    [
        ("image", structs, "label"),
        ("cover", structs, "target"),
        ("img", lambda blobs: pa.array(blobs, pa.binary()), "Label"),
        ("PNG", lambda blobs: pa.array(blobs, pa.large_binary()), "y"),
    ],
)
def test_parquet_of_other_writers(
    tmp_path: Path, rng: Rng, column: str, made: Callable[[list[bytes]], Any], label: str
) -> None:
    array = pictures(rng, 20)
    numbers = pa.array(range(20), pa.int32())
    table = pa.table({"id": numbers, column: made([png(a) for a in array]), label: numbers})
    pq.write_table(table, tmp_path / "a.parquet")
    val = open_images(tmp_path / "a.parquet", "val", size=8)
    assert np.array_equal(pixels(val), array[[9, 19]])  # every tenth
    assert val.batch([0, 1])["label"].tolist() == [9, 19]


def test_a_column_with_a_label_missing_is_no_column_of_labels(tmp_path: Path, rng: Rng) -> None:
    blobs = [png(a) for a in pictures(rng, 4)]
    pq.write_table(pa.table({"image": blobs, "label": [0, 1, None, 1]}), tmp_path / "a.parquet")
    assert "label" not in open_images(tmp_path / "a.parquet", "train", size=8).batch([0])


def test_rows_without_an_image_are_named(tmp_path: Path, rng: Rng) -> None:
    blobs = [png(a) for a in pictures(rng, 3)]
    pq.write_table(pa.table({"image": [None, b"x", *blobs]}), tmp_path / "a.parquet")
    said = r"2 of 4 images in a cannot be read: .*a.parquet\[0\], .*a.parquet\[1\] \(it is null\)"
    with pytest.raises(DataError, match=said):
        open_images(tmp_path / "a.parquet", "train", size=8)


def test_a_table_without_images_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sound": [b"a", b"b"], "image": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column of images, only sound, image. Name one image"):
        open_images(tmp_path / "a.parquet", "train", size=8)


def test_broken_parquet_is_named_in_one_line(
    parquet: Path, kexue: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = parquet / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:300])
    done = kexue("train", "toy-made", "--data", path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"kexue: {path} cannot be read as parquet: ")
    assert done.stderr.endswith(". Copy it again\n")
    assert done.stderr.count("\n") == 1
    assert ".. " not in done.stderr


# --- the Hub ------------------------------------------------------------------------------------

# A process of its own, as the libraries read their variables when they are imported.
OPEN = """
from kexue_core.training.data import open_images
images = open_images("someone/faces", "test", size=8)
print(images.name, images.fingerprint, images.batch([0, 1, 3])["label"].tolist())
print(images.batch(range(4))["image"].mul(255).round().byte().numpy().tobytes().hex())
"""


def test_a_data_set_of_the_hub_comes_once_and_then_from_the_cache(
    parquet: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", OPEN],
            env={**environment, "HF_HOME": str(tmp_path / "hf"), **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    with LoopbackHub() as hub:
        files: dict[str, bytes | Path] = {f"data/{p.name}": p for p in parquet.iterdir()}
        hub.store.add("datasets/someone/faces", files)
        first = run(**hub.environment())
        assert (first.returncode, first.stderr) == (0, "")
        asked = len(hub.seen)
        offline = run(**hub.environment(), HF_HUB_OFFLINE="1")
        assert len(hub.seen) == asked
    gone = run(**hub.environment())  # the server no longer answers
    for again in (offline, gone):
        assert (again.returncode, again.stderr, again.stdout) == (0, "", first.stdout)
    facts, raw = first.stdout.splitlines()
    assert facts.startswith("someone/faces (8x8) ")
    assert facts.endswith(" [0, 1, 1]")
    assert raw == pixels(open_images(parquet, "test", size=8)).transpose(0, 3, 1, 2).tobytes().hex()


@pytest.fixture
def hub_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def point(url: str) -> None:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN_PATH", "/dev/null")

    return point


def test_a_hub_that_is_out_of_reach_is_asked_once(
    hub_at: Callable[[str], None],
    loopback_hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    hub_at(NOBODY)
    said = r"someone/faces is neither a path here nor in the cache .*, and cannot be fetched: "
    with pytest.raises(NetworkError, match=f"{said}{NOBODY}: .*refused.*--data PATH"):
        open_images("someone/faces", "train", size=8)
    hub_at(loopback_hub.url)
    loopback_hub.fault(method="API", file="*", status=503)
    with pytest.raises(NetworkError, match=f"{said}{loopback_hub.url}: HTTP 503"):
        open_images("someone/faces", "train", size=8)
    assert len(loopback_hub.seen) == 1
    assert capfd.readouterr().err == ""


def test_a_data_set_that_the_hub_has_not_may_be_a_mistyped_path(
    hub_at: Callable[[str], None],
    loopback_hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    hub_at(loopback_hub.url)
    with pytest.raises(DataError, match="someone/faces is neither a path here nor a data set on"):
        open_images("someone/faces", "train", size=8)
    assert len(loopback_hub.seen) == 1
    Path("someone", "faces64").mkdir(parents=True)
    with pytest.raises(DataError, match=r"is open to all. Did you mean faces64\?"):
        open_images("someone/faces", "train", size=8)


def test_a_word_alone_is_no_name_on_the_hub(
    hub_at: Callable[[str], None],
    loopback_hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    hub_at(loopback_hub.url)
    with pytest.raises(DataError, match=r"faces does not exist. .*on the Hub is named owner/name"):
        open_images("faces", "train", size=8)
    Path("faces64").mkdir()
    with pytest.raises(DataError, match=r"faces does not exist. Did you mean faces64\?"):
        open_images("faces", "train", size=8)
    assert loopback_hub.seen == []


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_a_hub_name_with_the_network_switched_off(
    hub_at: Callable[[str], None],
    loopback_hub: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    hub_at(loopback_hub.url)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(OfflineError, match=f"network is switched off. Unset {variable}, or name"):
        open_images("someone/faces", "train", size=8)
    assert loopback_hub.seen == []


def test_every_recipe_that_trains_on_the_hub_names_owner_and_data_set() -> None:
    from kexue_core.plugins import discover
    from kexue_core.training.data.hub import HUB_NAME

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KEXUE_PLUGINS")
        discover.cache_clear()
        named = {d.spec.name: d.spec.data for d in discover().declared("recipe")}
    discover.cache_clear()
    images = {name: data for name, data in named.items() if data and " " not in data}
    assert images
    assert [name for name, data in images.items() if not HUB_NAME.fullmatch(data)] == []
