"""Exact nearest texts by cosine, in chunks, so that no matrix of all pairs is ever made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from kexue_roformer_sim.model import RoFormerSim

__all__ = ["Hit", "nearest", "search", "similarity"]

#: Queries and texts of the corpus that are compared at once: 64 MB of cosines.
QUERIES, CORPUS = 256, 65_536


class Hit(NamedTuple):
    """A text that was found: its number in the corpus, and the cosine in [-1, 1]."""

    place: int
    score: float


def similarity(
    model: RoFormerSim, left: Sequence[str], right: Sequence[str], **settings: Any
) -> np.ndarray[Any, Any]:
    """See :meth:`kexue_roformer_sim.model.RoFormerSim.similarity`."""
    # Embedded together: a text that is on both sides gets one and the same vector.
    both = model.embed([*left, *right], **settings)
    cosines: np.ndarray[Any, Any] = both[: len(left)] @ both[len(left) :].T
    return cosines.clip(-1, 1)


def search(
    model: RoFormerSim,
    queries: Sequence[str],
    corpus: Sequence[str] | np.ndarray[Any, Any],
    k: int,
    **settings: Any,
) -> list[list[Hit]]:
    """See :meth:`kexue_roformer_sim.model.RoFormerSim.search`."""
    asked = model.embed(list(queries), **settings)
    vectors = corpus if isinstance(corpus, np.ndarray) else model.embed(list(corpus), **settings)
    return nearest(asked, vectors, k)


def nearest(queries: np.ndarray[Any, Any], corpus: np.ndarray[Any, Any], k: int) -> list[list[Hit]]:
    """The ``k`` rows of ``corpus`` (m, d) with the largest cosine to each of ``queries`` (n, d).

    Raises:
        ValueError: ``k`` is negative, or the widths differ.
    """
    if type(k) is not int or k < 0:
        raise ValueError(f"k must be a whole number from 0, not {k!r}")
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"vectors of shapes {queries.shape} and {corpus.shape} do not compare")
    found: list[list[Hit]] = []
    for i in range(0, len(queries), QUERIES):
        asked = _unit(queries[i : i + QUERIES])
        scores = torch.empty(len(asked), 0)
        indices = torch.empty(len(asked), 0, dtype=torch.int64)
        for j in range(0, len(corpus), CORPUS):
            chunk = asked @ _unit(corpus[j : j + CORPUS]).T
            best, where = chunk.topk(min(k, chunk.shape[1]), dim=-1)
            scores = torch.cat([scores, best], -1)
            indices = torch.cat([indices, where + j], -1)
            # Ties by index: sorted by it first, then stably by score.
            order = indices.argsort(-1)
            scores, indices = scores.gather(-1, order), indices.gather(-1, order)
            scores, order = torch.sort(scores, dim=-1, descending=True, stable=True)
            scores, indices = scores[:, :k], indices.gather(-1, order)[:, :k]
        rows = zip(indices.tolist(), scores.clamp(-1, 1).tolist(), strict=True)
        found += [[Hit(*hit) for hit in zip(*row, strict=True)] for row in rows]
    return found


def _unit(vectors: np.ndarray[Any, Any]) -> torch.Tensor:
    """Rows of length 1, float32, of a slice that may lie in a file."""
    rows = torch.from_numpy(np.array(vectors, dtype=np.float32))
    return torch.nn.functional.normalize(rows, dim=-1)
