"""A small convolutional classifier of images, one label or several, with features to measure by.

Pairs of 3x3 convolutions, batch-normalised, with max pooling between; the mean over what is left
of the image is the feature vector, and one linear layer on top of it gives the logits. Needs
nothing but torch.

References:
    Simonyan & Zisserman, Very Deep Convolutional Networks, 2015. https://arxiv.org/abs/1409.1556
    Ioffe & Szegedy, Batch Normalization, 2015. https://arxiv.org/abs/1502.03167
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ImageClassifier", "ImageClassifierConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageClassifierConfig:
    """Settings of :class:`ImageClassifier`.

    Attributes:
        labels: Names of the classes, in the order of the logits.
        size: Height and width of the images in pixels.
        channels: 3 for RGB, 1 for grey.
        widths: Channels of each stage; the image is halved between stages, and the last width is
            the number of features.
        multilabel: Whether an image may have several labels or none, each with a logit of its own
            (sigmoid), instead of exactly one (softmax).
        dropout: Share of the features that the linear layer does not see in training.
    """

    labels: tuple[str, ...]
    size: int = 28
    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128)
    multilabel: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct names, at least one")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, not {self.channels}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError("widths must be positive, at least one")
        if self.size < 2 ** (len(self.widths) - 1):
            raise ValueError(f"size {self.size} is too small to halve between all stages")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")


class ConvNormReLU(nn.Module):
    """A 3x3 convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h, w), >= 0."""
        return F.relu(self.norm(self.conv(x)))


class ImageClassifier(nn.Module):
    """Logits of labels, and the features below them."""

    def __init__(self, config: ImageClassifierConfig) -> None:
        super().__init__()
        self.config = c = config
        layers: list[nn.Module] = []
        previous = c.channels
        for stage, width in enumerate(c.widths):
            if stage:
                layers.append(nn.MaxPool2d(2))
            # At full resolution one convolution is enough: a second would cost most of the time.
            for _ in range(2 if stage else 1):
                layers.append(ConvNormReLU(previous, width))
                previous = width
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(c.dropout)
        self.output = nn.Linear(previous, len(c.labels))

    @property
    def data_shape(self) -> tuple[int, int, int]:
        """(channels, size, size)."""
        return self.config.channels, self.config.size, self.config.size

    def features(self, x: Tensor) -> Tensor:
        """Features (n, widths[-1]), >= 0, of images (n, channels, size, size) in [0, 1].

        Raises:
            ValueError: The images have another shape.
        """
        if tuple(x.shape[1:]) != self.data_shape:
            raise ValueError(
                f"images must have the shape (n, {', '.join(map(str, self.data_shape))}), "
                f"not {tuple(x.shape)}"
            )
        features: Tensor = self.layers(2 * x - 1).mean((2, 3))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, labels) of images (n, channels, size, size) in [0, 1]."""
        logits: Tensor = self.output(self.dropout(self.features(x)))
        return logits

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy in nats: of classes (n,), or a label of 0s and 1s (n, labels)."""
        if self.config.multilabel:
            return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))
        return F.cross_entropy(logits, target)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (n, labels) of logits: softmax, or a sigmoid each where ``multilabel``."""
        return logits.sigmoid() if self.config.multilabel else logits.softmax(-1)

    @torch.no_grad()
    def classify(self, x: Tensor) -> list[list[tuple[str, float]]]:
        """All labels of each image with probabilities, best first."""
        probabilities = self.probabilities(self(x).float()).cpu()
        order = probabilities.argsort(dim=-1, descending=True, stable=True)
        return [
            [(self.config.labels[j], float(row[j])) for j in ranks]
            for row, ranks in zip(probabilities, order.tolist(), strict=True)
        ]
