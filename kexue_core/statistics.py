"""Statistics that more than one technique is measured by."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["area_under_curve", "frechet_distance"]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""Squared Frechet distance between Gaussians fitted to two samples (what papers call FID).

    .. math:: d^2 = |\mu_a - \mu_b|^2 + \mathrm{tr}(C_a + C_b - 2 (C_a C_b)^{1/2})

    The square root is never taken. With factors :math:`C_a = A^T A`, :math:`C_b = B^T B` its trace
    is the sum of the singular values of :math:`A B^T`, and the factor of a sample covariance is
    the R of a QR decomposition of the centred samples: nothing is squared, and a singular
    covariance (fewer samples than dimensions, dead features) is no special case.

    It is biased upwards by a finite sample, the more the smaller: compare only at equal sizes, and
    beside the distance of real samples from real samples.

    Args:
        a: (n, D) features, n >= 2; computed in float64.
        b: (m, D) features, m >= 2.

    Returns:
        The distance, >= 0, in squared units of the features. Covariances are unbiased (n - 1).

    References:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, eq. 6.
        https://arxiv.org/abs/1706.08500
        Dowson & Landau, The Frechet distance between multivariate normal distributions, 1982.
    """
    mean_a, factor_a = _gaussian(a.double())
    mean_b, factor_b = _gaussian(b.double())
    cross = torch.linalg.svdvals(factor_a @ factor_b.mT).sum()
    squared = (mean_a - mean_b).square().sum()
    squared = squared + factor_a.square().sum() + factor_b.square().sum() - 2 * cross
    return max(0.0, float(squared))


def _gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,), and R (min(n, D), D) with R^T R the sample covariance."""
    mean = x.mean(0)
    factor = torch.linalg.qr(x - mean, mode="r").R
    return mean, factor / (len(x) - 1) ** 0.5


def area_under_curve(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve: share of pairs in which the positive's score is the higher.

    Args:
        positive: (n,) scores, n >= 1. Ties count half.
        negative: (m,) scores, m >= 1.

    Returns:
        In [0, 1]; 1/2 is chance.

    References:
        Hanley & McNeil, The meaning and use of the area under a ROC curve, 1982.
    """
    both = torch.cat([positive, negative]).double()
    _, place, counts = torch.unique(both, return_inverse=True, return_counts=True)
    # Of each value, from 1, ties sharing the mean. Their sum needs more digits than float32 has.
    ranks = counts.cumsum(0) - (counts - 1).double() / 2
    n, m = len(positive), len(negative)
    total = ranks[place[:n]].sum() - n * (n + 1) / 2
    return float(total / (n * m))
