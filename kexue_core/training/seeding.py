"""Every random number of a run as a function of its seed and of what it is for."""

from __future__ import annotations

import hashlib
import random

import torch

__all__ = ["derive", "seed_everything"]


def derive(seed: int, *purpose: int | str) -> int:
    """A seed in [0, 2**32) for one purpose, such as ``derive(seed, "step", 17)``.

    Hashed, so that neither neighbouring seeds nor neighbouring steps are related: torch's CPU
    generator keeps only 32 bits of what it is given, and ``seed + step`` would make step 1 of
    seed 0 equal to step 0 of seed 1.
    """
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), numpy and Python."""
    import numpy as np

    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
