"""Whether a conditional model draws what it was asked for, as a classifier sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kexue_metrics.features import Features

__all__ = ["ClassAgreement", "class_agreement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAgreement:
    """How often the classifier names the class that was asked for.

    Attributes:
        features: Name of the classifier.
        weights_sha256: sha256 of its weights.
        n: Samples.
        agreement: Share of them on which it agrees, in [0, 1].
        per_class: Label -> that share among the samples asked for it; labels nobody asked for are
            left out.
    """

    features: str
    weights_sha256: str
    n: int
    agreement: float
    per_class: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Metric -> value, as result records name them: the share, and that of the worst class."""
        return {
            "class_agreement": self.agreement,
            "class_agreement_worst": min(self.per_class.values()),
        }


def class_agreement(features: Features, images: Tensor, labels: Tensor) -> ClassAgreement:
    """Share of samples on which the classifier agrees with the class that was asked for.

    The classifier errs too: its own accuracy on real images bounds what the share can mean.

    Args:
        features: A classifier of one label an image.
        images: (N, channels, size, size) in [0, 1], N >= 1.
        labels: (N,), int64: the classes asked for, as numbers of ``features.labels``.

    Raises:
        ValueError: The classifier is multi-label, or the labels do not fit it or the images.
    """
    if features.multilabel:
        raise ValueError(f"{features.name} gives an image several labels: agreement needs one")
    if labels.shape != (len(images),) or not len(images) or labels.is_floating_point():
        raise ValueError(f"{len(images)} images need as many whole numbers as labels, at least one")
    labels = labels.cpu()
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(features.labels):
        raise ValueError(f"labels must be in 0..{len(features.labels) - 1}")
    agrees = (features.predict(images) == labels).double()
    return ClassAgreement(
        features=features.name,
        weights_sha256=features.weights_sha256,
        n=len(images),
        agreement=float(agrees.mean()),
        per_class={
            features.labels[c]: float(agrees[labels == c].mean())
            for c in torch.unique(labels).tolist()
        },
    )
