"""What a training run watches itself by: a distance that needs no other weights.

Figures of sample quality come from kexue-metrics, over a classifier's features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kexue_core.statistics import frechet_distance

__all__ = ["thumbnail_distance"]

#: Side of a thumbnail in pixels.
THUMBNAIL = 7


def thumbnail_distance(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of images (n, channels, h, w) in [0, 1], averaged down to 7x7."""
    small = (F.adaptive_avg_pool2d(x.float(), THUMBNAIL).flatten(1) for x in (real, fake))
    return frechet_distance(*small)
