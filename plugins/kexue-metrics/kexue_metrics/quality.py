"""All figures of sample quality at once, never without what they need to be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from kexue_metrics.features import Features
from kexue_metrics.frechet import frechet_distance
from kexue_metrics.kernel import kernel_distance
from kexue_metrics.neighbours import density_coverage, precision_recall

__all__ = ["QualityFigures", "SampleQuality", "sample_quality"]

#: Neighbours of precision and recall (Kynkaanniemi 2019) and of density and coverage (Naeem 2020).
PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFigures:
    """How one set of images compares with the real one.

    Attributes:
        frechet_distance: See :func:`~kexue_metrics.frechet_distance`; lower is better.
        kernel_distance: See :func:`~kexue_metrics.kernel_distance`, of all pairs; lower is better.
        precision, recall: See :func:`~kexue_metrics.precision_recall`; higher is better.
        density, coverage: See :func:`~kexue_metrics.density_coverage`; higher is better.
    """

    frechet_distance: float
    kernel_distance: float
    precision: float
    recall: float
    density: float
    coverage: float

    @classmethod
    def of(cls, real: Tensor, fake: Tensor) -> QualityFigures:
        """From features (N, D) of real images and (M, D) of the others, on any device."""
        precision, recall = precision_recall(real, fake, k=PRECISION_NEIGHBOURS)
        density, coverage = density_coverage(real, fake, k=DENSITY_NEIGHBOURS)
        return cls(
            frechet_distance=frechet_distance(real, fake),
            kernel_distance=kernel_distance(real, fake),
            precision=precision,
            recall=recall,
            density=density,
            coverage=coverage,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleQuality:
    """Figures of samples beside those of other real images, with what both depend on.

    Attributes:
        features: Name of the classifier whose features were compared.
        weights_sha256: sha256 of its weights.
        n: Images in each of the three sets.
        fake: Samples against real images.
        floor: Other real images against the same real images: what a perfect model would get.
    """

    features: str
    weights_sha256: str
    n: int
    fake: QualityFigures
    floor: QualityFigures

    def to_dict(self) -> dict[str, Any]:
        """Metric -> value, as result records name them: each figure, then its ``_floor``."""
        fake, floor = asdict(self.fake), asdict(self.floor)
        return {
            key: value
            for name in fake
            for key, value in ((name, fake[name]), (f"{name}_floor", floor[name]))
        }

    def __str__(self) -> str:
        lines = [
            f"{self.n:,} samples over the features of {self.features} "
            f"(sha256 {self.weights_sha256[:12]}); floor: as many real images"
        ]
        values = self.to_dict()
        lines += [
            f"{name:<17} {values[name]:>10.4f}   floor {values[f'{name}_floor']:>10.4f}"
            for name in asdict(self.fake)
        ]
        return "\n".join(lines)


def sample_quality(
    features: Features, real: Tensor, fake: Tensor, *, real_floor: Tensor
) -> SampleQuality:
    """Compare samples with real images, and other real images with the same ones.

    >>> features = load_features("classifier-fashion")                      # doctest: +SKIP
    >>> print(sample_quality(features, test, samples, real_floor=train))    # doctest: +SKIP

    A finite sample has a distance from its own distribution, a precision below 1 and a coverage
    below 1. ``real_floor`` measures them at this very size: read each figure beside its floor.

    Args:
        features: Of a classifier of such images.
        real: (N, channels, size, size) in [0, 1], N > 5, or their features (N, D), which saves
            computing them again.
        fake: As many samples, likewise.
        real_floor: As many further real images, none of them in ``real``, likewise.

    Raises:
        ValueError: The sets differ in number, or images are not as :class:`Features` takes them.
    """
    sets = [x if x.ndim == 2 else features(x) for x in (real, fake, real_floor)]
    if len({len(x) for x in sets}) != 1:
        counts = ", ".join(f"{len(x):,}" for x in sets)
        raise ValueError(f"real, fake and real_floor must be equally many, not {counts}")
    a, b, c = sets
    return SampleQuality(
        features=features.name,
        weights_sha256=features.weights_sha256,
        n=len(a),
        fake=QualityFigures.of(a, b),
        floor=QualityFigures.of(a, c),
    )
