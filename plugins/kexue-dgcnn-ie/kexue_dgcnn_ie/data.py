"""The splits of a file of labelled texts, by index for the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from kexue_core.errors import DataError
from kexue_core.training import Batch, Split
from kexue_dgcnn_ie.triples import Sample, Triples, read_schema, read_triples

__all__ = ["LabelledTexts", "open_triples"]

#: What a file of another split is called beside ``NAME.train.jsonl``.
ENDINGS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("valid", "val", "dev"),
    "test": ("test",),
}


class LabelledTexts:
    """Labelled texts of one split."""

    def __init__(self, name: str, samples: list[Sample], fingerprint: str) -> None:
        self.name = name
        self.samples = samples
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Sequence[int]) -> Batch:
        """``index`` (n,): texts are made into tensors by the step, which swaps entities first."""
        return {"index": torch.tensor(list(indices), dtype=torch.int64)}


def open_triples(path: Path, split: Split) -> Triples:
    """One split of labelled texts.

    A file ``NAME.train.jsonl`` is the training split, and ``NAME.valid.jsonl`` (or ``val``,
    ``dev``) and ``NAME.test.jsonl`` beside it are the others, with or without ``.gz``. Of any other
    file every tenth text is test, and the one before it validation. ``NAME.schema.json`` beside it
    says which predicates there are; without it they are those of the training texts.

    Raises:
        DataError: There is no such file, or a line of it is wrong.
    """
    name = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".train")
    beside = path.with_name(f"{name}.schema.json")
    schema = read_schema(beside) if beside.exists() else None
    if ".train." not in path.name:
        whole = read_triples(path, schema)
        wanted = {"train": range(8), "val": (8,), "test": (9,)}[split]
        return whole.select([i for i in range(len(whole)) if i % 10 in wanted])
    for ending in ENDINGS[split]:
        beside = path.with_name(path.name.replace(".train.", f".{ending}."))
        if beside.exists():
            return read_triples(beside, schema)
    raise DataError(
        f"There is no {split} split beside {path}",
        hint=f"Put {path.name.replace('.train.', f'.{ENDINGS[split][0]}.')} there",
    )
