"""Promises of models of text: vectors, rewrites, extracted pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kexue_core.testing.outcomes import Check, CheckFailure
from kexue_core.testing.subjects import ModelSubject

__all__ = ["TEXT_CHECKS"]

#: Largest difference of a float32 vector between two batches: padding changes the order of sums.
TOLERANCE = 1e-4


def vectors_belong_to_texts(subject: ModelSubject) -> None:
    """``embed`` gives (n, d) float32, the same vector for a text in any order and batch."""
    model: Any = subject.build()
    texts = subject.texts(model)
    vectors = model.embed(texts)
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.ndim != 2:
        kind = getattr(vectors, "dtype", type(vectors).__name__)
        raise CheckFailure(
            f"embed gives {kind} of shape {getattr(vectors, 'shape', '?')}",
            "Return a float32 numpy array (n, d): tensor.float().cpu().numpy()",
        )
    if len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise CheckFailure(
            f"embed of {len(texts)} texts (one empty, one long) gives {len(vectors)} vectors, "
            f"{'finite' if np.isfinite(vectors).all() else 'not all finite'}",
            "Give every text a vector: an empty one its start token's, a long one truncated",
        )
    order = list(range(len(texts)))[::-1]
    turned = model.embed([texts[i] for i in order])
    alone = np.concatenate([model.embed([text]) for text in texts])
    for what, other in (("in another order", turned[order]), ("alone", alone)):
        gap = float(np.abs(vectors - other).max())
        if gap > TOLERANCE * max(1.0, float(np.abs(vectors).max())):
            raise CheckFailure(
                f"A text embedded {what} has a vector that differs by {gap:.2g}",
                "Mask padding in attention and pooling, and restore the order after sorting",
            )
    if model.embed([]).shape != (0, vectors.shape[1]):
        raise CheckFailure(
            f"embed([]) has shape {model.embed([]).shape}",
            f"Return an empty array (0, {vectors.shape[1]})",
        )
    if np.abs(vectors - vectors[0]).max() == 0:
        raise CheckFailure("All texts have one vector", "Look whether the tokens reach the model")


def rewrites_are_distinct(subject: ModelSubject) -> None:
    """``rewrite`` gives at most n distinct results, and none for n = 0."""
    model: Any = subject.build()
    text = next(t for t in subject.texts(model) if t)
    results = list(model.rewrite(text, 3))
    if len(results) > 3 or list(model.rewrite(text, 0)):
        raise CheckFailure(
            f"rewrite(text, 3) gives {len(results)} results, rewrite(text, 0) "
            f"{len(list(model.rewrite(text, 0)))}",
            "Give at most n",
        )
    shown = [_text_of(r) for r in results]
    if len(set(shown)) != len(shown):
        raise CheckFailure("rewrite gives one text twice", "Leave out duplicates")


def offsets_slice_back(subject: ModelSubject) -> str | None:
    """Every extracted piece is what its offsets cut out of the text."""
    model: Any = subject.build()
    texts = subject.texts(model)
    results = model.extract(texts)
    if len(results) != len(texts):
        raise CheckFailure(
            f"extract of {len(texts)} texts gives {len(results)} results",
            "Give one list a text, empty where nothing is found",
        )
    facts = pieces = 0
    for text, found in zip(texts, results, strict=True):
        for fact in found:
            facts += 1
            for piece in _pieces(fact):
                pieces += 1
                start, end = piece["start"], piece["end"]
                if not 0 <= start <= end <= len(text) or text[start:end] != piece["text"]:
                    raise CheckFailure(
                        f"A piece {piece['text']!r} at {start}..{end} is "
                        f"{text[start:end]!r} in the text",
                        "Count characters of the text as given, not tokens, bytes "
                        "or a normalised text",
                    )
    if facts and not pieces:
        raise CheckFailure(
            "The extracted facts carry no offsets",
            "Give pieces of text as {'text': ..., 'start': ..., 'end': ...}",
        )
    if list(model.extract([])):
        raise CheckFailure("extract([]) is not empty", "Give one list a text")
    return None if pieces else "nothing was extracted from the example texts"


def _pieces(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if {"text", "start", "end"} <= value.keys():
            yield value
        for item in value.values():
            yield from _pieces(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _pieces(item)


def _text_of(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return str(result[0])
    return str(getattr(result, "text", result))


TEXT_CHECKS: tuple[Check[ModelSubject], ...] = (
    Check("embedding", vectors_belong_to_texts, lambda s: s.can("text-encoder")),
    Check("rewrites", rewrites_are_distinct, lambda s: s.can("rewriter")),
    Check("offsets", offsets_slice_back, lambda s: s.can("extractor")),
)
