"""Tables of images as the ``datasets`` library reads them, and parquet files among these.

A column of images is one that the file itself declares as such, a struct of ``bytes`` and ``path``
(what the library writes), or plain bytes under a usual name. Labels are a column of classes, or of
integers under a usual name.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kexue_core.errors import DataError
from kexue_core.training.data.sources import Indices, RawImages, pick_split, sha256_of
from kexue_core.training.recipe import Split

__all__ = ["one_line", "open_parquet", "quiet_datasets", "read_tables"]

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}

#: Names under which data sets keep images as bytes, and labels as integers.
_IMAGE_NAMES = ("image", "images", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes")
_LABEL_NAMES = ("label", "labels", "class", "target", "y", "fine_label")


def open_parquet(source: Path, split: Split) -> RawImages:
    """Open one parquet file, or a folder of them named after their splits (``test-00000.parquet``).

    Raises:
        DataError: A file is broken, or there is no such split or image column.
    """
    files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    by_split: dict[str, list[str]] = {}
    for path in files:
        stem = re.split(r"[^a-z]", path.name.lower())[0]
        by_split.setdefault(_SPLIT_NAMES.get(stem, "train"), []).append(str(path))
    try:
        with quiet_datasets() as datasets:
            loaded = {
                s: datasets.Dataset.from_parquet(paths, keep_in_memory=False)
                for s, paths in by_split.items()
            }
    except Exception as error:
        raise DataError(
            f"{source} cannot be read as parquet: {one_line(error)}", hint="Copy it again"
        ) from error
    native = read_tables(loaded, str(source), source.stem, sha256_of(*files))
    return pick_split(native, split, source)


def read_tables(
    tables: Mapping[Any, Any], source: str, name: str, identity: str | None
) -> dict[Split, RawImages]:
    """The splits among tables of the ``datasets`` library.

    Args:
        tables: Name of a split -> ``datasets.Dataset``.
        source: What errors call the data.
        name: What records call it.
        identity: sha256 over its content; ``None`` takes the library's own fingerprint.

    Raises:
        DataError: None is called after a split, or there is no column of images.
    """
    native: dict[Split, RawImages] = {}
    for key, table in tables.items():
        if (wanted := _SPLIT_NAMES.get(str(key).lower())) and len(table):
            native[wanted] = _raw(table, source, name, identity or table._fingerprint)
    if not native:
        raise DataError(
            f"{source} has the splits {', '.join(map(str, tables)) or 'none'}",
            hint="One must be called train",
        )
    return native


@contextlib.contextmanager
def quiet_datasets() -> Iterator[Any]:
    """The ``datasets`` library, with what it and the Hub's client log left out.

    Both log what they raise as well, and each of their retries. What they raise becomes one line.
    """
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield datasets
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters without a full stop."""
    return " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__


def _raw(table: Any, source: str, name: str, identity: str) -> RawImages:
    import datasets

    column = _image_column(table.features)
    if column is None:
        raise DataError(
            f"{source} has no column of images, only {', '.join(table.features)}",
            hint=f"Name one {_IMAGE_NAMES[0]}: encoded images, as bytes or as {{bytes, path}}",
        )
    if not isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image())

    def read(i: int) -> Any:
        if (image := table[int(i)][column]) is None:
            raise ValueError("it is null")
        return image

    return RawImages(
        name=name,
        identity=hashlib.sha256(identity.encode()).hexdigest(),
        indices=np.arange(len(table), dtype=np.int64),
        read=read,
        where=lambda i: f"{source}[{i}]",
        labels=_labels(table),
    )


def _image_column(features: Mapping[str, Any]) -> str | None:
    """The column of images: a declared one first, then a struct, then bytes by their name."""
    import datasets

    declared = [c for c, f in features.items() if isinstance(f, datasets.Image)]
    structs = [c for c, f in features.items() if isinstance(f, dict) and {*f} == {"bytes", "path"}]
    # A struct of that form may be a sound too, so that a usual name comes first.
    structs.sort(key=lambda c: c.lower() not in _IMAGE_NAMES)
    plain = [
        c
        for c, f in features.items()
        if c.lower() in _IMAGE_NAMES and str(getattr(f, "dtype", "")).endswith("binary")
    ]
    return next(iter([*declared, *structs, *plain]), None)


def _labels(table: Any) -> Indices | None:
    """The label of each row, or ``None`` where there are none or one is missing."""
    import datasets

    features = table.features
    classes = [c for c, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    integers = [
        c
        for name in _LABEL_NAMES
        for c, feature in features.items()
        if c.lower() == name and re.fullmatch(r"u?int\d+", str(getattr(feature, "dtype", "")))
    ]
    for column in (*classes, *integers):
        values = table.data.column(column)
        if values.null_count == 0:
            return np.asarray(values.to_numpy(), dtype=np.int64)
    return None
