"""Image data through the ``datasets`` library: parquet files, and names on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kexue_core.errors import DataError, NetworkError
from kexue_core.training.data.sources import RawImages, pick_split, sha256_of
from kexue_core.training.recipe import Split

__all__ = ["HUB_NAME", "open_hub", "open_parquet"]

#: ``name``, ``owner/name``, each with ``:configuration`` where a data set has several.
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?")

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def open_hub(source: str, split: Split) -> RawImages:
    """Open one split of a data set on the Hub, ``owner/name`` or ``owner/name:configuration``.

    Raises:
        DataError: There is no such data set, split or image column.
        NetworkError: The Hub cannot be reached and the data is not in the cache.
    """
    datasets = _datasets()
    name, _, configuration = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        if isinstance(error, ConnectionError):
            raise NetworkError(
                f"The data set {source} cannot be fetched: {_line(error)}",
                hint="Name data at hand with --data PATH",
            ) from error
        raise DataError(
            f"{source} is neither a path nor a data set on the Hub",
            hint="Check the spelling, or name a folder with --data PATH",
        ) from error
    except Exception as error:
        raise DataError(
            f"The data set {source} cannot be opened: {type(error).__name__}: {_line(error)}",
            hint="Name another, or data at hand with --data PATH",
        ) from error
    return pick_split(_native(loaded, source, name, None), split, source)


def open_parquet(source: Path, split: Split) -> RawImages:
    """Open one parquet file, or a folder of them named after their splits (``test-00000.parquet``).

    Raises:
        DataError: A file is broken, or there is no such split or image column.
    """
    datasets = _datasets()
    files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    by_split: dict[str, list[str]] = {}
    for path in files:
        stem = re.split(r"[^a-z]", path.name.lower())[0]
        by_split.setdefault(_SPLIT_NAMES.get(stem, "train"), []).append(str(path))
    try:
        loaded = {
            s: datasets.Dataset.from_parquet(paths, keep_in_memory=False)
            for s, paths in by_split.items()
        }
    except Exception as error:
        raise DataError(
            f"{source} cannot be read as parquet: {_line(error)}", hint="Copy it again"
        ) from error
    native = _native(loaded, str(source), source.stem, sha256_of(*files))
    return pick_split(native, split, source)


def _native(loaded: Any, source: str, name: str, identity: str | None) -> dict[Split, RawImages]:
    native: dict[Split, RawImages] = {}
    for key, table in loaded.items():
        if (wanted := _SPLIT_NAMES.get(str(key).lower())) and len(table):
            native[wanted] = _raw(table, source, name, identity or table._fingerprint)
    if not native:
        raise DataError(
            f"{source} has the splits {', '.join(map(str, loaded)) or 'none'}",
            hint="One must be called train",
        )
    return native


def _raw(table: Any, source: str, name: str, identity: str) -> RawImages:
    import datasets

    columns = table.features
    images = [c for c, feature in columns.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise DataError(
            f"{source} has no column of images, only {', '.join(columns)}",
            hint="Name another data set",
        )
    classes = [c for c, feature in columns.items() if isinstance(feature, datasets.ClassLabel)]
    column = images[0]
    return RawImages(
        name=name,
        identity=hashlib.sha256(identity.encode()).hexdigest(),
        indices=np.arange(len(table), dtype=np.int64),
        read=lambda i: table[int(i)][column],
        where=lambda i: f"{source}[{i}]",
        labels=np.asarray(table[classes[0]], dtype=np.int64) if classes else None,
    )


def _datasets() -> Any:
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
