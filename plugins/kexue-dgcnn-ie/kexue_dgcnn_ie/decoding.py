"""From probabilities at characters to spans, and from spans to facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

__all__ = ["Fact", "Spans", "decode_objects", "decode_subjects", "with_inverses"]

#: ``{"subject": {"text", "start", "end"}, "predicate", "object": {...}, "score"}``.
Fact: TypeAlias = dict[str, Any]


class Spans(NamedTuple):
    """K spans that were found.

    Attributes:
        owner: The text (of subjects) or the subject (of objects) that each belongs to, (K,).
        predicate: Its predicate, (K,); 0 for subjects.
        first, last: Its first and last character, counted within its text, (K,).
        score: Geometric mean of the probabilities of its start and its end, (K,), float32.
    """

    owner: Tensor
    predicate: Tensor
    first: Tensor
    last: Tensor
    score: Tensor


def decode_subjects(
    probability: Tensor, lengths: Tensor, *, start: float = 0.5, end: float = 0.4
) -> Spans:
    """Pair each start with the nearest end at or after it in the same text.

    Args:
        probability: Of start and end at each character, (N, 2), texts one after the other.
        lengths: Characters of each text, (B,), N in all.
        start, end: What is above is a start, or an end.
    """
    return decode_objects(probability[:, None], lengths, start=start, end=end)


def decode_objects(
    probability: Tensor, lengths: Tensor, *, start: float = 0.5, end: float = 0.4
) -> Spans:
    """The same for each predicate.

    Args:
        probability: Of start and end, (N', P, 2), the texts of the subjects one after the other.
        lengths: Characters of the text of each subject, (S,), N' in all.
        start, end: What is above is a start, or an end.

    Returns:
        Spans by predicate, then by place.
    """
    n = len(probability)
    table = probability.permute(2, 1, 0).contiguous()  # (2, P, N'), each predicate in line
    starts = (table[0] > start).flatten().nonzero()[:, 0]
    ends = (table[1] > end).flatten().nonzero()[:, 0]
    if not len(starts) or not len(ends):
        none = starts[:0]
        return Spans(none, none, none, none, probability.new_zeros(0).float())
    nearest = torch.searchsorted(ends, starts)
    exists = nearest < len(ends)
    ends = ends[nearest.clamp(max=len(ends) - 1)]
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    first, last = starts % n, ends % n
    keep = exists & (starts // n == ends // n) & (owner[first] == owner[last])
    starts, ends, first, last = starts[keep], ends[keep], first[keep], last[keep]
    owner = owner[first]
    offset = (lengths.cumsum(0) - lengths)[owner]
    score = (table[0].flatten()[starts].float() * table[1].flatten()[ends].float()).sqrt()
    return Spans(owner, starts // n, first - offset, last - offset, score)


def with_inverses(facts: Iterable[Fact], inverse: Mapping[str, str]) -> list[Fact]:
    """Facts with those that follow from them: who is the husband has a wife."""
    found = list(facts)
    for fact in list(found):
        if fact["predicate"] in inverse:
            found.append(
                {
                    "subject": fact["object"],
                    "predicate": inverse[fact["predicate"]],
                    "object": fact["subject"],
                    "score": fact["score"],
                }
            )
    return found


def distinct(facts: Iterable[Fact], order: Sequence[str]) -> list[Fact]:
    """One fact of each wording, the one with the best score; by place, then by predicate."""
    best: dict[tuple[str, str, str], Fact] = {}
    for fact in facts:
        key = (fact["subject"]["text"], fact["predicate"], fact["object"]["text"])
        if key not in best or fact["score"] > best[key]["score"]:
            best[key] = fact
    rank = {p: i for i, p in enumerate(order)}
    return sorted(
        best.values(),
        key=lambda f: (f["subject"]["start"], f["subject"]["end"], rank[f["predicate"]],
                       f["object"]["start"], f["object"]["end"]),
    )  # fmt: skip
