"""The second half of :mod:`.packed`: a subject's vector, and its objects."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_core.packing import linear
from kexue_dgcnn_ie.decoding import Spans
from kexue_dgcnn_ie.dgcnn import DGCNN, SUBJECT_POINTS
from kexue_dgcnn_ie.layout import Integers

__all__ = ["Floats", "Likely", "Objects", "Subjects", "least", "log_sigmoid", "nearest", "numbers",
           "rounded", "score_of", "spans_of"]  # fmt: skip

Floats: TypeAlias = npt.NDArray[Any]

#: Logits are compared with the threshold's, less this: rounding must not lose what the comparison
#: of probabilities, which decides, would keep.
SLACK = 1e-3


class Likely(NamedTuple):
    """The n characters at which something may start or end, in the order of texts and places.

    Attributes:
        text: The text of each, (n,).
        position: Its place in it, (n,).
        length: Characters of the text, (n,).
        prior: log p that anything starts or ends there, (n, 2).
        base: The part of the object convolution that no subject changes, (n, d).
    """

    text: Integers
    position: Integers
    length: Integers
    prior: Floats
    base: Tensor


class Subjects(NamedTuple):
    """S subjects.

    Attributes:
        text: The text of each, (S,).
        span: Its first and last character, (S, 2).
        points: States from the first to the last, (:data:`.SUBJECT_POINTS` S, d), subjects inside.
        predicate: log p of each predicate in its text, (S, P).
    """

    text: Integers
    span: Integers
    points: Tensor
    predicate: Floats


class Objects:
    """Finds the objects of subjects.

    Args:
        model: Whose weights to take.
        dtype: What to compute in.
    """

    def __init__(self, model: DGCNN, dtype: torch.dtype) -> None:
        self.config = model.config
        self.dtype = dtype
        d = model.config.width

        # Gates (reset, update, new) outside, the two directions inside: both make a step at once,
        # and neither sees the other's state.
        given: dict[str, list[Tensor]] = {}
        for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh"):
            both = (getattr(model.subject_reader, f"{name}_l0{end}") for end in ("", "_reverse"))
            given[name] = [rounded(p, dtype) for p in both]
        weight = torch.cat(given["weight_ih"])
        self.reader_input = linear(weight, torch.cat(given["bias_ih"]), dtype=dtype)
        state = weight.new_zeros(3, 2, d, 2, d)
        for i, p in enumerate(given["weight_hh"]):
            state[:, i, :, i] = p.view(3, d, d)
        bias = torch.stack([p.view(3, d) for p in given["bias_hh"]], 1)
        self.reader_state = linear(state.view(6 * d, 2 * d), bias.flatten(), dtype=dtype)

        # What a subject adds to a character: its vector, everywhere the same, and its distances.
        added = model.object_subject.linear
        taps = rounded(added.weight, dtype).view(d, 3, 2, d)  # outputs, taps, first or last, inputs
        self.whole = linear(
            _cases(taps.transpose(0, 1)).flatten(2).flatten(0, 1),  # (4 d, 2 d)
            rounded(added.bias, dtype).repeat(4),
            dtype=dtype,
        )
        single = torch.einsum("pi,otki->tkpo", rounded(model.position.weight, dtype), taps)
        self.most = most = model.config.positions - 1
        offset = torch.arange(-most, most + 1)
        near = (offset + torch.arange(-1, 2)[:, None]).abs().clamp(max=most)
        table = torch.stack([single[tap].index_select(1, near[tap]) for tap in range(3)])
        self.distances = _cases(table).flatten(0, 2).to(dtype)  # (4 * 2 * (2 most + 1), d)
        weight, bias = rounded(model.object.weight, dtype), rounded(model.object.bias, dtype)
        self.heads = linear(  # all starts, all ends, any
            torch.cat([weight[::2], weight[1::2], rounded(model.object_any.weight, dtype)]),
            torch.cat([bias[::2], bias[1::2], rounded(model.object_any.bias, dtype)]),
            dtype=dtype,
        )

    def __call__(self, subjects: Subjects, at: Likely, thresholds: tuple[float, float]) -> Spans:
        """Spans by predicate, then by subject and place, as :func:`.decode_objects` finds them."""
        predicates = self.config.predicates
        begins = np.searchsorted(at.text, subjects.text)
        counts = np.searchsorted(at.text, subjects.text, "right") - begins
        own = np.repeat(np.arange(len(counts)), counts)  # each subject's characters: (n',) in (S,)
        source = np.arange(len(own)) + (begins - np.cumsum(counts) + counts)[own]  # in (n,)
        logits = numbers(self.heads(self._hidden(subjects, at, own, source)))
        shared = log_sigmoid(logits[:, -1:]) + at.prior[source]  # (n', 2)

        keys, ps = [], []
        for k, threshold in enumerate(thresholds):
            each = logits[:, k * predicates : (k + 1) * predicates]
            # Of one dimension: numpy finds those of two ten times as slowly.
            rows, columns = np.divmod(np.flatnonzero(each > least(threshold)), predicates)
            log_p = log_sigmoid(each[rows, columns]) + shared[rows, k]
            p = np.exp(log_p + subjects.predicate[own[rows], columns])
            keep = np.flatnonzero(p > threshold)
            key = columns[keep] * len(own) + rows[keep]
            order = np.argsort(key)
            keys.append(key[order])
            ps.append(p[keep[order]])

        def group(key: Integers) -> Integers:
            return key // len(own) * len(counts) + own[key % len(own)]

        starts, ends = keys
        i, j = nearest(starts, ends, group(starts), group(ends))
        starts, ends = starts[i], ends[j]
        place = at.position[source]
        row = starts % len(own)
        return spans_of(
            own[row],
            starts // len(own),
            place[row],
            place[ends % len(own)],
            score_of(ps[0][i], ps[1][j]),
        )

    def _hidden(self, subjects: Subjects, at: Likely, own: Integers, source: Integers) -> Tensor:
        """The object convolution, (n', d)."""
        place = at.position[source]
        case = (place == 0) + 2 * (place == at.length[source] - 1)
        index = (2 * case[:, None] + [0, 1]) * (2 * self.most + 1) + self.most
        index += place[:, None] - subjects.span[own]
        hidden = F.embedding_bag(torch.from_numpy(index), self.distances, mode="sum")
        whole = self.whole(self._vectors(subjects.points)).view(-1, self.config.width)
        hidden += whole.index_select(0, torch.from_numpy(4 * own + case))
        hidden += at.base.index_select(0, torch.from_numpy(source))
        return hidden.relu_()

    def _vectors(self, points: Tensor) -> Tensor:
        """(points S, d) -> (S, 2 d): the last state of each direction of the GRU."""
        d = self.config.width
        gates = self.reader_input(points).view(SUBJECT_POINTS, -1, 2, 3, d)
        steps = torch.stack([gates[:, :, 0], gates[:, :, 1].flip(0)], 3).flatten(2)
        h = torch.zeros(steps.shape[1], 2 * d, dtype=self.dtype)
        for given in steps:  # (S, 6 d)
            kept = self.reader_state(h)
            reset, update = (given[:, : 4 * d] + kept[:, : 4 * d]).sigmoid_().chunk(2, -1)
            new = torch.addcmul(given[:, 4 * d :], reset, kept[:, 4 * d :]).tanh_()
            h = torch.lerp(new, h, update)
        return h


def _cases(taps: Tensor) -> Tensor:
    """Taps (3, ...) -> their sums (4, ...) at a character with both neighbours, without the one
    before, without the one after, and without either.
    """
    before, at, after = taps
    return torch.stack([before + at + after, at + after, before + at, at])


def nearest(
    starts: Integers, ends: Integers, of_starts: Integers, of_ends: Integers
) -> tuple[Integers, Integers]:
    """Which starts have an end, and which one: the nearest at or after, if of the same group.

    Args:
        starts, ends: Places, each ascending.
        of_starts, of_ends: The group of each.
    """
    j = np.searchsorted(ends, starts)
    i = np.flatnonzero(j < len(ends))
    j = j[i]
    same = of_starts[i] == of_ends[j]
    return i[same], j[same]


def least(threshold: float) -> float:
    """The logit of a probability, a little less: see :data:`SLACK`."""
    return math.log(threshold) - math.log1p(-threshold) - SLACK


def log_sigmoid(x: Floats) -> Floats:
    """log(1 / (1 + exp(-x)))."""
    y: Floats = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
    return y


def score_of(start: Floats, end: Floats) -> Floats:
    """Geometric means, float32."""
    mean: Floats = np.sqrt(start.astype(np.float32) * end.astype(np.float32))
    return mean


def spans_of(
    owner: Integers, predicate: Integers, first: Integers, last: Integers, score: Floats
) -> Spans:
    """Arrays as :class:`.Spans`."""
    columns = owner, predicate, first, last, score
    return Spans._make(torch.from_numpy(column) for column in columns)


def numbers(x: Tensor) -> Floats:
    """As an array, at least float32."""
    array: Floats = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return array


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As in a model of this dtype, but at least float32, for sums."""
    x = x.detach().to(dtype)
    return x if dtype == torch.float64 else x.float()
