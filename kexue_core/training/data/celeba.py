"""CelebA as two packs of 64x64 JPEGs: tight crops, and whole frames that are cropped to match.

``celeba-crop64.npz`` holds sharp crops round the face, ``celeba-full64.npz`` whole frames (178x218)
squashed to 64x64. Cut to the framing of the crops, a frame has 50x51 pixels: enough at sizes up
to 48, where both files together give 42,815 training images. Above that only the crops are used.

The frames carry the official partition and five attributes each, which the crops do not: see
:func:`open_frames`. Of both together validation is the ``val`` split of the crops, and there is no
test split: that of the frames shares most of its people with the crops that are trained on.

Source: Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015; non-commercial research.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kexue_core.errors import DataError
from kexue_core.training.data.npz import read_npz
from kexue_core.training.data.sources import RawImages
from kexue_core.training.recipe import Split

__all__ = ["ATTRIBUTES", "CROPS", "FRAMES", "open_celeba", "open_frames"]

CROPS, FRAMES = "celeba-crop64.npz", "celeba-full64.npz"
#: The framing of the crops within a squashed frame.
FRAME_BOX = (2.0, 11.0, 62.0, 62.0)
#: A frame's box is 51 pixels high: nothing is upsampled up to this size.
LARGEST_FROM_FRAMES = 48
#: What the columns of the frames' labels say of a face.
ATTRIBUTES = ("bangs", "eyeglasses", "beard", "smiling", "adult")


def open_celeba(folder: Path, size: int, split: Split) -> list[RawImages]:
    """The parts of one split at ``size``, crops first.

    Raises:
        DataError: A pack is missing or broken, the size exceeds 64, or ``test`` is asked for.
    """
    if size > 64:
        raise DataError(
            f"{folder / CROPS} holds 64x64 images, and {size}x{size} are asked for",
            hint="Set the recipe's size to 64 or less, or name a folder with larger images",
        )
    if split == "test":
        raise DataError(
            f"{folder} has no test split of CelebA: the packs overlap in it", hint="Use val"
        )
    crops = read_npz(folder / CROPS, name="CelebA")
    if split not in crops:
        raise DataError(f"{folder / CROPS} has no {split} split", hint="Copy it again")
    if split == "val" or size > LARGEST_FROM_FRAMES:
        return [crops[split]]
    if not (folder / FRAMES).is_file():
        raise DataError(
            f"{folder / FRAMES} is missing: at {size}x{size} both packs are used",
            hint=f"Copy it there, or name {folder / CROPS} alone",
        )
    frames = _framed(folder)
    # The frames' own validation people are in no split that is measured: they train too.
    parts = [frames[part] for part in ("train", "val") if part in frames]
    return [crops["train"], *parts]


def open_frames(folder: Path, size: int, split: Split) -> RawImages:
    """One split of the frames in the framing of the crops, with labels (N, 5): the attributes.

    The partition is the official one, ``test`` included. Faces of ``test`` are also among the
    crops, so what is measured on it must not have been trained on them.

    Raises:
        DataError: The pack is missing, broken or without the split, or the size exceeds 48.
    """
    if size > LARGEST_FROM_FRAMES:
        raise DataError(
            f"Faces in {folder / FRAMES} are 50 pixels wide, and {size}x{size} are asked for",
            hint=f"Set the size to {LARGEST_FROM_FRAMES} or less",
        )
    frames = _framed(folder)
    if split not in frames:
        raise DataError(f"{folder / FRAMES} has no {split} split", hint="Copy it again")
    return frames[split]


def _framed(folder: Path) -> dict[Split, RawImages]:
    found = read_npz(folder / FRAMES, name="CelebA")
    return {split: replace(frames, box=FRAME_BOX) for split, frames in found.items()}
