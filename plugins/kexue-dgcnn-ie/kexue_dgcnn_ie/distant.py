"""Distant supervision: triples that other texts say, found in this one, as features.

Where both ends of a known triple occur in a text, the text may well say it. The features mark such
places, and the network learns how far to trust them. The dictionary holds triples of the training
data and is never saved with a model.

References:
    Mintz et al., Distant supervision for relation extraction without labeled data (ACL 2009)
    kexue.fm 6671
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from kexue_core.errors import ConfigError
from kexue_dgcnn_ie.triples import Sample, Triple

__all__ = ["Dictionary", "Match", "columns", "width"]


class Match(NamedTuple):
    """A known triple at one pair of places, (first, last) character each."""

    triple: Triple
    subject: tuple[int, int]
    object: tuple[int, int]


class Dictionary:
    """The triples of some texts, to be found in others.

    Args:
        samples: Labelled texts.

    Raises:
        ConfigError: pyahocorasick is not installed.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        try:
            import ahocorasick  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise ConfigError(
                "Distant supervision needs pyahocorasick",
                hint='pip install "kexue-dgcnn-ie[distant]"',
            ) from error
        self._texts: Counter[Triple] = Counter()
        self._known: dict[str, list[Triple]] = {}
        self._automaton: Any = ahocorasick.Automaton()
        for sample in samples:
            for triple in dict.fromkeys(sample.triples):
                if triple not in self._texts:
                    self._known.setdefault(triple.subject, []).append(triple)
                    for piece in (triple.subject, triple.object):
                        self._automaton.add_word(piece, piece)
                self._texts[triple] += 1
        self._automaton.make_automaton()

    def find(self, text: str, own: Collection[Triple] = ()) -> list[Match]:
        """The known triples whose subject and object both occur in ``text``, at all places.

        Args:
            text: Any.
            own: The labels of ``text``, where it is one of the texts of the dictionary: each counts
                once less, so that a text is told of a triple only if another one says it too.
        """
        if not self._texts:
            return []
        places: dict[str, list[tuple[int, int]]] = {}
        for last, piece in self._automaton.iter(text):
            places.setdefault(piece, []).append((last - len(piece) + 1, last))
        return [
            Match(triple, subject, object_)
            for piece in places
            for triple in self._known.get(piece, ())
            if triple.object in places and self._texts[triple] > (triple in own)
            for subject in places[piece]
            for object_ in places[triple.object]
        ]


def width(predicates: int) -> int:
    """Number of features: 2 for the subjects; again 2, and 2 a predicate, for the objects."""
    return 4 + 2 * predicates


def columns(matches: Iterable[Match], numbers: Mapping[str, int]) -> set[tuple[int, int]]:
    """Matches as (character, column) of features that are 1."""
    found: set[tuple[int, int]] = set()
    for triple, subject, object_ in matches:
        if triple.predicate in numbers:
            column = 4 + 2 * numbers[triple.predicate]
            for end in (0, 1):
                found |= {(subject[end], end), (subject[end], 2 + end)}
                found.add((object_[end], column + end))
    return found
