"""How good vectors and rewrites are: rank correlation, the floor without a net, distinctness."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kexue_roformer_sim.rewriting import key_of, write

if TYPE_CHECKING:
    from kexue_roformer_sim.model import RoFormerSim
    from kexue_roformer_sim.texts import Pair

__all__ = ["measure_rewrites", "spearman", "spearmans", "tfidf_cosines"]


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation in [-1, 1], ties sharing the mean of their ranks; 0 where a side is
    constant.
    """
    ranks = [_ranks(np.asarray(v, dtype=np.float64)) for v in (x, y)]
    a, b = (r - r.mean() for r in ranks)
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm else 0.0


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    mean: np.ndarray[Any, Any] = (last - (counts - 1) / 2)[inverse]
    return mean


def spearmans(model: RoFormerSim, groups: Mapping[str, Sequence[Pair]]) -> dict[str, float]:
    """Source -> 100 times the Spearman correlation of cosines and labels."""
    texts = sorted({t for pairs in groups.values() for p in pairs for t in (p.a, p.b)})
    place = {text: i for i, text in enumerate(texts)}
    vectors = model.embed(texts)
    found = {}
    for name, pairs in groups.items():
        a, b = ([place[getattr(p, side)] for p in pairs] for side in ("a", "b"))
        cosines = np.einsum("nd,nd->n", vectors[a], vectors[b])
        found[name] = 100 * spearman(cosines.tolist(), [p.label for p in pairs])
    return found


def tfidf_cosines(pairs: Sequence[Pair]) -> list[float]:
    """Cosines of tf-idf vectors of characters, in [0, 1], one a pair: what no net is needed for.

    Document frequencies are those of the pairs' own texts.
    """
    characters = {t: Counter("".join(t.lower().split())) for p in pairs for t in (p.a, p.b)}
    documents = Counter(c for found in characters.values() for c in found)
    weights = {
        text: {c: n * math.log(len(characters) / documents[c]) for c, n in found.items()}
        for text, found in characters.items()
    }
    norms = {t: math.sqrt(sum(w * w for w in v.values())) for t, v in weights.items()}
    cosines = []
    for pair in pairs:
        a, b = weights[pair.a], weights[pair.b]
        dot = sum(w * b[c] for c, w in a.items() if c in b)
        cosines.append(dot / (norms[pair.a] * norms[pair.b] or 1.0))
    return cosines


def measure_rewrites(
    model: RoFormerSim,
    questions: Sequence[str],
    *,
    samples: int = 10,
    seed: int = 0,
    method: Literal["sample", "beam"] = "sample",
    masked: float = 0.0,
) -> dict[str, float]:
    """What ``samples`` texts written for each question are worth, before any is left out.

    ``masked`` of its characters are hidden, every so many.

    Returns:
        ``rewrite_distinct``: the share that are neither the question nor one another;
        ``rewrite_cosine``: the mean cosine of those with their question.
    """
    distinct = 0
    cosines: list[float] = []
    for number, question in enumerate(questions):
        step = round(1 / masked) if masked else 0
        mask = range(number % step, len(question), step) if step else ()
        written = write(
            model, question, samples=samples, seed=seed + number, method=method, mask=tuple(mask)
        )
        fresh = {key_of(text): text for text in written}
        fresh.pop(key_of(question), None)
        fresh.pop("", None)
        distinct += len(fresh)
        if fresh:
            vectors = model.embed([question, *fresh.values()])
            cosines += (vectors[1:] @ vectors[0]).tolist()
    return {
        "rewrite_distinct": distinct / max(1, samples * len(questions)),
        "rewrite_cosine": float(np.mean(cosines)) if cosines else 0.0,
    }
