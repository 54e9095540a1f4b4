"""The Frechet distance between Gaussians fitted to two sets of vectors.

    |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))

Figures of sample quality come from kexue-metrics, over a classifier's features; what a training
run watches itself by is the same distance over thumbnails, which needs no other weights.

References:
    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, arXiv 1706.08500, eq. 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["frechet_distance", "thumbnail_distance"]

#: Side of a thumbnail in pixels.
THUMBNAIL = 7


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The distance of (n, d) from (m, d), in squared units of the features; n, m > 1.

    The square root is never formed: with factors A = R^T R, B = S^T S its trace is the sum of the
    singular values of R S^T, also where a covariance is singular.
    """
    a, b = a.double(), b.double()
    (r, s) = (torch.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5, mode="r").R for x in (a, b))
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(
        means + r.square().sum() + s.square().sum() - 2 * torch.linalg.svdvals(r @ s.mT).sum()
    )


def thumbnail_distance(real: Tensor, fake: Tensor) -> float:
    """The distance over images (n, channels, h, w) in [0, 1], averaged down to 7x7."""
    small = (F.adaptive_avg_pool2d(x.float(), THUMBNAIL).flatten(1) for x in (real, fake))
    return frechet_distance(*small)
