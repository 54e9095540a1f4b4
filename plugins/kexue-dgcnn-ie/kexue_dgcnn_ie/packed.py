"""Extraction on a CPU: the network of :mod:`.dgcnn` without its gradients, made for speed.

The results are those of the network; what differs is the order of the work:

- Before the first convolution lies nothing but a table, and a convolution is linear: what it makes
  of each character at each tap, and of each position, is computed once for all texts. So is what
  the distance from a subject adds to a character.
- Weights are packed (:mod:`kexue_core.packing`), and both attentions are one with twice the heads.
- A probability here is a product, and no product is above its least factor. Only a character whose
  prior is above the threshold can start or end anything, and only there are subjects and objects
  worked out; logarithms only where a logit is high enough.

T rows are the places of :class:`.Layout`; B texts, S subjects, P predicates, d the width.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_core.packing import Activation, Linear, fingerprint, linear
from kexue_dgcnn_ie.decoding import Spans
from kexue_dgcnn_ie.dgcnn import DGCNN, SUBJECT_POINTS, GatedConvolution
from kexue_dgcnn_ie.layout import Block, Integers, Layout
from kexue_dgcnn_ie.packed_objects import (
    Floats,
    Likely,
    Objects,
    Subjects,
    least,
    log_sigmoid,
    nearest,
    numbers,
    rounded,
    score_of,
    spans_of,
)

__all__ = ["Packed", "can_pack", "packed"]

#: Attention scores that are worked out at once, to stay in the cache.
SCORES = 2**19

#: Sums of exponentials between which none that counts can have left the range of numbers.
MODERATE = 1e-25, 1e25

#: Model -> dtype -> (its weights then, what was made of them). Beside the models, not on them: a
#: copy or a pickle of a model has nothing to do with it.
_PACKED: WeakKeyDictionary[DGCNN, dict[torch.dtype, tuple[object, Packed]]] = WeakKeyDictionary()


def can_pack(model: DGCNN, dtype: torch.dtype) -> bool:
    """Whether :class:`Packed` computes what ``model`` does: on the CPU, with the post's layers,
    without words, distant supervision or dropout, and no method of the network overridden.
    """
    c = model.config
    return (
        dtype in (torch.float32, torch.bfloat16, torch.float64)
        and model.character.weight.device.type == "cpu"
        and not (model.training or c.words or c.distant)
        and c.gate
        and c.attention
        and all(
            getattr(type(model), name) is getattr(DGCNN, name)
            for name in ("trunk", "encode", "objects")
        )
    )


def packed(model: DGCNN, dtype: torch.dtype) -> Packed:
    """The model in the other form; made anew when its weights have changed."""
    made = _PACKED.setdefault(model, {})
    state = fingerprint(model)
    if dtype not in made or made[dtype][0] != state:
        made.pop(dtype, None)
        with torch.inference_mode():
            made[dtype] = (state, Packed(model, dtype))
    return made[dtype][1]


class Packed:
    """A :class:`.DGCNN` that is only read. It shares nothing with the model but its sizes.

    Args:
        model: One that :func:`can_pack` allows.
        dtype: What to compute in; probabilities are at least float32.
    """

    def __init__(self, model: DGCNN, dtype: torch.dtype) -> None:
        self.config = c = model.config
        self.dtype = dtype
        d = c.width

        def maps(*layers: nn.Module, activation: Activation = "none") -> Linear:
            """Several linear layers of the same input as one."""
            weight, bias = (
                torch.cat([rounded(getattr(layer, name), dtype) for layer in layers])
                for name in ("weight", "bias")
            )
            return linear(weight, bias, dtype=dtype, activation=activation)

        convolutions = [
            layer.convolution for layer in model.layers if isinstance(layer, GatedConvolution)
        ]
        self.dilations = [convolution.dilation for convolution in convolutions]
        self.gap = max(self.dilations)
        self.table, self.first = self._tables(model, convolutions[0].linear)
        self.convolutions = [maps(convolution.linear) for convolution in convolutions[1:]]
        self.prior_hidden = maps(*model.prior_hidden, activation="relu")
        start, end = (rounded(layer.weight, dtype) for layer in model.prior)  # type: ignore[arg-type]  # a Linear
        bias = torch.cat([rounded(layer.bias, dtype) for layer in model.prior])  # type: ignore[arg-type]
        self.prior = linear(
            torch.cat([F.pad(start, (0, d)), F.pad(end, (d, 0))]), bias, dtype=dtype
        )
        attentions = model.subject_attention, model.object_attention
        qkv = torch.stack([rounded(a.qkv.weight, dtype).view(3, d, d) for a in attentions], 1)
        qkv[0] *= (d // c.heads) ** -0.5
        self.qkv = linear(qkv.flatten(0, 2), dtype=dtype)
        self.predicate_hidden = maps(model.predicate_hidden, activation="relu")
        self.predicate = maps(model.predicate)

        # The columns of the two convolutions apart: those for the text, those for the attention.
        convolution = model.subject_convolution.linear
        subject = rounded(convolution.weight, dtype).view(d, 3, 2, d)
        object_ = rounded(model.object_base.linear.weight, dtype).view(d, 3, 2, d)
        both = torch.cat([subject[:, :, 0], object_[:, :, 0]]).flatten(1)
        self.text_part = linear(both, F.pad(rounded(convolution.bias, dtype), (0, d)), dtype=dtype)
        self.mixed_parts = [
            linear(weight[:, :, 1].flatten(1), dtype=dtype) for weight in (subject, object_)
        ]
        self.subject = maps(model.subject)
        self.objects = Objects(model, dtype)

    def _tables(self, model: DGCNN, first: nn.Linear) -> tuple[Tensor, Tensor]:
        """Vectors (k, d) of characters, of no character, of positions and of no position; and what
        the first convolution makes of each at each of its taps, (3 k, 2 d).
        """
        tables = model.character.weight, model.position.weight
        table = torch.cat([F.pad(rounded(x, self.dtype), (0, 0, 0, 1)) for x in tables])
        taps = rounded(first.weight, self.dtype).view(len(first.weight), 3, -1)
        out = torch.stack([table @ taps[:, tap].T for tap in range(3)])
        # Every character has one position, and is at the middle tap once.
        out[1, len(tables[0]) + 1 : -1] += rounded(first.bias, self.dtype)
        return table.to(self.dtype), out.flatten(0, 1).to(self.dtype)

    @torch.inference_mode()
    def __call__(
        self, tokens: Integers, lengths: Integers, *, start: float, end: float
    ) -> tuple[Spans, Spans]:
        """Subjects and their objects, as :func:`.decode_subjects` and :func:`.decode_objects` find
        them.

        Args:
            tokens: Character numbers (N,), one text after the other.
            lengths: Characters of each text, (B,), N in all; each at least 1 and at most
                ``positions``.
            start, end: Probabilities above which a character is a start, or an end.
        """
        with torch.autocast("cpu", enabled=False):
            return self._find(tokens, Layout(lengths, self.gap), (start, end))

    def _find(
        self, tokens: Integers, layout: Layout, thresholds: tuple[float, float]
    ) -> tuple[Spans, Spans]:
        none = np.empty(0, np.int64)
        nothing = spans_of(none, none, none, none, np.empty(0, np.float32))
        t = self._trunk(tokens, layout)
        prior = numbers(self.prior(self.prior_hidden(t[:-1])))  # (T, 2)
        likely = (prior > [least(x) for x in thresholds]).any(-1) & layout.real
        rows = np.flatnonzero(likely)
        if not len(rows):
            return nothing, nothing
        logits, base = self._candidates(t, self._attention(t, layout), layout, rows)
        text = layout.text[rows]
        prior = log_sigmoid(prior[rows])
        at = Likely(text, layout.position[rows], layout.lengths[text], prior, base)
        p = np.exp(log_sigmoid(logits) + prior)
        starts, ends = (np.flatnonzero(p[:, k] > thresholds[k]) for k in (0, 1))
        i, j = nearest(starts, ends, text[starts], text[ends])
        starts, ends = starts[i], ends[j]
        if not len(starts):
            return nothing, nothing
        owner, span = text[starts], np.stack([at.position[starts], at.position[ends]], -1)
        points = self._points(t, rows[starts], span)
        subjects = Subjects(owner, span, points, self._predicates(t, layout)[owner])
        score = score_of(p[starts, 0], p[ends, 1])
        found = spans_of(layout.order[owner], np.zeros_like(owner), span[:, 0], span[:, 1], score)
        return found, self.objects(subjects, at, thresholds)

    def _trunk(self, tokens: Integers, layout: Layout) -> Tensor:
        """States (T + 1, d); the last row is 0, and those of filling mean nothing."""
        d, rows = self.config.width, len(layout.text)
        x, out = self._look_up(tokens, layout)
        states = torch.empty(rows + 1, d, dtype=self.dtype)
        states[-1] = 0
        padded = torch.zeros(layout.padded, d, dtype=self.dtype)
        unfolded = torch.empty(rows, 3, d, dtype=self.dtype)
        filling = torch.from_numpy(layout.filling)

        def texts(table: Tensor, block: Block) -> Tensor:
            """(texts, L, ...) of rows (T, ...)."""
            return table[block.rows].view(block.texts, block.longest, *table.shape[1:])

        def with_gaps(block: Block, shift: int = 0) -> Tensor:
            """(texts, L, d) of the padded rows, ``shift`` rows later."""
            step = block.longest + self.gap
            begin = block.padded + shift
            part = padded[begin : begin + block.texts * step]
            return part.view(block.texts, step, d)[:, : block.longest]

        before = [texts(x, block) for block in layout.blocks]
        inside = [with_gaps(block) for block in layout.blocks]
        for i, dilation in enumerate(self.dilations):
            if i:
                for block in layout.blocks:
                    for tap in range(3):
                        part = texts(unfolded, block)[:, :, tap]
                        part.copy_(with_gaps(block, (tap - 1) * dilation))
                out = self.convolutions[i - 1](unfolded.view(rows, 3 * d))
            gate = out[:, :d].sigmoid_()
            last = i == len(self.dilations) - 1
            after = [texts(states, block) for block in layout.blocks] if last else inside
            for block, old, new in zip(layout.blocks, before, after, strict=True):
                torch.lerp(texts(out[:, d:], block), old, texts(gate, block), out=new)
            if not last and len(filling):
                padded.index_fill_(0, filling, 0)
            before = after
        return states

    def _look_up(self, tokens: Integers, layout: Layout) -> tuple[Tensor, Tensor]:
        """What goes into the first layer, (T, d), and its convolution, (T, 2 d)."""
        c, rows = self.config, len(layout.text)
        starts = np.empty_like(layout.order)
        starts[layout.order] = layout.lengths  # back in the order that they were given in
        starts = (np.cumsum(starts) - starts)[layout.order]
        real = layout.real
        # Of each row, and of one more for where there is none: its character, its position.
        index = np.full((rows + 1, 2), (c.characters, len(self.table) - 1))
        index[:-1, 0][real] = tokens[(starts[layout.text] + layout.position)[real]]
        index[:-1, 1][real] = c.characters + 1 + layout.position[real]
        near = layout.neighbours(np.arange(rows), self.dilations[0], rows)
        near[~real] = rows
        taps = index.take(near, 0)  # (T, 3, 2), twenty times as fast as index[near]
        taps += len(self.table) * np.arange(3)[:, None]
        return (
            F.embedding_bag(torch.from_numpy(index[:-1]), self.table, mode="sum"),
            F.embedding_bag(torch.from_numpy(taps.reshape(rows, 6)), self.first, mode="sum"),
        )

    def _attention(self, t: Tensor, layout: Layout) -> Tensor:
        """(T + 1, 2, d): the subjects' and the objects'; the last row is 0."""
        d, heads = self.config.width, 2 * self.config.heads
        k = 2 * d // heads
        qkv = self.qkv(t[:-1])
        mixed = torch.empty(len(t), 2 * d, dtype=self.dtype)
        mixed[-1] = 0
        for block in layout.blocks:
            longest = block.longest
            most = max(1, SCORES // (heads * longest**2))
            for i in range(0, block.texts, most):
                n = min(most, block.texts - i)
                rows = slice(block.row + i * longest, block.row + (i + n) * longest)
                split = qkv[rows].view(n, longest, 3, heads, k).permute(2, 0, 3, 1, 4)
                past = _past(layout.lengths[block.first + i :][:n], longest)
                mixed[rows].view(n, longest, heads, k).copy_(_mix(split, past).transpose(1, 2))
        return mixed.view(-1, 2, d)

    def _candidates(
        self, t: Tensor, mixed: Tensor, layout: Layout, rows: Integers
    ) -> tuple[Floats, Tensor]:
        """Logits of subjects, (n, 2), and the part of the object convolution that no subject
        changes, (n, d), at some rows.
        """
        d = self.config.width
        near = torch.from_numpy(layout.neighbours(rows, 1, len(t) - 1).ravel())
        text = self.text_part(t.index_select(0, near).view(-1, 3 * d)).chunk(2, -1)
        table = mixed.flatten(0, 1)
        hidden, base = (
            part(table.index_select(0, 2 * near + i).view(-1, 3 * d)).add_(text[i])
            for i, part in enumerate(self.mixed_parts)
        )
        return numbers(self.subject(hidden.relu_())), base

    def _predicates(self, t: Tensor, layout: Layout) -> Floats:
        """log p of each predicate in each text, (B, P)."""
        pooled = []
        for block in layout.blocks:
            states = t[block.rows].view(block.texts, block.longest, -1)
            past = _past(layout.lengths[block.first :][: block.texts], block.longest)
            some = states[:, block.longest - past.shape[1] :]  # filling in some text
            some = some.masked_fill(past[..., None], -torch.inf)
            parts = states[:, : block.longest - past.shape[1]], some
            pooled.append(torch.stack([x.amax(1) for x in parts if x.shape[1]]).amax(0))
        return log_sigmoid(numbers(self.predicate(self.predicate_hidden(torch.cat(pooled)))))

    @staticmethod
    def _points(t: Tensor, rows: Integers, span: Integers) -> Tensor:
        """States from the first to the last character of subjects that begin at ``rows`` (S,):
        (points S, d).
        """
        a = torch.linspace(0, 1, SUBJECT_POINTS)[:, None]
        first, last = torch.from_numpy(span).unbind(-1)
        # In float32 and from these numbers, as the network rounds it.
        point = (first * (1 - a) + last * a).round().long()
        return t.index_select(0, (torch.from_numpy(rows) + point - first).flatten())


def _past(lengths: Integers, longest: int) -> Tensor:
    """Which of the last places are filling, (texts, places): as many places as are filling in the
    shortest text, which is the last.
    """
    return torch.from_numpy(np.arange(lengths[-1], longest) >= lengths[:, None])


def _mix(heads: Tensor, past: Tensor) -> Tensor:
    """Attention of queries, keys and values (3, n, heads, L, k), whose scores are scaled, ->
    (n, heads, L, k). The last places are filling where ``past`` says so.
    """
    _, n, count, longest, k = heads.shape
    q, keys, v = heads.reshape(3, n * count, longest, k)
    scores = torch.bmm(q, keys.transpose(1, 2))
    if past.numel():
        last = scores.view(n, count, longest, longest)[..., longest - past.shape[1] :]
        last.masked_fill_(past[:, None, None], -torch.inf)
    if scores.dtype == torch.bfloat16:
        # Its own softmax takes twice as long as float32's, and that as long as the rest. So the
        # sums come out of the product, by a value of 1, and are divided by in the end.
        both = torch.bmm(scores.exp(), torch.cat([v, torch.ones_like(v)], -1))
        mixed, sums = both[..., :k], both[..., k:]
        low, high = torch.aminmax(sums)
        if MODERATE[0] < float(low) <= float(high) < MODERATE[1]:
            return (mixed / sums).view(n, count, longest, k)
        scores = scores.float()
    return torch.bmm(scores.softmax(-1).to(v.dtype), v).view(n, count, longest, k)
