"""What this plugin adds to ``kexue eval NAME --metrics``: sample quality and class agreement."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from kexue_core.configs import parse_pairs
from kexue_core.errors import DataError
from kexue_core.metrics import Measurement, Metric, Subject
from kexue_core.training.data import Images
from kexue_metrics.agreement import class_agreement
from kexue_metrics.features import Features, load_features
from kexue_metrics.quality import DENSITY_NEIGHBOURS, PRECISION_NEIGHBOURS, sample_quality

__all__ = [
    "ClassAgreementConfig",
    "ClassAgreementMetric",
    "SampleQualityConfig",
    "SampleQualityMetric",
]

#: Samples where nobody says how many, if there are as many real images.
SAMPLES = 10_000
#: Real images that are decoded and prepared at once.
BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleQualityConfig:
    """Settings of both metrics.

    Attributes:
        features: Weights of an image classifier, whose features are compared or whose labels
            count.
        seed: Of the samples, and of which real images are taken.
        sampler: Another sampler than that of the weights.
        options: ``key=value`` options of the sampler, over those of the weights.
    """

    features: str = ""
    seed: int = 0
    sampler: str | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("say whose features to compare: --set features=classifier-fashion")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAgreementConfig(SampleQualityConfig):
    """The same settings."""


class SampleQualityMetric(Metric):
    """Samples against real images, beside other real images against the same ones.

    The reference is ``n`` images of the split. The floor is as many others: of ``train`` where the
    reference is not, else further ones of ``train``.
    """

    Config = SampleQualityConfig
    config: SampleQualityConfig

    def measure(self, subject: Subject) -> Measurement:
        """Each figure of :class:`~kexue_metrics.QualityFigures` with its floor."""
        c = self.config
        features = load_features(c.features, device=subject.device)
        real = subject.images(subject.split)
        other = real if subject.split == "train" else subject.images("train")
        same = other is real
        available = min(len(real) // 2 if same else len(real), len(other))
        n = _number(subject, available)  # and as many for the floor
        order = _permutation(len(real), c.seed)
        rest = order[n : 2 * n] if same else _permutation(len(other), c.seed)[:n]
        fake, drawn = subject.sample(
            n, seed=c.seed, sampler=c.sampler, options=parse_pairs(c.options)
        )
        quality = sample_quality(
            features,
            _features_of(real, order[:n], features),
            fake,
            real_floor=_features_of(other, rest, features),
        )
        return Measurement(
            values=asdict(quality.fake),
            floors=asdict(quality.floor),
            n=n,
            seed=c.seed,
            dataset=real.name,
            settings={
                "features": f"{features.name}@{features.weights_sha256}",
                "k": [PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS],
                **drawn,
                "data": real.fingerprint,
                "floor_data": other.fingerprint,
            },
        )


class ClassAgreementMetric(Metric):
    """Share of samples on which the classifier agrees with the class that was asked for.

    The classes are asked for in turn, by the option ``labels`` of the sampler. The floor is the
    classifier's agreement with the true classes of as many real images of the split: where it errs
    itself its verdict on samples means little.
    """

    Config = ClassAgreementConfig
    config: ClassAgreementConfig

    def measure(self, subject: Subject) -> Measurement:
        """The share over all samples, and that of the worst class."""
        c = self.config
        features = load_features(c.features, device=subject.device)
        real = subject.images(subject.split)
        n = _number(subject, len(real))
        classes = list(range(len(features.labels)))
        asked = torch.arange(n) % len(classes)
        fake, drawn = subject.sample(
            n, seed=c.seed, sampler=c.sampler, options=parse_pairs(c.options) | {"labels": classes}
        )
        found = class_agreement(features, fake, asked)
        return Measurement(
            values=found.to_dict(),
            floors=class_agreement(features, *_labelled(real, n)).to_dict(),
            n=n,
            seed=c.seed,
            dataset=real.name,
            settings={
                "features": f"{features.name}@{features.weights_sha256}",
                "per_class": found.per_class,
                **drawn,
                "data": real.fingerprint,
            },
        )


def _number(subject: Subject, available: int) -> int:
    n = subject.limit or min(SAMPLES, available)
    if n > available:
        raise DataError(
            f"{n:,} samples need as many real images beside them, and {subject.split} has "
            f"{available:,} to offer",
            hint=f"Take -n {available}, or another --split",
        )
    if n <= DENSITY_NEIGHBOURS:
        raise DataError(f"{n} samples are too few to measure", hint="Take a few thousand")
    return n


def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _features_of(images: Images, chosen: Tensor, features: Features) -> Tensor:
    """Features (n, D) of the images at ``chosen``, decoded and prepared a batch at a time."""
    return torch.cat(
        [
            features(images.batch(chosen[i : i + BATCH].tolist())["image"])
            for i in range(0, len(chosen), BATCH)
        ]
    )


def _labelled(real: Images, n: int) -> tuple[Tensor, Tensor]:
    batch = real.batch(_permutation(len(real), 0)[:n].tolist())
    if "label" not in batch:
        raise DataError(f"{real.name} has no labels to check the classifier by")
    return batch["image"], batch["label"]
