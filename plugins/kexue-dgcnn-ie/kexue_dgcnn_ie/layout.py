"""Texts in blocks, each of texts of similar length filled up to its longest."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from kexue_dgcnn_ie.dgcnn import SIMILAR

__all__ = ["Block", "Integers", "Layout"]

Integers: TypeAlias = npt.NDArray[np.int64]


class Block(NamedTuple):
    """Texts of similar length.

    Attributes:
        first: Number of the first, as they are ordered here.
        texts: How many.
        longest: Places of each.
        row: Row of the first place.
        padded: The same among the rows with gaps.
    """

    first: int
    texts: int
    longest: int
    row: int
    padded: int

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.row, self.row + self.texts * self.longest)


class Layout:
    """Where B texts lie: T rows are the places of all blocks, one after the other.

    Args:
        lengths: Characters of each text, (B,), at least 1.
        gap: Empty rows before, between and after texts in the second array of rows, which the
            convolutions read.

    Attributes:
        order: Which of the given texts each one is, (B,): the longest first. Below, texts are
            numbered in this order.
        lengths: Their lengths, (B,).
        blocks: The blocks.
        text, position: Of each row, (T,).
        real: Whether it is a character and no filling, (T,).
        padded: How many rows there are with the gaps.
        filling: Which of them are filling.
    """

    def __init__(self, lengths: Integers, gap: int) -> None:
        self.order = np.argsort(-lengths, kind="stable")
        self.lengths = lengths[self.order]
        self.blocks: list[Block] = []
        texts, positions, filling = [], [], []
        first = row = 0
        padded = gap
        while first < len(lengths):
            longest = int(self.lengths[first])
            count = int(np.searchsorted(-self.lengths, -SIMILAR * longest, "right")) - first
            self.blocks.append(Block(first, count, longest, row, padded))
            places = np.arange(longest)
            texts.append(np.repeat(np.arange(first, first + count), longest))
            positions.append(np.tile(places, count))
            starts = padded + np.arange(count) * (longest + gap)
            past = places >= self.lengths[first : first + count, None]
            filling.append((starts[:, None] + places)[past])
            first, row = first + count, row + count * longest
            padded += count * (longest + gap)
        self.padded = padded + gap
        self.text, self.position = np.concatenate(texts), np.concatenate(positions)
        self.real = self.position < self.lengths[self.text]
        self.filling = np.concatenate(filling)

    def neighbours(self, rows: Integers, distance: int, otherwise: int) -> Integers:
        """The rows ``distance`` characters before, at and after some characters, (len, 3);
        ``otherwise`` where the text has no such character.
        """
        place = self.position.take(rows)
        end = self.lengths.take(self.text.take(rows))
        before = np.where(place >= distance, rows - distance, otherwise)
        after = np.where(place + distance < end, rows + distance, otherwise)
        return np.stack([before, rows, after], -1)
