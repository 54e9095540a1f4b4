"""Labelled texts: a .jsonl of texts with their triples, and the schema of predicates."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from kexue_core.errors import DataError

__all__ = ["Sample", "Schema", "Triple", "Triples", "read_schema", "read_texts", "read_triples"]

LINE = '{"text": "...", "spo": [["subject", "predicate", "object"], ...]}'


class Triple(NamedTuple):
    """(subject, predicate, object), all text."""

    subject: str
    predicate: str
    object: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A text with the triples that it says."""

    text: str
    triples: tuple[Triple, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """The predicates, in the order of the model's outputs.

    Attributes:
        predicates: Their names.
        inverse: Predicate -> the one that holds the other way round (husband and wife).
    """

    predicates: tuple[str, ...]
    inverse: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.predicates or len(set(self.predicates)) != len(self.predicates):
            raise ValueError("predicates must be distinct names, at least one")
        for name in (*self.inverse, *self.inverse.values()):
            if name not in self.predicates:
                raise ValueError(f"{name!r} has an inverse and is no predicate")

    @classmethod
    def of(cls, samples: Iterable[Sample], *, share: float = 0.95, least: int = 20) -> Schema:
        """The predicates of labelled texts, the most frequent first.

        Two are inverse to each other where ``share`` of the triples of each, and at least ``least``
        of them, have the other one the other way round in the same text.
        """
        counts: Counter[str] = Counter()
        turned: Counter[tuple[str, str]] = Counter()
        for sample in samples:
            there = set(sample.triples)
            pairs: dict[tuple[str, str], list[str]] = {}
            for s, p, o in there:
                pairs.setdefault((s, o), []).append(p)
            for s, p, o in there:
                counts[p] += 1
                turned.update((p, q) for q in pairs.get((o, s), ()))
        inverse = {
            p: q
            for (p, q), n in turned.items()
            if n >= max(least, share * counts[p]) and turned[q, p] >= share * counts[q]
        }
        ordered = sorted(counts, key=lambda p: (-counts[p], p))
        return cls(tuple(ordered), dict(sorted(inverse.items())))


@dataclass(frozen=True)
class Triples:
    """Labelled texts of one file.

    Attributes:
        name: What records call the data.
        samples: The texts.
        fingerprint: sha256 of the file's contents.
        schema: The schema that they were held against, or ``None``.
    """

    name: str
    samples: list[Sample]
    fingerprint: str
    schema: Schema | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def select(self, indices: Sequence[int]) -> Triples:
        """Those at ``indices``."""
        return replace(self, samples=[self.samples[i] for i in indices])


def read_schema(path: Path) -> Schema:
    """Read ``{"predicates": ["husband", "wife", ...], "inverse": {"husband": "wife", ...}}``.

    Raises:
        DataError: The file is not that; the field is named.
    """
    hint = 'It holds {"predicates": ["...", ...], "inverse": {"...": "...", ...}}'
    try:
        content = json.loads(_contents(path))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}", hint=hint) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is no JSON object", hint=hint)
    if unknown := sorted(content.keys() - {"predicates", "inverse"}):
        raise DataError(f"{path}: unknown key {unknown[0]!r}", hint=hint)
    predicates, inverse = content.get("predicates"), content.get("inverse", {})
    if not isinstance(predicates, list) or not all(isinstance(p, str) for p in predicates):
        raise DataError(f"{path}: predicates must be a list of names", hint=hint)
    if not isinstance(inverse, dict) or not all(isinstance(p, str) for p in inverse.values()):
        raise DataError(f"{path}: inverse must map names to names", hint=hint)
    try:
        return Schema(tuple(predicates), inverse)
    except ValueError as error:
        raise DataError(f"{path}: {error}", hint=hint) from error


def read_triples(path: Path, schema: Schema | None = None) -> Triples:
    """Read lines ``{"text": ..., "spo": [[subject, predicate, object], ...]}``.

    Args:
        path: ``.jsonl``, or ``.jsonl.gz``.
        schema: Where given, there may be no other predicates.

    Raises:
        DataError: The file cannot be read, or a line is not that: line and field are named.
    """
    content = _contents(path)
    samples = []
    for number, line in enumerate(content.decode("utf-8", "replace").split("\n"), 1):
        if line.strip():
            samples.append(_sample(line, f"{path}, line {number}", schema))
    if not samples:
        raise DataError(f"{path} is empty", hint="Name another file with --data")
    return Triples(_stem(path), samples, hashlib.sha256(content).hexdigest(), schema)


def read_texts(path: Path) -> list[str]:
    """The texts of a file without labels: one a line, or lines ``{"text": ...}`` of a ``.jsonl``.

    ``.gz`` is unpacked. Blank lines are left out.

    Raises:
        DataError: The file cannot be read, or a line of a ``.jsonl`` has no text.
    """
    lines = _contents(path).decode("utf-8", "replace").split("\n")
    if not path.name.removesuffix(".gz").endswith(".jsonl"):
        return [line.rstrip("\r") for line in lines if line.strip()]
    texts = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            texts.append(_text(_object(line, where), where))
    return texts


def _contents(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}", hint="Name a .jsonl file") from error


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}", hint=f"A line is {LINE}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object", hint=f"A line is {LINE}")
    return row


def _text(row: dict[str, Any], where: str) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        problem = "is missing" if "text" not in row else f"is {text!r:.40} and no text"
        raise DataError(f"{where}: text {problem}", hint=f"A line is {LINE}")
    return text


def _sample(line: str, where: str, schema: Schema | None) -> Sample:
    row = _object(line, where)
    text = _text(row, where)
    given = row.get("spo")
    if not isinstance(given, list):
        problem = "is missing" if "spo" not in row else f"is {given!r:.40} and no list"
        raise DataError(f"{where}: spo {problem}", hint=f"A line is {LINE}")
    triples: dict[Triple, None] = {}
    for i, item in enumerate(given):
        field_ = f"{where}: spo[{i}]"
        if not isinstance(item, list) or len(item) != 3:
            raise DataError(
                f"{field_} is {item!r:.60} and no list of three", hint=f"A line is {LINE}"
            )
        triple = Triple(*item)
        for name, value in triple._asdict().items():
            if not isinstance(value, str):
                raise DataError(
                    f"{field_}: the {name} is {value!r:.40} and no text", hint=f"A line is {LINE}"
                )
            if name != "predicate" and value not in text:
                raise DataError(
                    f"{field_}: the {name} {value!r:.40} does not occur in the text",
                    hint="Subjects and objects are written as the text writes them",
                )
        if schema is not None and triple.predicate not in schema.predicates:
            raise DataError(
                f"{field_}: the predicate {triple.predicate!r} is not in the schema",
                hint=f"It has {', '.join(schema.predicates[:10])}",
            )
        if all(triple):  # DuIE has a handful with an empty object
            triples[triple] = None
    return Sample(text, tuple(triples))
