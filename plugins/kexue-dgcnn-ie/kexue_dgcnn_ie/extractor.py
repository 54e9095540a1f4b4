"""A DGCNN with its vocabulary and schema: texts in, facts out."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kexue_core.packing import fingerprint
from kexue_dgcnn_ie import distant
from kexue_dgcnn_ie.decoding import (
    Fact,
    Spans,
    decode_objects,
    decode_subjects,
    distinct,
    with_inverses,
)
from kexue_dgcnn_ie.dgcnn import DGCNN, DGCNNConfig, Encoded, Rows
from kexue_dgcnn_ie.packed import Packed, can_pack, packed
from kexue_dgcnn_ie.text import Vocabulary, normalize, windows
from kexue_dgcnn_ie.triples import Schema, Triple
from kexue_dgcnn_ie.words import Lexicon

__all__ = ["Piece", "TripleExtractor", "example_input"]

VOCABULARY_FILE = "vocabulary.json"
SCHEMA_FILE = "schema.json"
WORDS_FILE = "words.json"

#: Characters that two windows of a long text share: a fact no longer than this is whole in one.
OVERLAP = 128


#: Subjects in some pieces and their objects, for the thresholds of a start and an end.
Finder: TypeAlias = "Callable[[Sequence[Piece], float, float], tuple[Spans, Spans]]"


class Piece(NamedTuple):
    """A text, or a window of a long one, as the network reads it.

    Attributes:
        text: Its characters.
        number: Which of the given texts it belongs to.
        start: Where in that text it begins.
        own: In training the text's labels, which distant supervision must not give away.
    """

    text: str
    number: int = 0
    start: int = 0
    own: Collection[Triple] = ()


class TripleExtractor(DGCNN):
    """Extracts facts (subject, predicate, object) from texts.

    A new one numbers characters by their code points and predicates from 0 on, until
    :meth:`load_assets` or a recipe gives it a vocabulary and a schema.

    Attributes:
        vocabulary: Numbers of characters.
        schema: Names of predicates.
        lexicon: Numbers of words, for a model with word vectors.
        dictionary: Known triples, for a model with distant supervision; not saved. Without one its
            features are 0.
    """

    def __init__(self, config: DGCNNConfig) -> None:
        super().__init__(config)
        self.vocabulary = Vocabulary(_first_characters(config.characters - 2))
        self.schema = Schema(tuple(f"predicate-{i}" for i in range(config.predicates)))
        self.lexicon = Lexicon([str(i) for i in range(config.words - 1)])
        self.dictionary: distant.Dictionary | None = None
        self._copy: tuple[Any, TripleExtractor] | None = None

    def load_assets(self, folder: Path) -> None:
        """Read ``vocabulary.json`` and ``schema.json``; with word vectors ``words.json`` too."""
        characters = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
        if not isinstance(characters, str):
            raise ValueError(f"{VOCABULARY_FILE} must hold one text of all characters")
        schema = json.loads((folder / SCHEMA_FILE).read_text(encoding="utf-8"))
        if not isinstance(schema, dict) or schema.keys() != {"predicates", "inverse"}:
            raise ValueError(f"{SCHEMA_FILE} must hold predicates and inverse")
        words: list[str] = []
        if self.config.words:
            words = json.loads((folder / WORDS_FILE).read_text(encoding="utf-8"))
        self.set_assets(
            Vocabulary(characters),
            Schema(tuple(schema["predicates"]), dict(schema["inverse"])),
            Lexicon(words),
        )

    def set_assets(
        self, vocabulary: Vocabulary, schema: Schema, lexicon: Lexicon | None = None
    ) -> None:
        """Take a vocabulary, a schema and the words of the word vectors.

        Raises:
            ValueError: They are not of the size that the config says.
        """
        for what, given, wanted in (
            ("characters", len(vocabulary), self.config.characters),
            ("predicates", len(schema.predicates), self.config.predicates),
            ("words", len(lexicon or ()) or 1, self.config.words or 1),
        ):
            if given != wanted:
                raise ValueError(f"{given} {what}, and the model has {wanted}")
        self.vocabulary, self.schema, self.lexicon = vocabulary, schema, lexicon or Lexicon([])

    def save_assets(self, folder: Path) -> None:
        """Write what :meth:`load_assets` reads."""
        schema = {"predicates": self.schema.predicates, "inverse": self.schema.inverse}
        files: dict[str, object] = {
            VOCABULARY_FILE: self.vocabulary.characters,
            SCHEMA_FILE: schema,
        }
        if self.config.words:
            files[WORDS_FILE] = self.lexicon.words
        for name, value in files.items():
            text = json.dumps(value, ensure_ascii=False, indent=1)
            (folder / name).write_text(f"{text}\n", encoding="utf-8", newline="\n")

    def read(self, pieces: Sequence[Piece]) -> Encoded:
        """Look up the characters, words and known triples of some pieces, and encode them.

        Pieces may be empty, and are at most ``config.positions`` long.
        """
        c = self.config
        device = self.character.weight.device
        lengths = torch.tensor([len(p.text) for p in pieces], dtype=torch.int64, device=device)
        rows = Rows.of(lengths, self.gap)

        def laid(numbers: list[int]) -> Tensor:
            table = torch.zeros(len(rows.text), dtype=torch.int64, device=device)
            found = torch.tensor(numbers, dtype=torch.int64, device=device)
            return table.index_copy(0, rows.real, found)

        words = features = None
        if c.words:
            words = laid([n for p in pieces for n in self.lexicon.of_characters(p.text)])
        if c.distant:
            features = self._features(pieces, rows)
        tokens = laid(self.vocabulary.numbers("".join(p.text for p in pieces)))
        return self.encode(tokens, rows, words=words, distant=features)

    def _features(self, pieces: Sequence[Piece], rows: Rows) -> Tensor:
        """Features of distant supervision, (T, 4 + 2 P)."""
        table = torch.zeros(
            len(rows.text),
            distant.width(self.config.predicates),
            dtype=self.character.weight.dtype,
            device=rows.text.device,
        )
        if self.dictionary is not None:
            numbers = {p: i for i, p in enumerate(self.schema.predicates)}
            ones = [
                (start + row, column)
                for piece, start in zip(pieces, rows.starts.tolist(), strict=True)
                for row, column in distant.columns(
                    self.dictionary.find(piece.text, piece.own), numbers
                )
            ]
            places = torch.tensor(ones, dtype=torch.int64, device=table.device).reshape(-1, 2)
            table[places[:, 0], places[:, 1]] = 1
        return table

    @torch.no_grad()
    def extract(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        dtype: Literal["auto", "float32", "bfloat16"] | None = None,
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
            dtype: What to compute in; ``None`` for that of the weights, ``"auto"`` for bfloat16
                where the processor has instructions for it, and else float32. On a CPU the weights
                are packed for it (:mod:`.packed`), elsewhere another one than theirs makes a copy;
                either is kept until they change.
            start_threshold, end_threshold: Probabilities above which a character is a start, or an
                end; those of the config where ``None``.
        """
        weight = self.character.weight
        wanted = weight.dtype if dtype is None else _dtype(dtype, weight)
        if type(self).read is TripleExtractor.read and can_pack(self, wanted):
            find: Finder = functools.partial(self._find_packed, packed(self, wanted))
        elif wanted == weight.dtype:
            find = self._find
        else:
            find = self._in(wanted)._find
        c = self.config
        start = c.start_threshold if start_threshold is None else start_threshold
        end = c.end_threshold if end_threshold is None else end_threshold
        size = c.positions
        pieces = [
            Piece(text[a:b], i, a)
            for i, text in enumerate(texts)
            for a, b in windows(len(text), size, min(OVERLAP, size // 2))
            if text
        ]
        pieces.sort(key=lambda p: len(p.text))  # little filling in attention
        found: list[list[Fact]] = [[] for _ in texts]
        for i in range(0, len(pieces), batch_size):
            batch = pieces[i : i + batch_size]
            self._name(batch, *find(batch, start, end), found)
        order = self.schema.predicates
        return [distinct(with_inverses(facts, self.schema.inverse), order) for facts in found]

    def _in(self, dtype: torch.dtype) -> TripleExtractor:
        """A copy in another dtype, made anew only after a parameter has changed."""
        state = dtype, fingerprint(self)
        if self._copy is None or self._copy[0] != state:
            self._copy = None
            copy_ = copy.deepcopy(self).to(dtype)
            # In a tuple, so that it is no submodule: it is neither trained nor saved.
            self._copy = state, copy_
        found = self._copy[1]
        found.train(self.training)
        found.dictionary = self.dictionary
        return found

    def _find(self, pieces: Sequence[Piece], start: float, end: float) -> tuple[Spans, Spans]:
        """Subjects in some pieces, and their objects."""
        encoded = self.read(pieces)
        lengths = encoded.rows.lengths
        subjects = decode_subjects(encoded.subject.exp(), lengths, start=start, end=end)
        if not len(subjects.owner):
            return subjects, subjects
        spans = torch.stack([subjects.first, subjects.last], -1)
        scores = self.objects(encoded, subjects.owner, spans).exp()
        return subjects, decode_objects(scores, lengths[subjects.owner], start=start, end=end)

    def _find_packed(
        self, network: Packed, pieces: Sequence[Piece], start: float, end: float
    ) -> tuple[Spans, Spans]:
        """The same, by the packed network."""
        tokens = self.vocabulary.look_up("".join(p.text for p in pieces))
        lengths = np.array([len(p.text) for p in pieces], np.int64)
        return network(tokens, lengths, start=start, end=end)

    def _name(
        self,
        pieces: Sequence[Piece],
        subjects: Spans,
        objects: Spans,
        found: list[list[Fact]],
    ) -> None:
        """Append the facts of some pieces to those of their texts."""
        owners, _, firsts, lasts, beliefs = (column.tolist() for column in subjects)
        for k, p, first, last, score in zip(*(column.tolist() for column in objects), strict=True):
            piece = pieces[owners[k]]
            found[piece.number].append(
                {
                    "subject": _cut(piece, firsts[k], lasts[k]),
                    "predicate": self.schema.predicates[p],
                    "object": _cut(piece, first, last),
                    "score": beliefs[k] * score,
                }
            )


def _dtype(name: str, like: Tensor) -> torch.dtype:
    """The dtype of a name, for tensors where ``like`` is."""
    if name == "auto":
        if like.device.type == "cpu":
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        else:
            fast = like.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ValueError(f"dtype must be auto, {' or '.join(known)}, not {name!r}")
    return known[name]


def _cut(piece: Piece, first: int, last: int) -> dict[str, str | int]:
    """Characters ``first`` to ``last`` of a piece, at their place in the whole text."""
    text = piece.text[first : last + 1]
    return {"text": text, "start": piece.start + first, "end": piece.start + last + 1}


def _first_characters(n: int) -> str:
    """The first ``n`` characters of Unicode that :func:`.text.normalize` leaves as they are."""
    points = map(chr, range(0x20, 0x110000))
    kept = (c for c in points if c.isprintable() and normalize(c) == c)
    return "".join(itertools.islice(kept, n))


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
