"""A vocabulary chosen from texts, and vectors for its tokens from what stands beside what.

References:
    [1] Levy and Goldberg, Neural Word Embedding as Implicit Matrix Factorization, 2014
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from kexue_roformer_sim.tokenizer import SPECIAL, Tokenizer

__all__ = ["choose_vocabulary", "inverse_frequencies", "token_vectors"]

#: Tokens of ASCII that a vocabulary has whatever the texts hold, so that digits and letters are
#: never unknown.
_ASCII = [chr(c) for c in range(33, 127) if not chr(c).isupper()]

_BATCH = 20_000


def choose_vocabulary(texts: Sequence[str], candidates: Sequence[str], size: int) -> list[str]:
    """The marks, and then those of ``candidates`` that ``texts`` use most, ``size`` in all.

    Args:
        texts: What will be read.
        candidates: A large vocabulary, such as RoFormer-Sim's.
        size: How many tokens at most; single ASCII characters are always among them.
    """
    large = Tokenizer(candidates)
    counts: Counter[int] = Counter()
    for i in range(0, len(texts), _BATCH):
        for row in large.encode(texts[i : i + _BATCH], 1_000):
            counts.update(row[1:-1])
    known = set(candidates)
    always = [*SPECIAL, *(c for c in _ASCII if c in known)]
    always += [f"##{c}" for c in _ASCII if c.isalnum() and f"##{c}" in known]
    # By count, then by number: the same for the same texts whatever their order.
    ranked = sorted(counts, key=lambda number: (-counts[number], number))
    found = dict.fromkeys(always)
    for number in ranked:
        if len(found) >= size:
            break
        found.setdefault(large.vocabulary[number])
    return list(found)


def inverse_frequencies(rows: Sequence[Sequence[int]], size: int) -> Tensor:
    """ln(texts / texts that hold the token) of each token, (size,); the start of token weights.

    Tokens in every text, such as [CLS], get a weight near 0 and do not count in a mean.
    """
    counts = np.ones(size)
    for row in rows:
        counts[list(set(row))] += 1
    return torch.from_numpy(np.log((len(rows) + 2) / counts)).float()


def token_vectors(
    rows: Iterable[Sequence[int]], size: int, width: int, *, window: int = 4
) -> Tensor:
    """Vectors of tokens, (size, width), rows of length 1: SVD of their positive PMI [1].

    Tokens that never occur get zeros.

    Args:
        rows: Texts as token numbers.
        size: Of the vocabulary.
        width: Length of a vector.
        window: Tokens on either side that are neighbours.
    """
    counts = np.zeros((size, size), dtype=np.float32)
    batch: list[int] = []
    for row in rows:
        # Padding between texts, so that nobody is a neighbour across their ends.
        batch += [*row, *[0] * window]
        if len(batch) > 1_000_000:
            _count(np.array(batch), counts, window)
            batch = []
    _count(np.array(batch, dtype=np.int64), counts, window)
    counts[0] = counts[:, 0] = 0
    table = torch.from_numpy(counts)
    table = table + table.T
    total, each = table.sum(), table.sum(-1)
    expected = (each[:, None] * each[None, :] / total.clamp(min=1)).clamp(min=1e-9)
    pmi = (table / expected).clamp(min=1).log()  # the positive part; where nothing was seen, 0
    rank = min(width, size)
    u, s, _ = torch.svd_lowrank(pmi, q=min(rank + 16, size), niter=3)
    vectors = torch.zeros(size, width)
    vectors[:, :rank] = u[:, :rank] * s[:rank].sqrt()
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return vectors * (each > 0)[:, None]


def _count(
    tokens: np.ndarray[tuple[int], np.dtype[np.int64]],
    counts: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    window: int,
) -> None:
    size = len(counts)
    flat = counts.reshape(-1)
    for distance in range(1, window + 1):
        pairs = tokens[:-distance] * size + tokens[distance:]
        where, seen = np.unique(pairs, return_counts=True)
        flat[where] += seen
