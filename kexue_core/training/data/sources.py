"""What a reader finds: images that are decoded one by one, and the rule that splits them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kexue_core.errors import DataError
from kexue_core.names import did_you_mean
from kexue_core.training.recipe import SPLITS, Split

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Indices", "RawImages", "hold_out", "pick_split", "sha256_of", "similar"]

Indices = np.ndarray[Any, np.dtype[np.int64]]

#: Images held out of the training data where a source brings no validation split of its own:
#: a tenth of it, and never more than this.
HELD_OUT = 5_000


@dataclass(frozen=True)
class RawImages:
    """Images as a source holds them, before they are cropped and resized.

    Attributes:
        name: What records and cards call the source.
        identity: sha256 over the content of the source.
        indices: Which of the source's images these are, in order.
        read: Decode the image with this number of the source.
        where: Name the image with this number in an error.
        labels: One label for every image of the source (not only of ``indices``), (N,), or K
            attributes of 0 and 1 for every image, (N, K), or ``None``.
        box: (left, upper, right, lower) to crop out of every image, in its pixels, or ``None``.
        files: Whether each image is a file of its own, so that single ones may well be broken.
    """

    name: str
    identity: str
    indices: Indices
    read: Callable[[int], Image.Image]
    where: Callable[[int], str]
    labels: Indices | None = None
    box: tuple[float, float, float, float] | None = None
    files: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, positions: Sequence[int] | Indices) -> RawImages:
        """Those at ``positions`` among these."""
        return replace(self, indices=self.indices[np.asarray(positions, dtype=np.int64)])


def hold_out(n: int, *, tail: bool = False) -> tuple[Indices, Indices]:
    """Divide ``n`` samples into training and validation by a fixed rule.

    A tenth is held out, at most :data:`HELD_OUT`: every k-th sample, so that data stored class by
    class is divided evenly, or the last ones (``tail``), as is the custom for MNIST.
    """
    held = min(HELD_OUT, max(1, n // 10))
    positions = np.arange(n, dtype=np.int64)
    if tail:
        return positions[: n - held], positions[n - held :]
    stride = n // held
    chosen = (positions % stride == stride - 1) & (positions < held * stride)
    return positions[~chosen], positions[chosen]


def pick_split(
    native: Mapping[Split, RawImages], split: Split, source: object, *, tail: bool = False
) -> RawImages:
    """The split asked for; validation is held out of training where the source has none.

    Raises:
        DataError: There is no such split, or too little to divide.
    """
    if split in native and not (split == "train" and "val" not in native):
        return native[split]
    if split == "test" or "train" not in native:
        known = [s for s in SPLITS if s in native or (s == "val" and "train" in native)]
        raise DataError(
            f"{source} has no {split} split", hint=f"It has {' and '.join(known) or 'none'}"
        )
    whole = native["train"]
    if len(whole) < 2:
        raise DataError(
            f"{source} holds {len(whole)} image, too few to hold any out for validation",
            hint="Add images",
        )
    train, val = hold_out(len(whole), tail=tail)
    return whole.subset(train if split == "train" else val)


def sha256_of(*paths: Path) -> str:
    """sha256 over the bytes of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def similar(path: Path) -> str | None:
    """A sentence that offers what lies where ``path`` would, by names like its own."""
    try:
        # A folder of a million images is not worth reading to its end.
        beside = [p.name for p in itertools.islice(path.absolute().parent.iterdir(), 1000)]
    except OSError:
        return None
    return did_you_mean(path.name, beside)
