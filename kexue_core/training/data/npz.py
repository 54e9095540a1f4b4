"""Images in one ``.npz`` file: plain arrays, or packs of JPEG blobs.

=============================  ================================================================
arrays                         meaning
=============================  ================================================================
``images`` or ``x``            uint8, (n, height, width) or (n, height, width, 1 or 3)
``x_train``, ``x_test``        the same, split as Keras does (``y_train``, ``y_test`` labels)
``head, data, offsets``        a pack: JPEG *i* is ``head``, then ``data`` from offset to offset
``split``                      optional, (n,): 0 train, 1 val, 2 test
``labels`` or ``y``            optional: a class each, (n,) integers, or K attributes each, (n, K)
                               integers 0 and 1 (in the CelebA pack they are called ``attrs5``)
=============================  ================================================================
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kexue_core.errors import DataError
from kexue_core.training.data.sources import RawImages, pick_split, sha256_of
from kexue_core.training.recipe import SPLITS, Split

__all__ = ["open_npz", "read_npz"]

Arrays = dict[str, np.ndarray[Any, Any]]


def open_npz(path: Path, split: Split, *, name: str | None = None) -> RawImages:
    """Open one split of a file.

    Raises:
        DataError: The file is broken, holds none of the arrays above, or has no such split.
    """
    return pick_split(read_npz(path, name=name), split, path)


def read_npz(path: Path, *, name: str | None = None) -> dict[Split, RawImages]:
    """All the splits that the file itself declares.

    Raises:
        DataError: The file is broken or holds none of the arrays above.
    """
    arrays = _load(path)
    identity = sha256_of(path)
    name = name or path.stem
    if "x_train" in arrays:
        native: dict[Split, RawImages] = {}
        for split, suffix in (("train", "train"), ("val", "val"), ("test", "test")):
            if f"x_{suffix}" in arrays:
                labels = arrays.get(f"y_{suffix}")
                native[split] = _plain(  # type: ignore[index]  # the three literals above
                    path, name, identity, arrays[f"x_{suffix}"], labels
                )
        return native
    labels = arrays.get("labels", arrays.get("y", arrays.get("attrs5")))
    if {"head", "data", "offsets"} <= set(arrays):
        whole = _pack(path, name, identity, arrays, labels)
    elif (images := arrays.get("images", arrays.get("x"))) is not None:
        whole = _plain(path, name, identity, images, labels)
    else:
        raise DataError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}",
            hint="It needs an array images or x (uint8, NHWC), or a pack: head, data, offsets",
        )
    if not len(whole):
        raise DataError(f"{path} holds no image", hint="Name another file")
    if "split" not in arrays:
        return {"train": whole}
    parts = np.asarray(arrays["split"])
    if parts.shape != (len(whole),):
        raise DataError(
            f"{path}: split has the shape {parts.shape} for {len(whole):,} images",
            hint="It holds one number an image: 0 train, 1 val, 2 test",
        )
    found = {s: whole.subset(np.flatnonzero(parts == k)) for k, s in enumerate(SPLITS)}
    return {s: raw for s, raw in found.items() if len(raw)}


def _load(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: {' '.join(str(error).split())}",
            hint="It is truncated or no .npz file: copy it again",
        ) from error


def _plain(
    path: Path,
    name: str,
    identity: str,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any] | None,
) -> RawImages:
    if images.dtype != np.uint8 or not (
        images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))
    ):
        raise DataError(
            f"{path} holds images of {images.dtype} with the shape {images.shape}",
            hint="They must be uint8, (n, height, width) or (n, height, width, 1 or 3)",
        )
    pixels = images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images
    return RawImages(
        name=name,
        identity=identity,
        indices=np.arange(len(pixels), dtype=np.int64),
        read=lambda i: Image.fromarray(pixels[i]),
        where=lambda i: f"{path}[{i}]",
        labels=_labels(path, labels, len(pixels)),
    )


def _pack(
    path: Path, name: str, identity: str, arrays: Arrays, labels: np.ndarray[Any, Any] | None
) -> RawImages:
    head, data, offsets = arrays["head"].tobytes(), arrays["data"], arrays["offsets"]
    if (
        offsets.ndim != 1
        or not np.issubdtype(offsets.dtype, np.integer)
        or len(offsets) == 0
        or offsets[0] != 0
        or offsets[-1] != len(data)
        or (np.diff(offsets) < 0).any()
    ):
        raise DataError(
            f"{path}: offsets do not divide the {len(data):,} bytes of data", hint="Copy it again"
        )

    def read(i: int) -> Image.Image:
        return Image.open(io.BytesIO(head + data[offsets[i] : offsets[i + 1]].tobytes()))

    return RawImages(
        name=name,
        identity=identity,
        indices=np.arange(len(offsets) - 1, dtype=np.int64),
        read=read,
        where=lambda i: f"{path}[{i}]",
        labels=_labels(path, labels, len(offsets) - 1),
    )


def _labels(
    path: Path, labels: np.ndarray[Any, Any] | None, n: int
) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    if labels is None:
        return None
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    several = flat.ndim == 2 and len(flat) == n and bool(np.isin(flat, (0, 1)).all())
    if not (flat.shape == (n,) or several) or not np.issubdtype(flat.dtype, np.integer):
        raise DataError(
            f"{path}: labels of {labels.dtype} with the shape {labels.shape} for {n:,} images",
            hint="They are one integer an image, or a row of 0s and 1s",
        )
    return flat.astype(np.int64)
