"""The Frechet distance between two sets of features, checked before it is computed."""

from __future__ import annotations

from torch import Tensor

from kexue_core import statistics
from kexue_metrics.samples import pair

__all__ = ["frechet_distance"]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """:func:`kexue_core.statistics.frechet_distance` of samples that fit each other.

    Args:
        a: (n, D) features, n >= 2.
        b: (m, D) features, m >= 2.

    Returns:
        The distance, >= 0, in squared units of the features.

    Raises:
        ValueError: Shapes do not fit, or values are not finite.
    """
    return statistics.frechet_distance(*pair(a, b, least=2))
