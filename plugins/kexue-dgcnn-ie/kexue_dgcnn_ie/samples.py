"""What a training step sees: texts with entities swapped, subjects drawn, targets as indices."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kexue_dgcnn_ie.triples import Sample, Triple

__all__ = [
    "Drawn",
    "Labels",
    "Occurrences",
    "Span",
    "Swap",
    "Targets",
    "assemble",
    "draw_subjects",
    "label",
    "occurrences",
]

Occurrences = Literal["first", "all"]

#: (first, last) character of a piece of text, both inside.
Span = tuple[int, int]


def occurrences(text: str, piece: str, which: Occurrences) -> list[Span]:
    """Where ``piece`` is in ``text``: its first place, or every one."""
    found = []
    start = text.find(piece)
    while start >= 0:
        found.append((start, start + len(piece) - 1))
        if which == "first":
            break
        start = text.find(piece, start + 1)
    return found


class Labels(NamedTuple):
    """Subjects of a text, each with its objects (predicate number, first, last)."""

    subjects: dict[Span, list[tuple[int, int, int]]]


def label(
    sample: Sample, numbers: dict[str, int], *, which: Occurrences = "all", longest: int = 512
) -> Labels:
    """Find the triples of a sample in the first ``longest`` characters of its text."""
    subjects: dict[Span, list[tuple[int, int, int]]] = {}
    text = sample.text[:longest]
    for s, p, o in sample.triples:
        if p not in numbers:
            continue
        objects = occurrences(text, o, which)
        for span in occurrences(text, s, which):
            found = subjects.setdefault(span, [])
            found += [(numbers[p], *place) for place in objects]
    return Labels(subjects)


class Swap:
    """Replace one (subject, object) of a text by one of another text with the same predicate.

    Args:
        samples: The training texts, whose triples are drawn from.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._pairs: dict[str, list[tuple[str, str]]] = {}
        for sample in samples:
            for s, p, o in sample.triples:
                self._pairs.setdefault(p, []).append((s, o))

    def __call__(self, sample: Sample, source: random.Random) -> Sample:
        """A new sample; every triple of the old one is rewritten as the text is."""
        if not sample.triples:
            return sample
        old = source.choice(sample.triples)
        subject, object_ = source.choice(self._pairs[old.predicate])

        def swap(piece: str) -> str:
            return piece.replace(old.subject, subject).replace(old.object, object_)

        text = swap(sample.text)
        triples = (Triple(swap(s), p, swap(o)) for s, p, o in sample.triples)
        # A replacement may break another entity that overlaps the one replaced.
        kept = tuple(t for t in triples if t.subject in text and t.object in text)
        return Sample(text, kept)


class Drawn(NamedTuple):
    """A chosen subject with its objects; a wrong one has none."""

    span: Span
    objects: list[tuple[int, int, int]]


def draw_subjects(labels: Labels, source: random.Random, *, most: int, wrong: float) -> list[Drawn]:
    """Up to ``most`` true subjects of a text, and with probability ``wrong`` an odd one.

    The odd one joins the start of one subject and the end of another, at or after it: most often it
    is no subject, and its lack of objects is learnt. With ``most`` 1 every subject is drawn so, as
    the author does.
    """
    spans = list(labels.subjects)
    if not spans:
        return []

    def join() -> Drawn:
        start = source.choice(spans)[0]
        span = start, source.choice([last for _, last in spans if last >= start])
        return Drawn(span, labels.subjects.get(span, []))

    if most == 1:
        return [join()]
    chosen = spans if len(spans) <= most else source.sample(spans, most)
    drawn = [Drawn(span, labels.subjects[span]) for span in chosen]
    if len(spans) > 1 and source.random() < wrong:
        odd = join()
        if odd.span not in labels.subjects:
            drawn.append(odd)
    return drawn


class Targets(NamedTuple):
    """What a step is trained towards, for texts of N characters in all.

    Attributes:
        subject: Places of 1 among the N x 2 starts and ends of subjects.
        texts: The text of each drawn subject, (S,).
        spans: Its first and last character, (S, 2).
        object: Places of 1 among the N' x P x 2 starts and ends of their objects.
    """

    subject: Tensor
    texts: Tensor
    spans: Tensor
    object: Tensor


def assemble(
    lengths: Sequence[int],
    labels: Sequence[Labels],
    drawn: Sequence[Sequence[Drawn]],
    predicates: int,
) -> Targets:
    """Join the samples of a batch; see :class:`Targets`."""
    subject, object_ = set(), set()
    texts, spans = [], []
    offset = own = 0  # where a text begins among the N characters, and among the N'
    for i, (length, found, subjects) in enumerate(zip(lengths, labels, drawn, strict=True)):
        for first, last in found.subjects:
            subject |= {2 * (offset + first), 2 * (offset + last) + 1}
        for span, objects in subjects:
            texts.append(i)
            spans.append(span)
            for p, first, last in objects:
                object_.add(2 * ((own + first) * predicates + p))
                object_.add(2 * ((own + last) * predicates + p) + 1)
            own += length
        offset += length
    return Targets(
        torch.tensor(sorted(subject), dtype=torch.int64),
        torch.tensor(texts, dtype=torch.int64),
        torch.tensor(spans, dtype=torch.int64).reshape(-1, 2),
        torch.tensor(sorted(object_), dtype=torch.int64),
    )
