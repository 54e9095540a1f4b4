"""Telling data from what is no such data by the energy, beside two scores that know nothing.

An area under the curve is only worth something where it beats what a glance at the histogram, or a
single Gaussian, gives as well: Fashion-MNIST has more grey than MNIST, and uniform noise is unlike
any image. So each figure comes with the two trivial ones.

References:
    [1] Du & Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019, section 4.4.
        https://arxiv.org/abs/1903.08689
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kexue_core.statistics import area_under_curve
from kexue_core.training import Dataset

__all__ = ["GaussianScore", "compare_scores", "grey_fraction", "images_of"]

#: Images scored at once.
BATCH = 250
#: Images that the Gaussian is fitted to, at most.
FITTED = 20_000
#: Added to the Gaussian's covariance: pixels that never change would make it singular, and pixels
#: that hardly change would say all. Of 1e-5 to 1e-2 the last made the best yardstick.
RIDGE = 1e-2
#: Levels below this are black, above 1 - this white.
BLACK = 0.05


def grey_fraction(images: Tensor) -> Tensor:
    """Share of pixels that are neither black nor white, (n,), of images (n, C, H, W) in [0, 1]."""
    grey = (images > BLACK) & (images < 1 - BLACK)
    return grey.flatten(1).double().mean(1)


@dataclass(frozen=True, slots=True)
class GaussianScore:
    """Half the squared Mahalanobis distance from the training images.

    Attributes:
        mean: (d,).
        whiten: (d, d), the inverse Cholesky factor of the covariance.
    """

    mean: Tensor
    whiten: Tensor

    @classmethod
    def fit(cls, data: Dataset, limit: int = FITTED) -> GaussianScore:
        """Fit to the first images of a data set."""
        rows = torch.cat([x.flatten(1) for x in images_of(data, min(len(data), limit))]).double()
        mean = rows.mean(0)
        covariance = (rows - mean).T @ (rows - mean) / max(1, len(rows) - 1)
        identity = torch.eye(len(mean), dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance + RIDGE * identity)
        return cls(mean, torch.linalg.solve_triangular(factor, identity, upper=False))

    def __call__(self, images: Tensor) -> Tensor:
        """(n,), high for what is unlike the training images (n, C, H, W)."""
        white = (images.flatten(1).double().cpu() - self.mean) @ self.whiten.T
        return 0.5 * white.square().sum(1)


def images_of(data: Dataset, n: int) -> Iterator[Tensor]:
    """The first ``n`` images, a batch (k, C, H, W) at a time."""
    for first in range(0, n, BATCH):
        yield data.batch(range(first, min(n, first + BATCH)))["image"]


def compare_scores(
    scores: Mapping[str, Callable[[Tensor], Tensor]],
    inside: list[Tensor],
    outside: Mapping[str, list[Tensor]],
) -> dict[tuple[str, str], float]:
    """Areas under the curve, by (what is outside, score).

    Of the score ``grey`` the better direction counts: it is a yardstick, and not to be too short.

    Args:
        scores: Name -> function that is high for what is outside.
        inside: Batches of images.
        outside: Name -> batches of images.
    """
    areas = {}
    for score, function in scores.items():
        within = torch.cat([function(x).double().cpu() for x in inside])
        for name, batches in outside.items():
            beyond = torch.cat([function(x).double().cpu() for x in batches])
            area = area_under_curve(beyond, within)
            areas[name, score] = max(area, 1 - area) if score == "grey" else area
    return areas
