"""Pairs to learn writing from, drawn from all sources, whatever the vectors' batch is about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kexue_roformer_sim.data import SHARE, TokenPairs
from kexue_roformer_sim.tokenizer import pad

__all__ = ["WritingStream"]


class WritingStream:
    """Synonyms, and texts to be restored from what holes leave of them.

    A batch of one source serves vectors; half of the sources, those of inference, have no synonyms
    at all. Writing sees a bit of everything in each step instead.

    Args:
        pairs: The training pairs; of each source as many synonyms are drawn as if it had n^SHARE.
        texts: Tokens of further texts.
    """

    def __init__(self, pairs: TokenPairs, texts: Sequence[Sequence[int]] = ()) -> None:
        self._rows = pairs.rows
        self._texts = texts
        a, b, source = pairs.synonyms()
        order = source.argsort(stable=True)
        self._a, self._b = a[order], b[order]
        counts = source.bincount() if len(source) else torch.ones(1)
        self._counts = counts[counts > 0]
        self._starts = self._counts.cumsum(0) - self._counts
        shares = self._counts.double() ** SHARE
        self._ends = (shares.cumsum(0) / shares.sum())[:-1]

    def synonyms(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Texts (n, L1) and what to write after them (n, L2); no rows if no pair is synonymous.

        Args:
            noise: (n, 3), uniform in [0, 1): which source, which of its pairs, which way round.
        """
        if not len(self._a):
            return pad([]), pad([])
        source = torch.bucketize(noise[:, 0].double(), self._ends, right=True)
        count = self._counts[source]
        row = self._starts[source] + (noise[:, 1].double() * count).long().clamp(max=count - 1)
        a, b = self._a[row], self._b[row]
        turned = noise[:, 2] < 0.5
        first, second = torch.where(turned, b, a), torch.where(turned, a, b)
        return self._padded(first), self._padded(second)

    def texts(self, noise: Tensor) -> Tensor:
        """Texts (n, L), those of pairs and the others.

        Args:
            noise: (n,), uniform in [0, 1).
        """
        count = len(self._rows) + len(self._texts)
        chosen = (noise.double() * count).long().clamp(max=count - 1)
        return self._padded(chosen)

    def _padded(self, numbers: Tensor) -> Tensor:
        paired = len(self._rows)
        return pad(
            [self._rows[i] if i < paired else self._texts[i - paired] for i in numbers.tolist()]
        )
