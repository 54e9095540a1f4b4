"""Precision, recall and F1 over exact triples, with and without repair of their spelling."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kexue_dgcnn_ie.triples import Triple

__all__ = ["Score", "micro_score", "per_predicate", "repair"]

_TITLE = re.compile(r"《([^《》]*)》")


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of triples and what follows from them.

    Attributes:
        found: Right predictions.
        predicted: Predictions.
        true: Triples to be found.
    """

    found: int
    predicted: int
    true: int

    @property
    def precision(self) -> float:
        """found / predicted, in [0, 1]; 0 without predictions."""
        return self.found / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """found / true, in [0, 1]; 0 where nothing is to be found."""
        return self.found / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """2 found / (predicted + true), in [0, 1]; 0 without either."""
        total = self.predicted + self.true
        return 2 * self.found / total if total else 0.0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.found + other.found, self.predicted + other.predicted, self.true + other.true
        )


def repair(text: str, triples: Iterable[Triple]) -> set[Triple]:
    """Triples as the competition compares them, after the author's rules.

    Letters are small and the marks of a title are taken off; a subject that is a part of a title
    in ``text``, and occurs there only once, becomes the whole title.
    """
    text = text.lower()
    titles = [title.strip() for title in _TITLE.findall(text)]
    repaired = set()
    for s, p, o in triples:
        subject, object_ = (piece.strip("《》").strip().lower() for piece in (s, o))
        if text.count(subject) == 1:
            subject = next((title for title in titles if subject in title), subject)
        repaired.add(Triple(subject, p, object_))
    return repaired


def micro_score(
    texts: Sequence[str],
    predicted: Sequence[Iterable[Triple]],
    true: Sequence[Iterable[Triple]],
    *,
    repaired: bool = True,
) -> Score:
    """Counts over all texts; a triple is right if subject, predicate and object are all exact."""
    total = Score(0, 0, 0)
    for text, ours, theirs in zip(texts, predicted, true, strict=True):
        a = repair(text, ours) if repaired else set(ours)
        b = repair(text, theirs) if repaired else set(theirs)
        total += Score(len(a & b), len(a), len(b))
    return total


def per_predicate(
    texts: Sequence[str],
    predicted: Sequence[Iterable[Triple]],
    true: Sequence[Iterable[Triple]],
    *,
    repaired: bool = True,
) -> dict[str, Score]:
    """The counts of each predicate, those with most true triples first."""
    counts: tuple[Counter[str], Counter[str], Counter[str]] = (Counter(), Counter(), Counter())
    for text, ours, theirs in zip(texts, predicted, true, strict=True):
        a = repair(text, ours) if repaired else set(ours)
        b = repair(text, theirs) if repaired else set(theirs)
        for counter, triples in zip(counts, (a & b, a, b), strict=True):
            counter.update(t.predicate for t in triples)
    found, guessed, there = counts
    names = sorted(there | guessed, key=lambda p: (-there[p], p))
    return {p: Score(found[p], guessed[p], there[p]) for p in names}
