"""The idx files of MNIST and its relatives: plain, ``.gz`` or ``.xz``, with labels beside them."""

from __future__ import annotations

import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kexue_core.errors import DataError
from kexue_core.training.data.sources import RawImages, pick_split, sha256_of
from kexue_core.training.recipe import Split

__all__ = ["find_idx", "open_idx", "read_idx"]

_PACKING = ("", ".gz", ".xz")
#: File names use a hyphen (yann.lecun.com) or, after some unpackers, a dot before ``idx3``.
_IMAGES = ("-images-idx3-ubyte", "-images.idx3-ubyte")


def find_idx(folder: Path, prefix: str) -> Path | None:
    """The image file ``train-images-idx3-ubyte`` (prefix ``train``), packed or not."""
    for stem in _IMAGES:
        for packing in _PACKING:
            path = folder / f"{prefix}{stem}{packing}"
            if path.is_file():
                return path
    return None


def open_idx(source: Path, split: Split) -> RawImages:
    """Open a folder with the canonical four files, or a single image file.

    ``test`` is the ``t10k`` pair; ``val`` are the last images of ``train``.

    Raises:
        DataError: No such split, or a file that is no whole idx file.
    """
    native: dict[Split, RawImages] = {}
    if source.is_file():
        native["train"] = _open_pair(source)
    else:
        prefixes: dict[Split, str] = {"test": "t10k"} if split == "test" else {"train": "train"}
        for name, prefix in prefixes.items():
            if path := find_idx(source, prefix):
                native[name] = _open_pair(path)
    return pick_split(native, split, source, tail=True)


def read_idx(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The array of an idx file of unsigned bytes.

    Raises:
        DataError: It cannot be unpacked, has another magic number, or the wrong length.
    """
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    again = f"Fetch {path.name} again"
    try:
        with opener(path, "rb") as file:
            raw: bytes = file.read()
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}", hint=again) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", hint=again) from error
    if len(raw) < 8 or raw[:3] != b"\0\0\x08" or raw[3] not in (1, 3):
        raise DataError(f"{path} is no idx file of bytes (it starts {raw[:4].hex()})", hint=again)
    start = 4 + 4 * raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    if len(raw) - start != int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"{path} holds {len(raw) - start:,} bytes after its header, where the shape "
            f"{'x'.join(map(str, shape))} needs {int(np.prod(shape, dtype=np.int64)):,}",
            hint=again,
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _open_pair(path: Path) -> RawImages:
    images = read_idx(path)
    if images.ndim != 3:
        raise DataError(f"{path} holds labels, not images", hint="Name the file of images")
    if not len(images):
        raise DataError(f"{path} holds no image", hint=f"Fetch {path.name} again")
    labels, files = None, [path]
    beside = path.with_name(path.name.replace("-images", "-labels").replace("idx3", "idx1"))
    if beside != path and beside.is_file():
        found = read_idx(beside)
        if found.shape != (len(images),):
            raise DataError(
                f"{beside} holds {len(found):,} labels for {len(images):,} images",
                hint="Take both files from one data set",
            )
        labels = found.astype(np.int64)
        files.append(beside)
    return RawImages(
        name=path.parent.name or path.name,
        identity=sha256_of(*files),
        indices=np.arange(len(images), dtype=np.int64),
        read=lambda i: Image.fromarray(images[i]),
        where=lambda i: f"{path}[{i}]",
        labels=labels,
    )
