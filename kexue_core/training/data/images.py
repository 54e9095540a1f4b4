"""Images of one size as a :class:`~kexue_core.training.recipe.Dataset`, and how to open them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from kexue_core.errors import ConfigError, DataError
from kexue_core.training.data import celeba, folder, hub, idx, npz, tables
from kexue_core.training.data.sources import RawImages, similar
from kexue_core.training.recipe import SPLITS, Batch, Split, StepContext

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Images", "open_images", "random_flip"]

#: Decoded images are kept in memory up to this many bytes; larger sets are decoded batch by batch.
IN_MEMORY = 2 << 30

Fit = Literal["crop", "pad"]


class Images:
    """Images of one size, by index. Stored as uint8; float32 in [0, 1] where they leave.

    Args:
        parts: What to read, one part after the other.
        size: Height and width in pixels.
        channels: 3 for RGB, 1 for grey.
        split: For the name.
        crop: Side in source pixels of the centred square that is cut out before resizing;
            ``None`` takes the shorter side of the image.
        fit: ``"crop"`` resizes that square to ``size``; ``"pad"`` sets images that are smaller
            than ``size`` on black instead of enlarging them.
        broken: ``"error"``, or ``"skip"`` to leave out images that cannot be read.
        in_memory: Bytes up to which the decoded images are kept.

    Raises:
        ConfigError: ``size`` or ``channels`` is none that images have.
        DataError: Images that are decoded at once cannot be read.
    """

    def __init__(
        self,
        parts: Sequence[RawImages],
        *,
        size: int,
        channels: int,
        split: Split,
        crop: int | None = None,
        fit: Fit = "crop",
        broken: Literal["error", "skip"] = "error",
        in_memory: int = IN_MEMORY,
    ) -> None:
        _check_shape(size, channels)
        self.size = size
        self.channels = channels
        self.crop = crop
        self.fit = fit
        self._parts = list(parts)
        self.name = f"{self._parts[0].name} ({size}x{size}{' grey' if channels == 1 else ''})"
        self.split = split
        self._pixels: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        n = sum(map(len, self._parts))
        if n * channels * size * size <= in_memory:
            self._decode_all(skip=broken == "skip")
        self._starts = np.cumsum([0, *map(len, self._parts)])
        labels = [p.labels[p.indices] for p in self._parts if p.labels is not None]
        self._labels = np.concatenate(labels) if len(labels) == len(self._parts) else None
        digest = hashlib.sha256(repr((size, channels, crop, fit)).encode())
        for part in self._parts:
            digest.update(repr((part.identity, part.box)).encode() + part.indices.tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def batch(self, indices: Sequence[int]) -> Batch:
        """``image`` (n, channels, size, size), float32, k/255; ``label``, int64, if known.

        Labels are classes (n,), or attributes of 0 and 1, (n, K).

        Raises:
            DataError: An image that is decoded only now cannot be read.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        if self._pixels is not None:
            pixels = self._pixels[chosen]
        else:
            pixels = np.stack([self._pixel(int(i)) for i in chosen])
        batch: dict[str, Tensor] = {"image": torch.from_numpy(pixels).float().div_(255)}
        if self._labels is not None:
            batch["label"] = torch.from_numpy(self._labels[chosen])
        return batch

    def _pixel(self, position: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        k = int(np.searchsorted(self._starts, position, side="right")) - 1
        part = self._parts[k]
        number = int(part.indices[position - self._starts[k]])
        try:
            return self._prepare(part, number)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{part.where(number)} cannot be read: {_line(error)}",
                hint="Replace or remove it",
            ) from error

    def _prepare(self, part: RawImages, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Decode, crop and resize one image: (channels, size, size)."""
        image = part.read(number).convert("RGB" if self.channels == 3 else "L")
        size = self.size
        if part.box is not None:
            image = image.resize((size, size), Image.Resampling.LANCZOS, box=part.box)
        elif image.size != (size, size) or self.crop is not None:
            image = self._fit(image)
        array = np.asarray(image)
        return array[None] if self.channels == 1 else array.transpose(2, 0, 1)

    def _fit(self, image: Image.Image) -> Image.Image:
        size = self.size
        width, height = image.size
        if self.fit == "pad" and max(width, height) <= size:
            canvas = Image.new(image.mode, (size, size))
            canvas.paste(image, ((size - width) // 2, (size - height) // 2))
            return canvas
        side = min(width, height, self.crop or max(width, height))
        left, upper = (width - side) // 2, (height - side) // 2
        # Cut before resizing: resize(box=...) would let what lies outside bleed into the margin.
        square = image.crop((left, upper, left + side, upper + side))
        return square.resize((size, size), Image.Resampling.LANCZOS)

    def _decode_all(self, *, skip: bool) -> None:
        n = sum(map(len, self._parts))
        self._pixels = np.empty((n, self.channels, self.size, self.size), np.uint8)
        jobs = [(part, int(i)) for part in self._parts for i in part.indices]
        failures: dict[int, str] = {}

        def decode(position: int) -> None:
            assert self._pixels is not None
            try:
                self._pixels[position] = self._prepare(*jobs[position])
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                failures[position] = _line(error)

        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        if workers > 1:  # Pillow releases the interpreter while it decodes
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(decode, range(n), chunksize=64))
        else:
            for position in range(n):
                decode(position)
        if not failures:
            return
        first = sorted(failures)[:3]
        named = ", ".join(jobs[p][0].where(jobs[p][1]) for p in first)
        if not skip or len(failures) == n:
            raise DataError(
                f"{len(failures):,} of {n:,} images in {self._parts[0].name} cannot be read: "
                f"{named}{', ...' if len(failures) > len(first) else ''} ({failures[first[0]]})",
                hint="Replace or remove them",
            )
        keep = np.array([p for p in range(n) if p not in failures], dtype=np.int64)
        self._pixels = self._pixels[keep]
        start = 0
        for k, part in enumerate(self._parts):
            inside = keep[(keep >= start) & (keep < start + len(part))] - start
            start += len(part)
            self._parts[k] = part.subset(inside)


def open_images(
    source: str | Path,
    split: Split,
    *,
    size: int,
    channels: int = 3,
    crop: int | None = None,
    fit: Fit = "crop",
    broken: Literal["error", "skip"] = "error",
    in_memory: int = IN_MEMORY,
) -> Images:
    """Open one split of any image data that kexue reads.

    ======================================  =======================================================
    source                                  splits
    ======================================  =======================================================
    folder with ``train-images-idx3-ubyte``  idx, plain, .gz or .xz: the last 5,000 are ``val``,
                                            ``t10k`` is ``test``
    folder with ``celeba-crop64.npz``       see :mod:`kexue_core.training.data.celeba`
    folder with ``*.parquet``, or one file  by file name
    any other folder                        image files below ``train``, ``val``, ``test``, or all;
                                            folders below that are classes
    ``.npz``                                see :mod:`kexue_core.training.data.npz`
    ``owner/name[:configuration]``          the Hub's own
    ======================================  =======================================================

    Where a source has no ``val``, every tenth training image is held out (at most 5,000).
    The other arguments are those of :class:`Images`.

    Raises:
        ConfigError: ``size`` or ``channels`` is none that images have.
        DataError: There is no such data, it is broken, or it has no such split.
        NetworkError: A Hub name that is not in the cache, and no network.
    """
    _check_shape(size, channels)
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}", hint=f"Choose from {', '.join(SPLITS)}")
    parts = _open(source, split, size)
    return Images(
        parts,
        size=size,
        channels=channels,
        split=split,
        crop=crop,
        fit=fit,
        broken=broken,
        in_memory=in_memory,
    )


def _open(source: str | Path, split: Split, size: int) -> list[RawImages]:
    path = Path(source).expanduser()
    if path.is_dir():
        if idx.find_idx(path, "train") or idx.find_idx(path, "t10k"):
            return [idx.open_idx(path, split)]
        if (path / celeba.CROPS).is_file():
            return celeba.open_celeba(path, size, split)
        if next(path.rglob("*.parquet"), None):
            return [tables.open_parquet(path, split)]
        return [folder.open_folder(path, split)]
    if path.is_file():
        if path.suffix == ".npz":
            return [npz.open_npz(path, split)]
        if path.suffix == ".parquet":
            return [tables.open_parquet(path, split)]
        if "ubyte" in path.name:
            return [idx.open_idx(path, split)]
        raise DataError(
            f"{path} is of no known kind",
            hint="Name a folder, an .npz, a .parquet or an idx file",
        )
    written = str(source)
    if not isinstance(source, Path) and hub.HUB_NAME.fullmatch(written) and not path.suffix:
        return [hub.open_hub(written, split)]
    hint = "Check the path given with --data; data on the Hub is named owner/name"
    raise DataError(f"{written} does not exist", hint=similar(path) or hint)


def _check_shape(size: int, channels: int) -> None:
    if channels not in (1, 3):
        raise ConfigError(
            f"channels is {channels}, and images have 1 (grey) or 3 (RGB)",
            hint="Set channels to 1 or 3",
        )
    if size < 1:
        raise ConfigError(f"Images of {size}x{size} pixels are empty", hint="Set size to 1 or more")


def random_flip(image: Tensor, context: StepContext) -> Tensor:
    """Mirror each image of a batch (n, ...., width) left to right with probability 1/2.

    The choice comes from the step's noise, so that a resumed run flips the same images.
    """
    flip = context.noise(len(image), "uniform") < 0.5
    shape = (len(image), *[1] * (image.ndim - 1))
    return torch.where(flip.to(image.device).view(shape), image.flip(-1), image)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
