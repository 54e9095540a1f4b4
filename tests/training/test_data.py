from __future__ import annotations

import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kexue_core.errors import ConfigError, DataError
from kexue_core.training.data import Images, open_images, random_flip
from kexue_core.training.data.celeba import open_frames
from kexue_core.training.data.sources import HELD_OUT, hold_out

Rng = np.random.Generator
SPLITS = ("train", "val", "test")


def idx(array: np.ndarray[Any, Any]) -> bytes:
    head = b"\0\0\x08" + bytes([array.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def jpeg(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def pictures(rng: Rng, n: int, size: int = 8, channels: int = 3) -> np.ndarray[Any, Any]:
    shape = (n, size, size, channels) if channels == 3 else (n, size, size)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def pixels(images: Images) -> np.ndarray[Any, Any]:
    """All of them, (n, channels, size, size), uint8."""
    batch = images.batch(range(len(images)))["image"]
    assert batch.dtype == torch.float32
    assert 0 <= batch.min() <= batch.max() <= 1
    return (batch * 255).round().byte().numpy()


def write_pack(path: Path, array: np.ndarray[Any, Any], **extra: Any) -> None:
    blobs = [jpeg(a) for a in array]
    head = blobs[0][:20]  # the part that all share
    assert all(b.startswith(head) for b in blobs)
    data = b"".join(b[20:] for b in blobs)
    offsets = np.cumsum([0] + [len(b) - 20 for b in blobs])
    np.savez(
        path,
        head=np.frombuffer(head, np.uint8),
        data=np.frombuffer(data, np.uint8),
        offsets=offsets,
        **extra,
    )


# --- how a split is made where the source brings none -------------------------------------------


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 200_000), tail=st.booleans())
def test_every_sample_is_held_out_or_not(n: int, tail: bool) -> None:
    train, val = hold_out(n, tail=tail)
    assert len(val) == min(HELD_OUT, max(1, n // 10))
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(n))


def test_data_stored_class_by_class_is_divided_evenly() -> None:
    labels = np.repeat(np.arange(10), 5_000)
    _, val = hold_out(len(labels))
    assert np.bincount(labels[val]).tolist() == [500] * 10


# --- idx --------------------------------------------------------------------------------------


@pytest.fixture
def mnist(tmp_path: Path, rng: Rng) -> Callable[[str], Path]:
    def make(packing: str) -> Path:
        folder = tmp_path / f"mnist{packing}"
        folder.mkdir()
        pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[packing]
        for prefix, n in (("train", 40), ("t10k", 10)):
            images = pictures(rng, n, 8, 1)
            labels = rng.integers(0, 10, n, dtype=np.uint8)
            folder.joinpath(f"{prefix}-images-idx3-ubyte{packing}").write_bytes(pack(idx(images)))
            folder.joinpath(f"{prefix}-labels-idx1-ubyte{packing}").write_bytes(pack(idx(labels)))
            np.savez(tmp_path / f"{prefix}.npz", images=images, labels=labels)
        return folder

    return make


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
def test_idx_is_read_whatever_it_is_packed_with(
    mnist: Callable[[str], Path], tmp_path: Path, packing: str
) -> None:
    folder = mnist(packing)
    train, val, test = (open_images(folder, s, size=8, channels=1) for s in SPLITS)
    assert (len(train), len(val), len(test)) == (36, 4, 10)
    whole, held = np.load(tmp_path / "train.npz"), np.load(tmp_path / "t10k.npz")
    read = np.concatenate([pixels(train), pixels(val)])  # the last ones are for validation
    assert np.array_equal(read[:, 0], whole["images"])
    assert np.array_equal(pixels(test)[:, 0], held["images"])
    assert np.array_equal(val.batch(range(4))["label"], whole["labels"][36:])


def test_packing_does_not_change_pixels_and_names_are_told_apart(
    mnist: Callable[[str], Path],
) -> None:
    a = open_images(mnist(""), "train", size=8, channels=1)
    assert len(a.fingerprint) == 64
    assert a.fingerprint != open_images(mnist(".gz"), "val", size=8, channels=1).fingerprint


def damage_idx(raw: bytes, how: str) -> bytes:
    return {
        "magic": b"\1\2\3\4" + raw[4:],
        "short": raw[:-3],
        "long": raw + b"x",
        "empty": b"",
    }[how]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("magic", "is no idx file of bytes .it starts 01020304"),
        ("short", "holds 2,557 bytes after its header, where the shape 40x8x8 needs 2,560"),
        ("long", "holds 2,561 bytes"),
        ("empty", "is no idx file"),
    ],
)
def test_a_broken_idx_is_named(mnist: Callable[[str], Path], how: str, said: str) -> None:
    path = mnist("") / "train-images-idx3-ubyte"
    path.write_bytes(damage_idx(path.read_bytes(), how))
    with pytest.raises(DataError, match=f"{path} {said}.*Fetch train-images"):
        open_images(path.parent, "train", size=8, channels=1)


@pytest.mark.parametrize("packing", [".gz", ".xz"])
@pytest.mark.parametrize("how", ["cut", "bits", "text"])
def test_a_broken_archive_is_named(mnist: Callable[[str], Path], packing: str, how: str) -> None:
    path = mnist(packing) / f"t10k-images-idx3-ubyte{packing}"
    raw = path.read_bytes()
    middle = len(raw) // 2
    path.write_bytes(
        {
            "cut": raw[:middle],
            "bits": raw[:middle]
            + bytes(b ^ 255 for b in raw[middle : middle + 9])
            + raw[middle + 9 :],
            "text": b"<html>not found</html>",
        }[how]
    )
    with pytest.raises(DataError, match=f"{path} (cannot be unpacked|holds)"):
        open_images(path.parent, "test", size=8, channels=1)


def test_labels_of_another_file_are_refused(mnist: Callable[[str], Path]) -> None:
    folder = mnist("")
    folder.joinpath("t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(9, np.uint8)))
    with pytest.raises(DataError, match="holds 9 labels for 10 images"):
        open_images(folder, "test", size=8, channels=1)


# --- npz --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["images", "x"])
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_arrays(tmp_path: Path, rng: Rng, key: str, channels: int) -> None:
    array = pictures(rng, 20, 8, channels)
    np.savez(tmp_path / "a.npz", **{key: array})
    train, val = (open_images(tmp_path / "a.npz", s, size=8, channels=channels) for s in SPLITS[:2])
    nchw = array.transpose(0, 3, 1, 2) if channels == 3 else array[:, None]
    held = np.array([9, 19])  # every tenth
    assert np.array_equal(pixels(val), nchw[held])
    assert np.array_equal(pixels(train), np.delete(nchw, held, axis=0))


def test_splits_and_labels_of_a_file_are_kept(tmp_path: Path, rng: Rng) -> None:
    array, split = pictures(rng, 9), np.array([0, 1, 2] * 3)
    np.savez(tmp_path / "a.npz", images=array, split=split, labels=np.arange(9))
    for k, name in enumerate(SPLITS):
        images = open_images(tmp_path / "a.npz", name, size=8)  # type: ignore[arg-type]
        assert np.array_equal(pixels(images), array[split == k].transpose(0, 3, 1, 2))
        assert images.batch([0, 2])["label"].tolist() == [k, 6 + k]


def test_attributes_are_rows_of_zeros_and_ones(tmp_path: Path, rng: Rng) -> None:
    rows = rng.integers(0, 2, (9, 3))
    np.savez(tmp_path / "a.npz", images=pictures(rng, 9), labels=rows, split=np.arange(9) % 3)
    batch = open_images(tmp_path / "a.npz", "val", size=8).batch([2, 0])
    assert batch["label"].tolist() == rows[[7, 1]].tolist()
    np.savez(tmp_path / "a.npz", images=pictures(rng, 9), labels=rows + 1)
    with pytest.raises(DataError, match="or a row of 0s and 1s"):
        open_images(tmp_path / "a.npz", "train", size=8)


def test_keras_archives(tmp_path: Path, rng: Rng) -> None:
    arrays = {"x_train": pictures(rng, 20, 8, 1), "x_test": pictures(rng, 5, 8, 1)}
    np.savez(tmp_path / "mnist.npz", y_train=np.arange(20), y_test=np.arange(5), **arrays)
    sizes = [len(open_images(tmp_path / "mnist.npz", s, size=8, channels=1)) for s in SPLITS]  # type: ignore[arg-type]
    assert sizes == [18, 2, 5]


def test_packs_are_decoded_one_by_one(tmp_path: Path, rng: Rng) -> None:
    array = pictures(rng, 6)
    write_pack(tmp_path / "pack.npz", array, split=np.array([0, 0, 0, 1, 1, 2]))
    decoded = [np.asarray(Image.open(io.BytesIO(jpeg(a)))).transpose(2, 0, 1) for a in array]
    val = open_images(tmp_path / "pack.npz", "val", size=8)
    assert np.array_equal(pixels(val), decoded[3:5])
    lazy = open_images(tmp_path / "pack.npz", "train", size=8, in_memory=0)
    assert np.array_equal(pixels(lazy), decoded[:3])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"faces": np.zeros(3)}, "holds faces. It needs an array images or x"),
        ({"images": np.zeros((3, 8, 8))}, "images of float64 with the shape"),
        ({"images": np.zeros((3, 8, 8, 4), np.uint8)}, r"shape \(3, 8, 8, 4\)"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "holds no image"),
        ({"images": np.zeros((3, 8, 8), np.uint8), "split": np.zeros(2)}, "split has the shape"),
        ({"images": np.zeros((3, 8, 8), np.uint8), "y": np.zeros(2, int)}, "labels of int64"),
        (
            {"head": np.zeros(1, "u1"), "data": np.zeros(9, "u1"), "offsets": np.array([0, 12])},
            "offsets do not divide the 9 bytes",
        ),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said):
        open_images(tmp_path / "a.npz", "train", size=8)


@pytest.mark.parametrize("keep", [0, 0.3, 0.99])
def test_a_truncated_npz_is_named(tmp_path: Path, rng: Rng, keep: float) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=pictures(rng, 20))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw))])
    with pytest.raises(DataError, match=f"{path} cannot be read.*copy it again"):
        open_images(path, "train", size=8)


def test_pickled_arrays_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="allow_pickle=False"):
        open_images(tmp_path / "a.npz", "train", size=8)


# --- folders ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, rng: Rng) -> Path:
    root = tmp_path / "faces"
    for k, array in enumerate(pictures(rng, 20, 16)):
        path = root / "ab"[k % 2] / f"{k:02d}.{('png', 'jpg')[k % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "x.png").write_bytes(b"")
    (root / "README.txt").write_text("faces")
    return root


def test_nested_images_are_found_and_split(folder: Path) -> None:
    train, val = (open_images(folder, s, size=8) for s in SPLITS[:2])  # type: ignore[arg-type]
    assert (len(train), len(val)) == (18, 2)
    assert pixels(train).shape == (18, 3, 8, 8)
    assert train.name == "faces (8x8)"
    with pytest.raises(DataError, match=r"has no test split. It has train and val"):
        open_images(folder, "test", size=8)


def test_folders_called_after_splits_are_the_splits(tmp_path: Path, rng: Rng) -> None:
    for name, n in (("train", 5), ("valid", 3), ("test", 2)):
        (tmp_path / "d" / name / "class").mkdir(parents=True)
        for k, array in enumerate(pictures(rng, n)):
            Image.fromarray(array).save(tmp_path / "d" / name / "class" / f"{k}.png")
    assert [len(open_images(tmp_path / "d", s, size=8)) for s in SPLITS] == [5, 3, 2]  # type: ignore[arg-type]


def test_folders_in_a_folder_are_classes(folder: Path, rng: Rng) -> None:
    batch = open_images(folder, "train", size=8).batch(range(18))
    # Files are named 00 to 19 and lie in a and b by turns; sorted by path, every tenth is held out.
    assert batch["label"].tolist() == [0] * 9 + [1] * 9
    moved = folder / "train"
    moved.mkdir()
    (folder / "a").rename(moved / "a")
    (folder / "b").rename(moved / "b")
    assert open_images(folder, "train", size=8).batch([0, 17])["label"].tolist() == [0, 1]
    Image.fromarray(pictures(rng, 1)[0]).save(moved / "of-no-class.png")
    assert "label" not in open_images(folder, "train", size=8).batch([0])


def test_the_fingerprint_is_of_the_content(folder: Path) -> None:
    def fingerprint(split: Any = "train", size: int = 8) -> str:
        return open_images(folder, split, size=size).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    assert len({first, fingerprint("val"), fingerprint(size=16)}) == 3
    moved = folder.rename(folder.with_name("elsewhere"))
    assert open_images(moved, "train", size=8).fingerprint == first
    path = next(moved.rglob("*.png"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    assert open_images(moved, "train", size=8).fingerprint != first


def test_lazy_and_kept_images_are_the_same(folder: Path) -> None:
    kept = open_images(folder, "train", size=8, channels=1)
    lazy = open_images(folder, "train", size=8, channels=1, in_memory=0)
    assert np.array_equal(pixels(kept), pixels(lazy))
    assert kept.fingerprint == lazy.fingerprint


def break_three(folder: Path) -> list[Path]:
    chosen = sorted((folder / "a").glob("*.png"))[:3]
    for path, raw in zip(chosen, (b"", b"GIF nonsense", chosen[2].read_bytes()[:300]), strict=True):
        path.write_bytes(raw)
    return chosen


def test_broken_images_are_counted_and_named_or_skipped(folder: Path) -> None:
    whole = len(open_images(folder, "train", size=8))
    chosen = break_three(folder)
    with pytest.raises(DataError, match=f"3 of 18 images in faces cannot be read: {chosen[0]}, "):
        open_images(folder, "train", size=8)
    rest = open_images(folder, "train", size=8, broken="skip")
    assert len(rest) == whole - 3
    assert len(pixels(rest)) == whole - 3


def test_a_broken_image_of_a_large_folder_is_named_when_its_turn_comes(folder: Path) -> None:
    path = break_three(folder)[0]
    lazy = open_images(folder, "train", size=8, in_memory=0)
    with pytest.raises(DataError, match=f"{path} cannot be read.*Replace or remove it"):
        pixels(lazy)


def test_where_there_is_nothing_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"empty holds no image. Files must end in one of"):
        open_images(tmp_path / "empty", "train", size=8)
    for missing in (tmp_path / "nowhere", "./nowhere", "nowhere.npz", "nowhere", "a/b/c"):
        with pytest.raises(DataError, match=r"nowhere|a/b/c does not exist. Check the path"):
            open_images(missing, "train", size=8)
    with pytest.raises(DataError, match=r"notes\.txt is of no known kind"):
        open_images(tmp_path / "notes.txt", "train", size=8)
    with pytest.raises(DataError, match=r"no split 'dev'. Choose from train, val, test"):
        open_images(tmp_path, "dev", size=8)  # type: ignore[arg-type]


def test_what_lies_beside_a_mistyped_path_is_offered(folder: Path) -> None:
    with pytest.raises(DataError, match=r"/face does not exist. Did you mean faces\?$"):
        open_images(folder.with_name("face"), "train", size=8)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"channels": 2}, "channels is 2, and images have 1 .grey. or 3 .RGB.. Set channels"),
        ({"channels": 4}, "channels is 4"),
        ({"size": 0}, "Images of 0x0 pixels are empty. Set size to 1 or more"),
    ],
)
def test_impossible_images_are_refused_before_any_is_read(
    folder: Path, asked: dict[str, int], said: str
) -> None:
    break_three(folder)
    for source in (folder, "nowhere"):
        with pytest.raises(ConfigError, match=said):
            open_images(source, "train", **{"size": 8, **asked})  # type: ignore[arg-type]


# --- geometry ---------------------------------------------------------------------------------


def save(path: Path, array: np.ndarray[Any, Any]) -> Path:
    path.mkdir()
    for k in range(2):
        Image.fromarray(array).save(path / f"{k}.png")
    return path


def test_the_centre_is_kept_and_the_shape_not_stretched(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # a white square in the middle of a black strip
    images = open_images(save(tmp_path / "wide", wide), "train", size=10)
    assert (pixels(images) == 255).all()


def test_crop_is_in_pixels_of_the_source(tmp_path: Path) -> None:
    frame = np.zeros((30, 30, 3), np.uint8)
    frame[10:20, 10:20] = 255
    source = save(tmp_path / "frame", frame)
    assert (pixels(open_images(source, "train", size=5, crop=10)) == 255).all()
    assert not (pixels(open_images(source, "train", size=5)) == 255).all()


def test_padding_leaves_pixels_as_they_are(tmp_path: Path, rng: Rng) -> None:
    array = pictures(rng, 1, 28, 1)[0]
    padded = pixels(
        open_images(save(tmp_path / "d", array), "train", size=32, channels=1, fit="pad")
    )
    assert np.array_equal(padded[0, 0, 2:30, 2:30], array)
    assert padded.sum() == array.sum()


# --- CelebA -----------------------------------------------------------------------------------


@pytest.fixture
def celeba(tmp_path: Path, rng: Rng) -> Path:
    # Smooth pictures, so that JPEG and resizing leave them recognisable by their brightness.
    def flat(levels: range) -> np.ndarray[Any, Any]:
        return np.stack([np.full((64, 64, 3), v, np.uint8) for v in levels])

    write_pack(
        tmp_path / "celeba-crop64.npz", flat(range(0, 60, 10)), split=np.array([0] * 4 + [1] * 2)
    )
    frames = flat(range(100, 190, 10))
    frames[:, :11] = 255  # outside of the box that is cut out
    attributes = np.eye(9, 5, dtype=np.uint8)
    splits = np.array([0, 1, 2] * 3)
    write_pack(tmp_path / "celeba-full64.npz", frames, split=splits, attrs5=attributes)
    return tmp_path


@pytest.mark.parametrize(("size", "n"), [(32, 4 + 6), (48, 4 + 6), (49, 4), (64, 4)])
def test_both_packs_train_where_nothing_is_enlarged(celeba: Path, size: int, n: int) -> None:
    train, val = (open_images(celeba, s, size=size) for s in SPLITS[:2])  # type: ignore[arg-type]
    assert (len(train), len(val)) == (n, 2)
    means = pixels(train).mean((1, 2, 3)).round()
    expected = [0, 10, 20, 30, 100, 130, 160, 110, 140, 170]  # frames: split 0, then split 1
    np.testing.assert_allclose(means, expected[:n], atol=3)  # JPEG's rounding
    np.testing.assert_allclose(pixels(val).mean((1, 2, 3)), [40, 50], atol=3)


def test_frames_are_cut_like_the_reference(celeba: Path) -> None:
    with np.load(celeba / "celeba-full64.npz") as z:
        blob = z["head"].tobytes() + z["data"][z["offsets"][0] : z["offsets"][1]].tobytes()
    frame = Image.open(io.BytesIO(blob)).convert("RGB")
    wanted = np.asarray(frame.resize((32, 32), Image.Resampling.LANCZOS, box=(2, 11, 62, 62)))
    assert np.array_equal(
        pixels(open_images(celeba, "train", size=32))[4], wanted.transpose(2, 0, 1)
    )


def test_frames_carry_attributes_and_the_official_partition(celeba: Path) -> None:
    for k, split in enumerate(SPLITS):
        raw = open_frames(celeba, 32, split)  # type: ignore[arg-type]
        images = Images([raw], size=32, channels=3, split=split)  # type: ignore[arg-type]
        assert np.array_equal(images.batch(range(3))["label"], np.eye(9, 5)[k::3])
    # The same framing as that of both packs together, where labels are left out.
    both = open_images(celeba, "train", size=32)
    frames = Images([open_frames(celeba, 32, "train")], size=32, channels=3, split="train")
    assert torch.equal(both.batch([4])["image"], frames.batch([0])["image"])
    assert "label" not in both.batch([4])
    with pytest.raises(DataError, match="50 pixels wide, and 64x64"):
        open_frames(celeba, 64, "train")


def test_what_celeba_has_not_is_said(celeba: Path) -> None:
    with pytest.raises(DataError, match="no test split"):
        open_images(celeba, "test", size=32)
    with pytest.raises(DataError, match="holds 64x64 images, and 128x128"):
        open_images(celeba, "train", size=128)
    (celeba / "celeba-full64.npz").unlink()
    with pytest.raises(DataError, match=r"celeba-full64.npz is missing"):
        open_images(celeba, "train", size=32)
    assert len(open_images(celeba, "train", size=64)) == 4


# --- flips ------------------------------------------------------------------------------------


def test_flips_mirror_half_of_the_images_and_come_again() -> None:
    class Noise:
        def noise(self, rows: int, draw: str) -> torch.Tensor:
            generator = torch.Generator().manual_seed(0)
            assert draw == "uniform"
            return torch.rand(rows, generator=generator)

    context: Any = Noise()
    images = torch.rand(400, 3, 4, 4)
    flipped = random_flip(images, context)
    mirrored = (flipped == images.flip(-1)).all(-1).all(-1).all(-1)
    same = (flipped == images).all(-1).all(-1).all(-1)
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250
    assert torch.equal(random_flip(images, context), flipped)
