"""A folder of image files, nested as one likes; ``train``, ``val``, ``test`` on top are splits.

Where every image lies in a folder of its class (``train/cat/1.jpg``, or ``cat/1.jpg``), the classes
are numbered in the order of their names.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from kexue_core.errors import DataError
from kexue_core.training.data.sources import Indices, RawImages, pick_split
from kexue_core.training.recipe import Split

__all__ = ["SUFFIXES", "image_files", "open_folder"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

#: Beyond this many bytes the fingerprint covers names and sizes only: hashing would take minutes.
HASHED = 2 << 30


def image_files(folder: Path) -> list[Path]:
    """All image files below ``folder`` in the order of their paths; hidden ones are left out."""
    found = (
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def open_folder(folder: Path, split: Split) -> RawImages:
    """Open one split of a folder; without split folders every tenth image is for validation.

    Raises:
        DataError: There is no image, or no such split.
    """
    if not (files := image_files(folder)):
        raise DataError(
            f"{folder} holds no image",
            hint=f"Files must end in one of {' '.join(sorted(SUFFIXES))}",
        )
    whole = RawImages(
        name=folder.resolve().name,
        identity=_identity(folder, files),
        indices=np.arange(len(files), dtype=np.int64),
        read=lambda i: Image.open(files[i]),
        where=lambda i: str(files[i]),
        labels=_classes(folder, files),
        files=True,
    )
    tops = [path.relative_to(folder).parts[0].lower() for path in files]
    native = {
        wanted: whole.subset([i for i, top in enumerate(tops) if _SPLIT_FOLDERS.get(top) == wanted])
        for wanted in dict.fromkeys(_SPLIT_FOLDERS[top] for top in tops if top in _SPLIT_FOLDERS)
    }
    return pick_split(native or {"train": whole}, split, folder)


def _classes(folder: Path, files: list[Path]) -> Indices | None:
    """The class of each image; ``None`` where one has none, or all have the same."""
    names = []
    for path in files:
        parents = path.relative_to(folder).parts[:-1]
        if parents and parents[0].lower() in _SPLIT_FOLDERS:
            parents = parents[1:]
        names.append(parents[0] if parents else "")
    numbers = {name: i for i, name in enumerate(sorted(set(names)))}
    if "" in numbers or len(numbers) < 2:
        return None
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _identity(folder: Path, files: list[Path]) -> str:
    sizes = [path.stat().st_size for path in files]
    digest = hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        if sum(sizes) <= HASHED:
            digest.update(path.read_bytes())
    return digest.hexdigest()
