"""Binary images: grey ones binarised once, by a fixed generator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from kexue_core.training import Batch, Dataset
from kexue_vae.vae import binarize

__all__ = ["BinarizedOnce"]

BATCH = 4096


class BinarizedOnce:
    """A data set of images, each value drawn once as 1 with itself as probability.

    There is no threshold. The result depends on the images, their order and the seed alone, so
    that figures measured on it can be compared; thresholded or anew binarised images give others.

    Args:
        images: What to binarise: its batches hold ``image`` (n, C, H, W) in [0, 1].
        seed: Of the generator that draws all values, one image after the other.

    Attributes:
        fingerprint: sha256 of the binary images, uint8 of 0 and 1 in order: result records hold it.
    """

    def __init__(self, images: Dataset, *, seed: int) -> None:
        self.name = f"{images.name}, binarised once (seed {seed})"
        parts = [
            images.batch(range(start, min(len(images), start + BATCH)))
            for start in range(0, len(images), BATCH)
        ]
        grey = torch.cat([part["image"] for part in parts])
        self._bits = binarize(grey, seed=seed).to(torch.uint8)
        self._labels = torch.cat([p["label"] for p in parts]) if "label" in parts[0] else None
        self.fingerprint = hashlib.sha256(self._bits.numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._bits)

    def batch(self, indices: Sequence[int]) -> Batch:
        """``image`` (n, C, H, W), float32 of 0 and 1; ``label`` (n,), int64, if known."""
        chosen = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        batch = {"image": self._bits[chosen].float()}
        if self._labels is not None:
            batch["label"] = self._labels[chosen]
        return batch
