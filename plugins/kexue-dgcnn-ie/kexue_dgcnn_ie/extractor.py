"""A DGCNN with its vocabulary and schema: texts in, facts out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kexue_dgcnn_ie.decoding import Fact, decode_objects, decode_subjects, distinct, with_inverses
from kexue_dgcnn_ie.dgcnn import DGCNN, DGCNNConfig, Rows
from kexue_dgcnn_ie.text import Vocabulary, windows
from kexue_dgcnn_ie.triples import Schema

__all__ = ["TripleExtractor", "example_input"]

VOCABULARY_FILE = "vocabulary.json"
SCHEMA_FILE = "schema.json"

#: Characters that two windows of a long text share: a fact no longer than this is whole in one.
OVERLAP = 128


class Window(NamedTuple):
    """A part of a text that is read at once: from ``start`` on, as character numbers."""

    text: int
    start: int
    tokens: list[int]


class TripleExtractor(DGCNN):
    """Extracts facts (subject, predicate, object) from texts.

    A new one numbers characters by their code points and predicates from 0 on, until
    :meth:`load_assets` or a recipe gives it a vocabulary and a schema.
    """

    def __init__(self, config: DGCNNConfig) -> None:
        super().__init__(config)
        points = (c for c in map(chr, range(0x20, 0x2FFFF)) if c.isprintable() and c == c.lower())
        self.vocabulary = Vocabulary("".join(c for _, c in zip(range(config.characters - 2), points, strict=False)))
        self.schema = Schema(tuple(f"predicate-{i}" for i in range(config.predicates)))

    def load_assets(self, folder: Path) -> None:
        """Read ``vocabulary.json`` and ``schema.json``."""
        characters = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
        if not isinstance(characters, str):
            raise ValueError(f"{VOCABULARY_FILE} must hold one text of all characters")
        schema = json.loads((folder / SCHEMA_FILE).read_text(encoding="utf-8"))
        if not isinstance(schema, dict) or schema.keys() != {"predicates", "inverse"}:
            raise ValueError(f"{SCHEMA_FILE} must hold predicates and inverse")
        self.set_assets(
            Vocabulary(characters), Schema(tuple(schema["predicates"]), dict(schema["inverse"]))
        )

    def set_assets(self, vocabulary: Vocabulary, schema: Schema) -> None:
        """Take a vocabulary and a schema.

        Raises:
            ValueError: They are not of the size that the config says.
        """
        for what, given, wanted in (
            ("characters", len(vocabulary), self.config.characters),
            ("predicates", len(schema.predicates), self.config.predicates),
        ):
            if given != wanted:
                raise ValueError(f"{given} {what}, and the model has {wanted}")
        self.vocabulary, self.schema = vocabulary, schema

    def save_assets(self, folder: Path) -> None:
        """Write ``vocabulary.json`` and ``schema.json``."""
        schema = {"predicates": self.schema.predicates, "inverse": self.schema.inverse}
        for name, value in ((VOCABULARY_FILE, self.vocabulary.characters), (SCHEMA_FILE, schema)):
            text = json.dumps(value, ensure_ascii=False, indent=1)
            (folder / name).write_text(f"{text}\n", encoding="utf-8", newline="\n")

    @torch.no_grad()
    def extract(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        start_threshold: float | None = None,
        end_threshold: float | None = None,
    ) -> list[list[Fact]]:
        """The facts of each text, as ``{"subject": piece, "predicate", "object": piece, "score"}``.

        A piece is ``{"text", "start", "end"}`` with ``text[start:end]`` its text. A score is in
        [0, 1]: p(subject) p(object, predicate | subject), where p of a span is the geometric mean
        of the probabilities of its start and end. Texts of any length are read in windows.

        Args:
            texts: Any; an empty one has no facts.
            batch_size: Windows that are read at once; it changes nothing but speed and memory.
            start_threshold, end_threshold: Probabilities above which a character is a start, or an
                end; those of the config where ``None``.
        """
        size = self.config.positions
        read = [
            Window(i, a, self.vocabulary.numbers(text[a:b]))
            for i, text in enumerate(texts)
            for a, b in windows(len(text), size, min(OVERLAP, size // 2))
            if text
        ]
        read.sort(key=lambda w: len(w.tokens))
        found: list[list[Fact]] = [[] for _ in texts]
        for i in range(0, len(read), batch_size):
            self._extract(texts, read[i : i + batch_size], found, start_threshold, end_threshold)
        order = self.schema.predicates
        return [distinct(with_inverses(facts, self.schema.inverse), order) for facts in found]

    def _extract(
        self,
        texts: Sequence[str],
        batch: Sequence[Window],
        found: list[list[Fact]],
        start: float | None,
        end: float | None,
    ) -> None:
        """Append the facts of some windows to those of their texts."""
        c = self.config
        thresholds = {
            "start": c.start_threshold if start is None else start,
            "end": c.end_threshold if end is None else end,
        }
        device = self.character.weight.device
        lengths = torch.tensor([len(w.tokens) for w in batch], device=device)
        rows = Rows.of(lengths, self.gap)
        tokens = torch.zeros(len(rows.text), dtype=torch.int64, device=device)
        tokens[rows.real] = torch.tensor([t for w in batch for t in w.tokens], device=device)
        encoded = self.encode(tokens, rows)
        subjects = decode_subjects(encoded.subject.exp(), lengths, **thresholds)
        if not len(subjects.owner):
            return
        spans = torch.stack([subjects.first, subjects.last], -1)
        scores = self.objects(encoded, subjects.owner, spans).exp()
        objects = decode_objects(scores, lengths[subjects.owner], **thresholds)
        subject = [column.tolist() for column in subjects]
        for k, p, first, last, score in zip(*(column.tolist() for column in objects), strict=True):
            window = batch[subject[0][k]]
            text = texts[window.text]

            def piece(a: int, b: int, text: str = text, at: int = window.start) -> dict[str, object]:
                return {"text": text[at + a : at + b + 1], "start": at + a, "end": at + b + 1}

            found[window.text].append(
                {
                    "subject": piece(subject[2][k], subject[3][k]),
                    "predicate": self.schema.predicates[p],
                    "object": piece(first, last),
                    "score": subject[4][k] * score,
                }
            )


def example_input(
    model: TripleExtractor, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Character numbers (n, 12) of texts of 5 to 12 characters, and a subject in each, (n, 2)."""
    tokens, spans = torch.zeros(n, 12, dtype=torch.int64), torch.zeros(n, 2, dtype=torch.int64)
    for row, span in zip(tokens, spans, strict=True):
        length = int(torch.randint(5, 13, (), generator=generator))
        row[:length] = torch.randint(1, model.config.characters, (length,), generator=generator)
        span[:] = torch.randint(0, length, (2,), generator=generator).sort().values
    return tokens, spans
