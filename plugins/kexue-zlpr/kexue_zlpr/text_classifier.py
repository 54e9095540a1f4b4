"""A small multi-label classifier of texts: hashed n-grams, their mean vector, two layers.

A text becomes the set of its n-grams (words and pairs of words, or characters and runs of them for
languages that write no spaces), each hashed to a row of one table: no vocabulary to ship, no word
unknown. Minutes of one core train it.

References:
    Joulin et al., Bag of Tricks for Efficient Text Classification. arXiv 1607.01759
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TextClassifier", "TextClassifierConfig", "example_input"]

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClassifierConfig:
    """Settings of :class:`TextClassifier`.

    Attributes:
        labels: Names of the classes, in the order of the logits.
        level: ``"word"`` for words, ``"char"`` for characters.
        ngrams: Longest run of words or characters that is a feature.
        buckets: Rows of the table that features are hashed to.
        max_features: Features of a text that count, from its beginning.
        width: Length of a feature's vector.
        hidden: Width of the hidden layer.
        dropout: Share of the hidden layer that is dropped in training.
    """

    labels: tuple[str, ...]
    level: Literal["word", "char"] = "word"
    ngrams: int = 2
    buckets: int = 30_000
    max_features: int = 512
    width: int = 48
    hidden: int = 128
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct names, at least one")
        if self.level not in ("word", "char"):
            raise ValueError(f"level must be 'word' or 'char', not {self.level!r}")
        for name in ("ngrams", "buckets", "max_features", "width", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


class TextClassifier(nn.Module):
    """Logits of labels, trained with ZLPR: a label is predicted where its logit is above 0."""

    def __init__(self, config: TextClassifierConfig) -> None:
        super().__init__()
        self.config = c = config
        self.table = nn.Embedding(c.buckets + 1, c.width)  # row 0 is padding
        self.norm = nn.LayerNorm(c.width)
        self.hidden = nn.Linear(c.width, c.hidden)
        self.dropout = nn.Dropout(c.dropout)
        self.output = nn.Linear(c.hidden, len(c.labels))
        nn.init.normal_(self.table.weight, std=0.1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (n, labels) of feature numbers (n, L), 0 to buckets, where 0 is padding."""
        present = (features > 0).to(self.table.weight.dtype)
        mean = torch.einsum("nl,nlw->nw", present, self.table(features))
        mean = mean / present.sum(-1, keepdim=True).clamp(min=1)
        logits: Tensor = self.output(self.dropout(F.relu(self.hidden(self.norm(mean)))))
        return logits

    def featurize(self, texts: Sequence[str]) -> Tensor:
        """Feature numbers (n, L) of texts, int64, filled up with 0; L at least 1."""
        c = self.config
        rows = [_features(text, c) for text in texts]
        longest = max([1, *map(len, rows)])
        table = [row + [0] * (longest - len(row)) for row in rows]
        return torch.tensor(table, dtype=torch.int64).reshape(len(rows), longest)

    @torch.no_grad()
    def classify(self, x: str | Sequence[str] | Tensor) -> list[list[tuple[str, float]]]:
        """All labels of each text with their scores, best first; above 0.5 a label is predicted.

        Args:
            x: Texts, one text, or feature numbers (n, L).

        Returns:
            For each text (label, score) pairs; a score is sigmoid(logit), which orders and decides
            but is no calibrated probability.
        """
        if isinstance(x, str):
            x = [x]
        features = x if isinstance(x, Tensor) else self.featurize(x)
        scores = torch.sigmoid(self(features.to(self.table.weight.device)).float()).tolist()
        return [
            sorted(zip(self.config.labels, row, strict=True), key=lambda pair: -pair[1])
            for row in scores
        ]


def _features(text: str, config: TextClassifierConfig) -> list[int]:
    """Distinct feature numbers in order of appearance, 1 to buckets."""
    text = text.lower()
    units = _WORD.findall(text) if config.level == "word" else list("".join(text.split()))
    found: dict[int, None] = {}
    for gram in _grams(units, config.ngrams):
        # crc32, unlike hash(), is the same in every process.
        found[zlib.crc32(gram.encode("utf-8", "surrogatepass")) % config.buckets + 1] = None
        if len(found) == config.max_features:
            break
    return list(found)


def _grams(units: Sequence[str], longest: int) -> Iterator[str]:
    for i in range(len(units)):
        for n in range(min(longest, i + 1)):
            yield " ".join(units[i - n : i + 1])


def example_input(model: TextClassifier, n: int, generator: torch.Generator) -> Tensor:
    """Feature numbers of ``n`` texts, (n, 12); each row the same whatever ``n``."""
    rows = [
        torch.randint(1, model.config.buckets + 1, (12,), generator=generator) for _ in range(n)
    ]
    return torch.stack(rows) if n else torch.empty(0, 12, dtype=torch.int64)
