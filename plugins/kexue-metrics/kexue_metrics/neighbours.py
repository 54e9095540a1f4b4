"""Fidelity and variety apart: precision and recall, density and coverage.

All four put a ball round each sample that reaches to its k-th nearest neighbour in its own set,
and ask which samples of the other set lie in which balls. A ball is closed: a copy of a real image
is in that image's ball even where the radius is 0.

References:
    [1] Kynkaanniemi et al., Improved Precision and Recall Metric, 2019, eqs. 1-2.
        https://arxiv.org/abs/1904.06991
    [2] Naeem et al., Reliable Fidelity and Diversity Metrics, 2020, eqs. 3-4.
        https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kexue_metrics.samples import pair

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "precision_recall"]

#: Rows of a distance matrix that are held at once: 80 MB in float64 against 10,000 columns.
CHUNK = 1024
#: Rounding of a squared distance that is computed from inner products, relative to the largest
#: squared norm: some hundred additions in float64, with room.
ROUNDING = 1e-12


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1].

    Attributes:
        precision: Of the fake samples that lie among the real ones.
        recall: Of the real samples that lie among the fake ones.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Two figures of which one real outlier spoils less.

    Attributes:
        density: Real balls round a fake sample, over k; >= 0, about 1 for a perfect model, above 1
            where samples crowd into the densest regions.
        coverage: Share of the real balls that hold a fake sample, in [0, 1].
    """

    density: float
    coverage: float


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall [1].

    Args:
        real: (n, D) features of real images, n > k.
        fake: (m, D) features of samples, m > k.
        k: Neighbours that a ball reaches to, >= 1; [1] uses 3.

    Raises:
        ValueError: Shapes do not fit, values are not finite, or there are too few samples.
    """
    real, fake = _centred(real, fake, k)
    radii_real, radii_fake = _radii(real, k), _radii(fake, k)
    in_real = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    recalled = 0
    for rows, squared in _blocks(real, fake):
        in_real |= (squared <= radii_real[rows, None]).any(0)
        recalled += int((squared <= radii_fake).any(1).sum())
    return PrecisionRecall(float(in_real.double().mean()), recalled / len(real))


def density_coverage(real: Tensor, fake: Tensor, *, k: int = 5) -> DensityCoverage:
    """Density and coverage [2].

    Args:
        real: (n, D) features of real images, n > k.
        fake: (m, D) features of samples, m >= 1.
        k: Neighbours that a real ball reaches to, >= 1; [2] uses 5.

    Raises:
        ValueError: Shapes do not fit, values are not finite, or there are too few real samples.
    """
    real, fake = _centred(real, fake, k, least_fake=1)
    radii = _radii(real, k)
    hits = covered = 0
    for rows, squared in _blocks(real, fake):
        inside = squared <= radii[rows, None]
        hits += int(inside.sum())
        covered += int(inside.any(1).sum())
    return DensityCoverage(hits / (k * len(fake)), covered / len(real))


def _centred(
    real: Tensor, fake: Tensor, k: int, *, least_fake: int | None = None
) -> tuple[Tensor, Tensor]:
    """Both sets with the mean of the real one taken away, which keeps inner products small."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    real, fake = pair(real, fake, least=1)
    for what, x, least in (("real", real, k + 1), ("fake", fake, least_fake or k + 1)):
        if len(x) < least:
            raise ValueError(f"k={k} needs at least {least} {what} samples, not {len(x)}")
    mean = real.mean(0)
    return real - mean, fake - mean


def _radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th nearest other row, with room for rounding."""
    radii = []
    for rows, squared in _blocks(x, x):
        here = torch.arange(rows.start, rows.stop, device=x.device)
        squared[here - rows.start, here] = torch.inf  # a sample is no neighbour of its own
        # A partial selection, an order of magnitude faster than kthvalue for a small k.
        radii.append(squared.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(radii) + ROUNDING * float(x.square().sum(1).max())


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances of all rows of ``a`` to all of ``b``, some rows of ``a`` at a time."""
    norms = b.square().sum(1)
    for start in range(0, len(a), CHUNK):
        rows = slice(start, min(start + CHUNK, len(a)))
        squared = torch.addmm(norms, a[rows], b.mT, alpha=-2)
        squared += a[rows].square().sum(1, keepdim=True)
        yield rows, squared.clamp_(min=0)
