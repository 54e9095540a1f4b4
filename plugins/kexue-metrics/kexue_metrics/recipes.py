"""How the classifiers are trained: cross-entropy, AdamW, one rise and one fall of the rate.

Images are mirrored where a mirror image is as good, and shifted by a pixel or two. Training runs in
bfloat16 with the channels last in memory, which on a CPU takes less than half of the time; what is
published and measured is float32 arithmetic on float16 weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_core.errors import DataError
from kexue_core.training import Batch, Card, Dataset, Recipe, RecipeConfig, Split, StepContext
from kexue_core.training.data import Images, open_images, random_flip
from kexue_core.training.data.celeba import ATTRIBUTES, FRAMES, open_frames
from kexue_metrics.image_classifier import ImageClassifier, ImageClassifierConfig

__all__ = [
    "ClassifierCelebAAttributes",
    "ClassifierCelebAAttributesConfig",
    "ClassifierConfig",
    "ClassifierFashion",
    "ClassifierFashionConfig",
    "ClassifierMNIST",
    "ClassifierMNISTConfig",
]

EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig(RecipeConfig):
    """Settings of the training.

    Attributes:
        labels: Names of the classes, in the order of their numbers in the data.
        size, channels, widths, dropout: The classifier's, see
            :class:`~kexue_metrics.ImageClassifierConfig`.
        learning_rate: AdamW's at its height.
        weight_decay: AdamW's, of everything.
        warmup: Share of the steps over which the rate rises; then it falls to zero as a cosine.
        flip: Mirror images at random.
        shift: Largest random shift in pixels, each way; black moves in.
        dtype: Number type of the network while training.
    """

    steps: int = 3_000
    batch_size: int = 128
    ema: float = 0.995
    evaluate_every: int = 500
    preview_every: int = 0
    checkpoint_every: int = 500
    labels: tuple[str, ...] = tuple("0123456789")
    size: int = 28
    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128)
    dropout: float = 0.2
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warmup: float = 0.2
    flip: bool = False
    shift: int = 2
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierFashionConfig(ClassifierConfig):
    """Fashion-MNIST, whose clothes are mirrored freely."""

    labels: tuple[str, ...] = (
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle-boot"),
    )
    flip: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierMNISTConfig(ClassifierConfig):
    """MNIST, whose digits have no mirror image."""

    steps: int = 1_500


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierCelebAAttributesConfig(ClassifierConfig):
    """Five attributes of a face at 48x48, each yes or no."""

    steps: int = 2_000
    labels: tuple[str, ...] = ATTRIBUTES
    size: int = 48
    channels: int = 3
    widths: tuple[int, ...] = (16, 32, 64, 128)
    flip: bool = True


class ClassifierMNIST(Recipe):
    """A classifier of MNIST, or of any grey images with one label each."""

    Config: ClassVar[type[RecipeConfig]] = ClassifierMNISTConfig
    config: ClassifierConfig
    #: Public data that a stranger can train on; ``None`` where there is none with these labels.
    hub: ClassVar[str | None] = "ylecun/mnist"
    multilabel: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        summary="A small convolutional classifier of MNIST. Its features are what kexue-metrics "
        "measures the quality of generated digits by.",
        data="MNIST (LeCun, Cortes & Burges)",
        license="MIT",
        terms="MNIST is freely used; the weights are under the MIT licence.",
        limits="Anything but a centred digit gets a label all the same. Distances over its "
        "features compare models with each other; they are not comparable with published FID.",
    )

    def data(self, source: str | None, split: Split) -> Dataset:
        """Images with labels; those of ``val`` are never trained on.

        Raises:
            DataError: As :func:`kexue_core.training.data.open_images`, or the labels do not fit.
        """
        images = self._open(source or self.hub, split)
        if "label" not in (first := images.batch(range(min(1, len(images))))):
            raise DataError(
                f"{images.name} has no labels",
                hint="Name a folder of a folder a class, idx files, or an .npz with labels",
            )
        if (first["label"].ndim == 2) != self.multilabel:
            raise DataError(
                f"{images.name} has labels of the shape {tuple(first['label'].shape[1:])} each",
                hint="One class each is for classifier-mnist, attributes for "
                "classifier-celeba-attrs",
            )
        found, named = _count_labels(images), len(self.config.labels)
        if found > named or (self.multilabel and found != named):
            raise DataError(
                f"{images.name} has {found} labels, and {named} are named",
                hint="Name them in their order with --set labels=first,second,...",
            )
        return images

    def _open(self, source: str | None, split: Split) -> Images:
        if source is None:
            raise DataError("There is no default data", hint="Name it with --data")
        return open_images(source, split, size=self.config.size, channels=self.config.channels)

    def build(self) -> Mapping[str, nn.Module]:
        """A new classifier, its weights laid out with the channels last."""
        c = self.config
        model = ImageClassifier(
            ImageClassifierConfig(
                labels=c.labels,
                size=c.size,
                channels=c.channels,
                widths=c.widths,
                multilabel=self.multilabel,
                dropout=c.dropout,
            )
        )
        nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
        return {"model": model}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """AdamW over everything."""
        c = self.config
        parameters = modules["model"].parameters()
        return {
            "model": torch.optim.AdamW(parameters, lr=c.learning_rate, weight_decay=c.weight_decay)
        }

    def learning_rate_scale(self, step: int) -> float:
        """A linear rise over ``warmup`` of the steps, then half a cosine to zero."""
        rise = max(1, round(self.config.warmup * self.config.steps))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.config.steps - rise)))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """One step on the mean cross-entropy of a batch, in nats."""
        c, image = self.config, batch["image"]
        if c.flip:
            image = random_flip(image, context)
        if c.shift:
            image = random_shift(image, c.shift, context)
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=c.dtype == "bfloat16"):
            logits = modules["model"](image)
        loss = cross_entropy(logits.float(), batch["label"])
        return {"loss": loss, **context.minimize("model", loss, clip=5.0)}

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Accuracy in [0, 1] and cross-entropy in nats.

        Of attributes also those of each, its average precision, and its prevalence p: a ranking at
        random has the average precision p, and always the same answer the accuracy max(p, 1 - p).
        """
        assert isinstance(model, ImageClassifier)
        logits, labels = _predict(model, data, limit)
        loss = {"cross_entropy": float(cross_entropy(logits, labels))}
        if not self.multilabel:
            return {"accuracy": float((logits.argmax(-1) == labels).double().mean()), **loss}
        from torchmetrics.functional.classification import multilabel_average_precision

        right = ((logits > 0) == labels.bool()).double().mean(0).tolist()
        names = model.config.labels
        precision = multilabel_average_precision(logits, labels, len(names), average="none")
        return {
            "accuracy": sum(right) / len(right),
            "mean_average_precision": float(precision.mean()),
            **loss,
            **{f"accuracy_{name}": r for name, r in zip(names, right, strict=True)},
            **{
                f"average_precision_{name}": float(p)
                for name, p in zip(names, precision, strict=True)
            },
            **{
                f"prevalence_{name}": p
                for name, p in zip(names, labels.double().mean(0).tolist(), strict=True)
            },
        }

    def preprocess(self) -> Mapping[str, Any]:
        """What `config.json` says of the images."""
        c = self.config
        return {"modality": "image", "size": c.size, "channels": c.channels, "range": [0, 1]}


class ClassifierFashion(ClassifierMNIST):
    """A classifier of Fashion-MNIST."""

    Config: ClassVar[type[RecipeConfig]] = ClassifierFashionConfig
    hub: ClassVar[str | None] = "zalando-datasets/fashion_mnist"
    card: ClassVar[Card] = Card(
        summary="A small convolutional classifier of Fashion-MNIST. Its features are what "
        "kexue-metrics measures the quality of generated clothes by.",
        data="Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017; arXiv 1708.07747)",
        license="MIT",
        terms="Fashion-MNIST is under the MIT licence, and so are these weights.",
        limits="Anything but a piece of clothing gets a label all the same; shirts, pullovers and "
        "coats are often confused, as people confuse them at this size. Distances over its "
        "features compare models with each other; they are not comparable with published FID.",
    )


class ClassifierCelebAAttributes(ClassifierMNIST):
    """A classifier of attributes of CelebA faces, or of any images with attributes."""

    Config: ClassVar[type[RecipeConfig]] = ClassifierCelebAAttributesConfig
    hub: ClassVar[str | None] = None
    multilabel: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        summary="A small convolutional classifier of five attributes of CelebA faces: bangs, "
        "eyeglasses, beard, smiling, adult. Its features are what kexue-metrics measures the "
        "quality of generated faces by.",
        data="CelebA (Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015): 30,000 "
        "frames of its official partition, cropped to the face",
        license="LicenseRef-CelebA-noncommercial",
        terms="CelebA is for non-commercial research only, and so are these weights.",
        limits="Made to compare generated faces, not to judge a person: the attributes are "
        "other people's guesses from photographs of celebrities, and biased as those are. "
        "Distances over its features are not comparable with published FID.",
    )

    def _open(self, source: str | None, split: Split) -> Images:
        c = self.config
        if source is not None and (folder := Path(source).expanduser()).joinpath(FRAMES).is_file():
            frames = open_frames(folder, c.size, split)
            return Images([frames], size=c.size, channels=c.channels, split=split)
        if source is None:
            raise DataError(
                "CelebA may not be redistributed, so this recipe has no default data",
                hint="Name an .npz of images (n, height, width, 3) and labels (n, K) with --data",
            )
        return super()._open(source, split)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean in nats: of classes (n,), or over images and attributes of 0 and 1, (n, K)."""
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def random_shift(image: Tensor, most: int, context: StepContext) -> Tensor:
    """Shift each image of a batch (n, c, h, w) by up to ``most`` pixels; black moves in.

    Both shifts of an image come from the step's noise, so that a resumed run shifts it the same.
    """
    n, _, height, width = image.shape
    offsets = (context.noise(n, "uniform", 2).to(image.device) * (2 * most + 1)).long()
    rows = offsets[:, :1] + torch.arange(height, device=image.device)
    columns = offsets[:, 1:] + torch.arange(width, device=image.device)
    padded = F.pad(image, (most, most, most, most))
    each = torch.arange(n, device=image.device).view(n, 1, 1)
    # The indexed dimensions come first: (n, h, w, c), and back.
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _predict(model: ImageClassifier, data: Dataset, limit: int | None) -> tuple[Tensor, Tensor]:
    """Logits and labels of the first ``limit`` samples, on the CPU."""
    n = len(data) if limit is None else min(limit, len(data))
    device = next(model.parameters()).device
    logits, labels = [], []
    for i in range(0, n, EVALUATION_BATCH):
        batch = data.batch(range(i, min(n, i + EVALUATION_BATCH)))
        logits.append(model(batch["image"].to(device)).float().cpu())
        labels.append(batch["label"])
    return torch.cat(logits), torch.cat(labels)


def _count_labels(images: Images) -> int:
    """Columns of attributes, or one more than the largest class."""
    most = 0
    for i in range(0, len(images), 4096):  # a batch brings its images along
        labels = images.batch(range(i, min(len(images), i + 4096)))["label"]
        most = max(most, labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1)
    return most
