"""Sample quality: small classifiers, and the distances over their features.

>>> import kexue_metrics as km                                              # doctest: +SKIP
>>> features = km.load_features("classifier-fashion")                       # doctest: +SKIP
>>> quality = km.sample_quality(features, real, fake, real_floor=other)     # doctest: +SKIP

Importing this package imports no torch; the functions come with their names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "ClassAgreement",
    "Features",
    "ImageClassifier",
    "ImageClassifierConfig",
    "QualityFigures",
    "SampleQuality",
    "class_agreement",
    "density_coverage",
    "frechet_distance",
    "kernel_distance",
    "load_features",
    "precision_recall",
    "sample_quality",
]

if TYPE_CHECKING:
    from kexue_metrics.agreement import ClassAgreement, class_agreement
    from kexue_metrics.features import Features, load_features
    from kexue_metrics.frechet import frechet_distance
    from kexue_metrics.image_classifier import ImageClassifier, ImageClassifierConfig
    from kexue_metrics.kernel import kernel_distance
    from kexue_metrics.neighbours import density_coverage, precision_recall
    from kexue_metrics.quality import QualityFigures, SampleQuality, sample_quality

_HOME = {
    "ClassAgreement": "agreement",
    "Features": "features",
    "ImageClassifier": "image_classifier",
    "ImageClassifierConfig": "image_classifier",
    "QualityFigures": "quality",
    "SampleQuality": "quality",
    "class_agreement": "agreement",
    "density_coverage": "neighbours",
    "frechet_distance": "frechet",
    "kernel_distance": "kernel",
    "load_features": "features",
    "precision_recall": "neighbours",
    "sample_quality": "quality",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
