"""Labelled texts from a .jsonl file, and figures of several labels at once."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kexue_core.errors import DataError
from kexue_core.training import Split

__all__ = ["Texts", "f1_scores", "multi_hot", "read_texts", "split_of"]


@dataclass(frozen=True)
class Texts:
    """Texts with the names of their labels.

    Attributes:
        name: What records call the data.
        texts: The texts.
        labels: The labels of each, in the order of the file.
        fingerprint: sha256 of the file's contents.
    """

    name: str
    texts: list[str]
    labels: list[tuple[str, ...]]
    fingerprint: str

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All labels, in alphabetical order."""
        return tuple(sorted({label for labels in self.labels for label in labels}))

    def select(self, indices: Sequence[int]) -> Texts:
        """Those at ``indices``."""
        return Texts(
            self.name,
            [self.texts[i] for i in indices],
            [self.labels[i] for i in indices],
            self.fingerprint,
        )


def read_texts(path: Path) -> Texts:
    """Read lines ``{"text": ..., "labels": [...]}``, or with ``title`` and ``body`` for text.

    Args:
        path: ``.jsonl``, or ``.jsonl.gz``.

    Raises:
        DataError: The file or a line is not that.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="Name a .jsonl file") from error
    texts, labels = [], []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        try:
            row = json.loads(line)
            text = row["text"] if "text" in row else f"{row['title']}\n{row['body']}"
            texts.append(str(text))
            labels.append(tuple(str(label) for label in row["labels"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number} is no labelled text",
                hint='A line is {"text": "...", "labels": ["..."]}',
            ) from error
    if not texts:
        raise DataError(f"{path} is empty", hint="Name another file with --data")
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return Texts(name, texts, labels, hashlib.sha256(content).hexdigest())


def split_of(n: int, split: Split) -> list[int]:
    """Which of ``n`` samples belong to a split: every tenth is test, the one before it val."""
    wanted = {"train": range(8), "val": (8,), "test": (9,)}[split]
    return [i for i in range(n) if i % 10 in wanted]


def multi_hot(labels: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> Tensor:
    """0 / 1, (n, labels), float32; labels that are not in the vocabulary are left out."""
    number = {label: i for i, label in enumerate(vocabulary)}
    target = torch.zeros(len(labels), len(number))
    for row, names in zip(target, labels, strict=True):
        row[[number[name] for name in names if name in number]] = 1
    return target


def f1_scores(predicted: Tensor, target: Tensor) -> tuple[float, float]:
    """Micro and macro F1 in [0, 1] of boolean (n, labels).

    Macro is the mean over the labels that the target has at all; a label that is never predicted
    counts as 0.
    """
    predicted, target = predicted.bool(), target.bool()
    hits = (predicted & target).sum(0).double()
    total = (predicted.sum(0) + target.sum(0)).double()
    micro = 2 * hits.sum() / total.sum().clamp(min=1)
    there = target.any(0)
    macro = (2 * hits / total.clamp(min=1))[there].mean() if there.any() else torch.zeros(())
    return float(micro), float(macro)
