"""Promises of models of text: vectors, rewrites, extracted pieces."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from kexue_core.testing.outcomes import Check, CheckFailure
from kexue_core.testing.subjects import ModelSubject
from kexue_core.testing.values import difference

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
    if not np.array_equal(vectors, model.embed(texts)):
        raise CheckFailure(
            "embed gives two results for the same texts",
            "Be deterministic in eval mode: no dropout, no random numbers, no state between calls",
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


def rewrites_belong_to_texts(subject: ModelSubject) -> None:
    """``rewrite`` gives the same for a text and seed, whatever was rewritten before."""
    model: Any = subject.build()
    texts = [text for text in subject.texts(model) if text][:2]
    seeded = "seed" in inspect.signature(model.rewrite).parameters
    options = {"seed": 7} if seeded else {}

    def rewrites(text: str, noise: int) -> list[str]:
        with torch.random.fork_rng(devices=[]):
            # A model without a seed of its own may draw from torch's.
            torch.manual_seed(noise if seeded else 0)
            return [_text_of(result) for result in model.rewrite(text, 3, **options)]

    first = [rewrites(text, 0) for text in texts]
    again = [rewrites(text, 1) for text in texts]
    turned = [rewrites(text, 2) for text in texts[::-1]][::-1]
    for what, other in (("again", again), ("after other texts", turned)):
        if first != other:
            raise CheckFailure(
                f"A text rewritten {what} under {'one seed' if seeded else 'one torch.manual_seed'}"
                " has other rewrites",
                "Draw from a generator made of the seed, anew in every call"
                if seeded
                else "Draw from torch's random numbers only, or take a seed; "
                "keep no state between calls",
            )


def facts_belong_to_texts(subject: ModelSubject) -> None:
    """``extract`` gives the same facts for a text again, in another order and alone."""
    model: Any = subject.build()
    texts = subject.texts(model)
    results = list(model.extract(texts))
    _require_one_each(texts, results)
    for what, other, remedy in (
        (
            "again",
            list(model.extract(texts)),
            "Be deterministic in eval mode: no dropout, no random numbers, no state between calls",
        ),
        (
            "in another order",
            list(model.extract(texts[::-1]))[::-1],
            "Restore the order after sorting, and keep facts with their text",
        ),
        (
            "alone",
            [facts for text in texts for facts in model.extract([text])],
            "Mask padding, use no statistics over the batch, and let nothing depend on how many "
            "texts are given",
        ),
    ):
        _require_one_each(texts, other)
        pairs = zip(results, other, strict=True)
        if any(difference(list(a), list(b)) > TOLERANCE for a, b in pairs):
            raise CheckFailure(f"A text read {what} has other facts", remedy)


def offsets_slice_back(subject: ModelSubject) -> None:
    """Every extracted piece is what its offsets cut out of the text, and some are extracted."""
    model: Any = subject.build()
    texts = subject.texts(model)
    results = list(model.extract(texts))
    _require_one_each(texts, results)
    pieces = 0
    for text, found in zip(texts, results, strict=True):
        for piece in _pieces(found):
            pieces += 1
            _require_offsets(piece, text)
    if any(results) and not pieces:
        raise CheckFailure(
            "The extracted facts carry no offsets",
            "Give pieces of text as {'text': ..., 'start': ..., 'end': ...}",
        )
    if not pieces:
        raise CheckFailure(
            "Nothing was extracted from the example texts, so that no offset was looked at",
            "Let ModelSpec.tiny extract with random weights (lower its thresholds), or let "
            "example_input return a list of texts in which something is found",
        )
    if list(model.extract([])):
        raise CheckFailure("extract([]) is not empty", "Give one list a text")


def _require_one_each(texts: list[str], results: list[Any]) -> None:
    if len(results) != len(texts):
        raise CheckFailure(
            f"extract of {len(texts)} texts gives {len(results)} results",
            "Give one list a text, empty where nothing is found",
        )


def _require_offsets(piece: Mapping[str, Any], text: str) -> None:
    """A piece must say where it is, in whole numbers, and be what is there."""
    said, start, end = (piece.get(key) for key in ("text", "start", "end"))
    if type(start) is not int or type(end) is not int:
        raise CheckFailure(
            f"A piece {said!r:.40} has the offsets {start!r:.20} and {end!r:.20}",
            "A mapping with 'text' is a piece of the text: give its 'start' and 'end' as int, "
            "or another key to what is none",
        )
    if not 0 <= start <= end <= len(text) or text[start:end] != said:
        raise CheckFailure(
            f"A piece {said!r:.40} at {start}..{end} is {text[start:end]!r:.40} in the text",
            "Count characters of the text as given, not tokens, bytes or a normalised text",
        )


def _pieces(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping with a ``text``: an interface's piece, whole or not."""
    if isinstance(value, Mapping):
        if "text" in value:
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
    Check("rewrites-again", rewrites_belong_to_texts, lambda s: s.can("rewriter")),
    Check("facts", facts_belong_to_texts, lambda s: s.can("extractor")),
    Check("offsets", offsets_slice_back, lambda s: s.can("extractor")),
)
