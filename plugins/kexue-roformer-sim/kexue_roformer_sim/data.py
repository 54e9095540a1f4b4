"""Training and measuring data of the recipes: pairs as tokens, held-out pairs by their source."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from kexue_core.training import Batch
from kexue_roformer_sim.texts import NLI, Pair
from kexue_roformer_sim.tokenizer import Tokenizer, pad

__all__ = ["HeldOut", "TokenPairs", "fingerprint"]

#: A source of n pairs is drawn from as if it had n^SHARE: large ones do not drown the small.
SHARE = 0.5

#: How often all pairs are put into new blocks before the blocks repeat.
ROUNDS = 4

#: Labels above 1 are grades 0 to 5 or classes 2 to 4 of inference: from here on a pair is alike.
ALIKE = 4

#: Sources whose alike pairs do not say the same both ways: nothing to learn rewriting from.
ASYMMETRIC = ("nli", "inlid", "paws", "triplet")


class TokenPairs:
    """Pairs to train on, by blocks. Rare sources come several times an epoch.

    Within a block of one source everybody else's partner is about the same things, so finding one's
    own says more than finding it among questions from everywhere.

    Attributes:
        texts: The distinct texts.
        rows: Their tokens.
        sources: Names of the sources, in the order of their numbers.

    Args:
        name: For records.
        pairs: Read from files.
        tokenizer: Makes tokens of them.
        max_length: Tokens of a text.
        block: Pairs of an item, all of one source; 1 for pairs in any order.
        favoured: How many times as often sources come whose names begin so.
    """

    def __init__(
        self,
        name: str,
        pairs: Sequence[Pair],
        tokenizer: Tokenizer,
        max_length: int,
        *,
        block: int = 1,
        favoured: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint({"train": pairs})
        numbers: dict[str, int] = {}
        for pair in pairs:
            for text in (pair.a, pair.b):
                numbers.setdefault(text, len(numbers))
        self.texts = list(numbers)
        self.rows = tokenizer.encode(self.texts, max_length)
        self.sources = sorted({p.source for p in pairs})
        sources = {source: i for i, source in enumerate(self.sources)}
        top = [0.0] * len(sources)
        for pair in pairs:
            source = sources[pair.source]
            top[source] = max(top[source], pair.label)
        self._a = [numbers[p.a] for p in pairs]
        self._b = [numbers[p.b] for p in pairs]
        self._source = torch.tensor([sources[p.source] for p in pairs])
        self._label = torch.tensor([p.label for p in pairs], dtype=torch.float32)
        bar = torch.tensor([1.0 if t <= 1 else float(ALIKE) for t in top])[self._source]
        self._positive = self._label >= bar
        both = torch.tensor([not any(w in s for w in ASYMMETRIC) for s in sources])
        self._synonym = self._positive & both[self._source]
        kinds = [set(self._label[self._source == i].tolist()) for i in range(len(sources))]
        inference = torch.tensor([kind <= set(NLI.values()) for kind in kinds])[self._source]
        # A label below 0 says that a pair is neither alike nor unlike.
        self._kind = torch.where(inference, self._label.long(), self._positive.long())
        self._kind[self._label < 0] = -1
        times = [
            max([t for start, t in (favoured or {}).items() if name.startswith(start)], default=1)
            for name in self.sources
        ]
        self._items = _blocks(self._source, block, times)

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, indices: Sequence[int]) -> Batch:
        """``a``, ``b`` tokens (n, L), n items x block; and, each (n,), ``label``, ``source``,
        ``positive``, ``synonym``, the class ``kind`` (0, 1, of inference 2 to 4, or -1 for none)
        and the numbers of the texts ``text_a``, ``text_b``.
        """
        chosen = [row for i in indices for row in self._items[i]]
        a, b = [self._a[i] for i in chosen], [self._b[i] for i in chosen]
        where = torch.tensor(chosen, dtype=torch.int64)
        return {
            "a": pad([self.rows[i] for i in a]),
            "b": pad([self.rows[i] for i in b]),
            "text_a": torch.tensor(a),
            "text_b": torch.tensor(b),
            "label": self._label[where],
            "source": self._source[where],
            "kind": self._kind[where],
            "positive": self._positive[where],
            "synonym": self._synonym[where],
        }

    def synonyms(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each pair that says the same both ways: its texts in :attr:`rows` and its source in
        :attr:`sources`, (m,) each.
        """
        rows = self._synonym.nonzero().squeeze(-1)
        return torch.tensor(self._a)[rows], torch.tensor(self._b)[rows], self._source[rows]


def _blocks(source: Tensor, size: int, times: Sequence[float]) -> list[list[int]]:
    """Every pair once and those of small or favoured sources again, up to the share of their
    source; in blocks of ``size`` within one source, over :data:`ROUNDS` divisions of the pairs.
    """
    counts = source.bincount()
    largest = int(counts.max())
    generator = random.Random(0)  # blocks belong to the data, not to a run
    blocks: list[list[int]] = []
    for i, count in enumerate(counts.tolist()):
        own = (source == i).nonzero().squeeze(-1).tolist()
        wanted = max(count, round(times[i] * largest * (count / largest) ** SHARE))
        wanted = max(size, wanted * ROUNDS) if size > 1 else wanted
        rows: list[int] = []
        while len(rows) < wanted:
            rows += generator.sample(own, count)
        blocks += [rows[k : k + size] for k in range(0, wanted - size + 1, size)]
    return blocks


class HeldOut:
    """Pairs to measure on, of several sources: some of all sources come first, chosen by a hash,
    since files often begin with the easy ones.

    Args:
        name: For records.
        groups: Pairs by source.
    """

    def __init__(self, name: str, groups: Mapping[str, Sequence[Pair]]) -> None:
        self.name = name
        self.fingerprint = fingerprint(groups)
        self._pairs = [
            (group, pair)
            for row in zip_longest(
                *([(g, p) for p in sorted(pairs, key=_hash)] for g, pairs in groups.items())
            )
            for group, pair in filter(None, row)
        ]

    def __len__(self) -> int:
        return len(self._pairs)

    def groups(self, limit: int | None = None) -> dict[str, list[Pair]]:
        """The first ``limit`` pairs by their source."""
        found: dict[str, list[Pair]] = {}
        for group, pair in self._pairs[:limit]:
            found.setdefault(group, []).append(pair)
        return found

    def batch(self, indices: Sequence[int]) -> Batch:
        """Labels alone: texts are embedded by the model's own vocabulary when it is measured."""
        return {"label": torch.tensor([self._pairs[i][1].label for i in indices])}


def _hash(pair: Pair) -> bytes:
    return hashlib.sha256(f"{pair.a}\t{pair.b}".encode("utf-8", "replace")).digest()


def fingerprint(groups: Mapping[str, Sequence[Pair]]) -> str:
    """sha256 over all pairs."""
    digest = hashlib.sha256()
    for name, pairs in groups.items():
        for pair in pairs:
            line = f"{name}\t{pair.a}\t{pair.b}\t{pair.label:g}\t{pair.source}\n"
            digest.update(line.encode("utf-8", "replace"))
    return digest.hexdigest()
