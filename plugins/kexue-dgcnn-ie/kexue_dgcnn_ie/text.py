"""Characters and their numbers, and long texts as windows."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["PADDING", "UNKNOWN", "Vocabulary", "normalize", "windows"]

PADDING, UNKNOWN = 0, 1


class _Normal(dict[int, int]):
    """Code point -> code point for ``str.translate``, filled as characters are met."""

    def __missing__(self, point: int) -> int:
        character = chr(point)
        if character.isspace() or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn"):
            character = " "
        for change in (lambda c: unicodedata.normalize("NFKC", c), str.lower):
            changed = change(character)
            if len(changed) == 1:
                character = changed
        self[point] = ord(character)
        return self[point]


_NORMAL = _Normal()


def normalize(text: str) -> str:
    """Full-width forms to plain ones, capitals to small letters, control characters to blanks.

    Character by character: the result has the length of ``text``, and an offset in one is an
    offset in the other.
    """
    return text.translate(_NORMAL)


class Vocabulary:
    """Numbers of characters: 0 is padding, 1 an unknown one.

    Args:
        characters: Those with a number of their own, from 2 on, after :func:`normalize`.
    """

    def __init__(self, characters: str) -> None:
        if len(set(characters)) != len(characters):
            raise ValueError("a character occurs twice in the vocabulary")
        self.characters = characters
        self._numbers = {c: i for i, c in enumerate(characters, 2)}
        self._table: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.characters) + 2

    def numbers(self, text: str) -> list[int]:
        """One number a character of ``text``."""
        get = self._numbers.get
        return [get(c, UNKNOWN) for c in normalize(text)]

    def look_up(self, text: str) -> npt.NDArray[np.int64]:
        """The same as an array: for many characters, from a table that fills as they are met."""
        if self._table is None:
            self._table = np.full(0x110000, -1, np.int32)
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        found = self._table[points]
        if len(found) and found.min() < 0:
            for point in np.unique(points[found < 0]).tolist():
                [self._table[point]] = self.numbers(chr(point))
            found = self._table[points]
        return found.astype(np.int64)

    @classmethod
    def of(cls, texts: Iterable[str], minimum: int = 2) -> Vocabulary:
        """The characters that occur at least ``minimum`` times, the most frequent first."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(normalize(text))
        kept = [(-n, c) for c, n in counts.items() if n >= minimum]
        return cls("".join(c for _, c in sorted(kept)))


def windows(length: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """(start, end) of windows over a text, none longer than ``size``, ``overlap`` apart at most."""
    start = 0
    while True:
        yield start, min(length, start + size)
        if start + size >= length:
            return
        start += size - overlap


def pad(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows filled up with :data:`PADDING` to the longest."""
    longest = max(map(len, rows), default=0)
    return [[*row, *[PADDING] * (longest - len(row))] for row in rows]
