"""DGCNN: dilated gated convolutions that tag subjects, and then the objects of a subject.

A triple is found as p(s, p, o) = p(s) p(o, p | s). *Half pointer, half tagging*: at each position
one sigmoid says whether a subject starts there and one whether it ends there; given a subject, the
same for every predicate says where its objects start and end. Any number of triples may overlap.

Texts are laid end to end in one long array of rows, with as many empty rows between two of them as
the widest dilation reaches over: no convolution sees from one text into the next, and hardly a row
is padding. Shapes below: B texts of N characters in T rows, S subjects whose texts have N'
characters, P predicates, d = ``width``.

References:
    Su Jianlin, kexue.fm 6671 (the system), 5409 (DGCNN)
    Dauphin et al., Language Modeling with Gated Convolutional Networks. arXiv 1612.08083
    Vaswani et al., Attention Is All You Need. arXiv 1706.03762
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DGCNN", "DGCNNConfig", "Encoded", "Rows"]

#: Points on a subject whose vectors, read in order, make the subject's vector.
SUBJECT_POINTS = 6
#: The shortest text of a block is at least this part of its longest: the rest is filling, which
#: attention pays for twice.
SIMILAR = 0.8
#: Texts of a block: few while training, whose scores then stay in the cache; more where the kernel
#: sees to that.
BLOCK, BLOCK_FUSED = 4, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DGCNNConfig:
    """Settings of :class:`DGCNN`.

    Attributes:
        characters: Rows of the table of characters: 0 is padding, 1 an unknown one.
        predicates: Number of predicates.
        width: Length d of a row; a multiple of ``heads``.
        dilations: One gated convolution each.
        heads: Of the two self-attentions.
        positions: Longest text, in characters.
        dropout: Of the embedded text.
        gate_dropout: Of what goes into the gates.
        words, word_width: Rows and columns of the frozen table of word vectors; 0 for characters
            alone. Row 0 is no word.
        distant: Whether features of distant supervision are inputs: 2 channels to the subjects,
            2 + 2 P to the objects.
        start_threshold, end_threshold: Probabilities above which a character is a start, or an end.
        gate: Ablation: without, a layer is ``relu`` of the convolution, added to its input.
        attention: Ablation: without, there is no self-attention.
    """

    characters: int = 7000
    predicates: int = 55
    width: int = 128
    dilations: tuple[int, ...] = (1, 2, 5, 1, 2, 5, 1, 2, 5, 1, 1, 1)
    heads: int = 8
    positions: int = 512
    dropout: float = 0.25
    gate_dropout: float = 0.1
    words: int = 0
    word_width: int = 0
    distant: bool = False
    start_threshold: float = 0.5
    end_threshold: float = 0.4
    gate: bool = True
    attention: bool = True

    def __post_init__(self) -> None:
        for name in ("characters", "predicates", "width", "heads", "positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.width % self.heads or self.width % 2:
            raise ValueError("width must be even and a multiple of heads")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError("dilations must be at least one number, each at least 1")
        for name in ("dropout", "gate_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1)")
        for name in ("start_threshold", "end_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1")
        if (self.words > 0) != (self.word_width > 0):
            raise ValueError("words and word_width go together: both 0, or neither")


class Rows(NamedTuple):
    """Where the N characters of B texts lie in one long array of T rows.

    Attributes:
        lengths: Characters of each text, (B,).
        starts: Row of each text's first character, (B,).
        text: Number of the text of a row, (T,); an empty row counts to the text before it.
        position: Place of a row in its text, from 0, (T,).
        real: The rows that are characters, (N,).
        empty: The others, (T - N,).
    """

    lengths: Tensor
    starts: Tensor
    text: Tensor
    position: Tensor
    real: Tensor
    empty: Tensor

    @classmethod
    def of(cls, lengths: Tensor, gap: int) -> Rows:
        """Lay out texts of ``lengths``, each followed by ``gap`` empty rows."""
        device = lengths.device
        steps = lengths + gap
        starts = steps.cumsum(0) - steps
        text = torch.repeat_interleave(torch.arange(len(lengths), device=device), steps)
        position = torch.arange(len(text), device=device) - starts[text]
        real = position < lengths[text]
        return cls(lengths, starts, text, position, real.nonzero()[:, 0], (~real).nonzero()[:, 0])


class Blocks(NamedTuple):
    """The same rows once more, as blocks of texts of similar length, each filled up to its longest.

    Attributes:
        shapes: (texts, L) of each block.
        order: The texts, block after block, (B,).
        lengths: Their lengths, (B,).
        there: For each place in the blocks its row, or T where it is filling.
        back: For each row its place, or the number of places where it is empty, (T,).
    """

    shapes: tuple[tuple[int, int], ...]
    order: Tensor
    lengths: Tensor
    there: Tensor
    back: Tensor

    @classmethod
    def of(cls, rows: Rows) -> Blocks:
        """Sort texts by length, and begin a block where one is not :data:`SIMILAR` any more."""
        lengths, order = rows.lengths.sort(descending=True, stable=True)
        shapes: list[tuple[int, int]] = []
        most = BLOCK if torch.is_grad_enabled() else BLOCK_FUSED
        for length in lengths.tolist():
            if not shapes or length < SIMILAR * shapes[-1][1] or shapes[-1][0] == most:
                shapes.append((0, length))
            shapes[-1] = (shapes[-1][0] + 1, shapes[-1][1])
        there = []
        total = len(rows.text)
        sizes = [n for n, _ in shapes]
        for (_, longest), block, starts in zip(
            shapes, _split(lengths, sizes), _split(rows.starts[order], sizes), strict=True
        ):
            columns = torch.arange(longest, device=block.device)
            index = torch.where(columns < block[:, None], starts[:, None] + columns, total)
            there.append(index.flatten())
        places = torch.cat(there) if there else lengths
        back = places.new_full((total + 1,), len(places))
        back = back.index_copy(0, places, torch.arange(len(places), device=places.device))
        return cls(tuple(shapes), order, lengths, places, back[:total])

    def spread(self, x: Tensor) -> list[Tensor]:
        """(T, k) -> for each block (texts, L, k), 0 in the filling."""
        parts = _split(_move(x, self.there, self.back), [n * m for n, m in self.shapes])
        return [
            part.view(*shape, x.shape[-1]) for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def gather(self, blocks: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`spread`; 0 in empty rows."""
        x = torch.cat([b.flatten(0, 1) for b in blocks])
        return _move(x, self.back, self.there)


class _Move(torch.autograd.Function):
    """Rows of ``x`` at ``there``, 0 where that is past the end; ``back`` leads the other way.

    No row is used twice, so that the gradient is such a move as well. The one of ``index_select``
    would add up rows one by one, which takes longer than an attention.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return F.pad(x, (0, 0, 0, 1)).index_select(0, there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _move(gradient, back, there), None, None


def _move(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    moved: Tensor = _Move.apply(x, there, back)  # type: ignore[no-untyped-call]  # torch's
    return moved


class Encoded(NamedTuple):
    """What is known of texts before a subject is chosen.

    Attributes:
        rows: The layout.
        states: (T, d), 0 in empty rows.
        subject: log p of a subject's start and end at each character, (N, 2).
        prior: log p that anything starts or ends there, (N, 2).
        predicate: log p of each predicate in a text, (B, P).
        base: The part of the object convolution that no subject changes, (T, d).
    """

    rows: Rows
    states: Tensor
    subject: Tensor
    prior: Tensor
    predicate: Tensor
    base: Tensor


class Convolution(nn.Module):
    """A convolution over three rows, with a dilation.

    The weight (outputs, 3 inputs) holds the taps one after the other: as it lies in memory it is
    the kernel of a two-dimensional convolution in channels-last layout, which torch computes where
    the rows are. A matrix product would need the three side by side first, and takes a quarter
    longer (CPU, bfloat16, forward and backward).
    """

    def __init__(self, inputs: int, outputs: int, dilation: int = 1, *, bias: bool = True) -> None:
        super().__init__()
        self.dilation = dilation
        self.linear = nn.Linear(3 * inputs, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(T, inputs) -> (T, outputs); beyond the ends are zeros."""
        if not len(x):  # torch convolves no image without pixels
            return F.linear(x.repeat(1, 3), self.linear.weight, self.linear.bias)
        image = x[None, None].permute(0, 3, 1, 2)  # (1, inputs, 1, T)
        kernel = self.linear.weight.view(-1, 1, 3, x.shape[-1]).permute(0, 3, 1, 2)
        out = F.conv2d(
            image, kernel, self.linear.bias, padding=(0, self.dilation), dilation=(1, self.dilation)
        )
        return out.permute(0, 2, 3, 1)[0, 0]


class GatedConvolution(nn.Module):
    """y = sigmoid(g) x + (1 - sigmoid(g)) h with (g, h) = conv(x): keep, or take what is new."""

    def __init__(self, width: int, dilation: int, *, dropout: float, gate: bool = True) -> None:
        super().__init__()
        self.gate = gate
        self.dropout = dropout
        self.convolution = Convolution(width, 2 * width if gate else width, dilation)

    def forward(self, x: Tensor, empty: Tensor) -> Tensor:
        """(T, d) -> (T, d), 0 in the rows ``empty``."""
        out = self.convolution(x)
        if not self.gate:
            return (x + F.relu(out)).index_fill_(0, empty, 0)
        g, h = out.chunk(2, -1)
        if self.training and self.dropout:
            g = dropout(g, self.dropout)
        return torch.lerp(h, x.to(h.dtype), torch.sigmoid(g)).index_fill_(0, empty, 0)


class SelfAttention(nn.Module):
    """Attention of the characters of a text to each other, several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x: Tensor, blocks: Blocks) -> Tensor:
        """(T, d) -> (T, d), 0 in empty rows."""
        if not blocks.shapes:
            return torch.zeros_like(x)
        mixed = []
        lengths = _split(blocks.lengths, [n for n, _ in blocks.shapes])
        for qkv, inside in zip(blocks.spread(self.qkv(x)), lengths, strict=True):
            n, longest, width = qkv.shape
            heads = qkv.view(n, longest, 3, self.heads, width // (3 * self.heads)).permute(
                2, 0, 3, 1, 4
            )
            past = torch.arange(longest, device=x.device) >= inside[:, None]
            mix = self._mix if torch.is_grad_enabled() else self._mix_fused
            mixed.append(mix(heads, past).transpose(1, 2).flatten(2))
        return blocks.gather(mixed)

    @staticmethod
    def _mix(heads: Tensor, past: Tensor) -> Tensor:
        """Queries, keys and values (3, n, heads, L, k) of texts that end where ``past`` begins,
        (n, L) -> (n, heads, L, k).
        """
        _, n, count, longest, k = heads.shape
        q, keys, v = heads.reshape(3, n * count, longest, k).unbind(0)
        # Not -inf, which would make NaN of an empty text.
        bias = (past * -1e4).to(q.dtype).repeat_interleave(count, 0)[:, None]
        scores = torch.baddbmm(bias, q, keys.transpose(1, 2), alpha=k**-0.5)
        # In bfloat16 a softmax takes twice as long as in float32.
        return (_wide(scores).softmax(-1).to(v.dtype) @ v).view(n, count, longest, k)

    @staticmethod
    def _mix_fused(heads: Tensor, past: Tensor) -> Tensor:
        """The same by torch's fused kernel, faster in float32, whose backward is three times as
        slow as the plain one.
        """
        q, k, v = _wide(heads).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=~past[:, None, None])
        return out.to(heads.dtype)


def dropout(x: Tensor, p: float) -> Tensor:
    """Dropout to the nearest 1/256 of ``p``, with a random byte for each number.

    Drawing a float for each takes longer than the convolution (torch 2.13, CPU).
    """
    level = round(p * 256)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None)
    keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= level
    # Six times as fast as from bool, strange to say.
    return x * keep.view(torch.uint8).to(x.dtype).mul_(256 / (256 - level))


class DGCNN(nn.Module):
    """Subjects of texts, and objects of subjects.

    Args:
        config: Its settings.
    """

    def __init__(self, config: DGCNNConfig) -> None:
        super().__init__()
        self.config = c = config
        d = c.width
        self.gap = max(c.dilations)
        self.character = nn.Embedding(c.characters, d)
        self.position = nn.Embedding(c.positions, d)
        nn.init.normal_(self.character.weight, std=0.05)
        nn.init.zeros_(self.position.weight)
        if c.words:
            self.word = nn.Embedding(c.words, c.word_width).requires_grad_(False)
            self.word_map = nn.Linear(c.word_width, d, bias=False)
        self.layers = nn.ModuleList(
            GatedConvolution(d, dilation, dropout=c.gate_dropout, gate=c.gate)
            for dilation in c.dilations
        )
        self.prior_hidden = nn.ModuleList(nn.Linear(d, d) for _ in range(2))
        self.prior = nn.ModuleList(nn.Linear(d, 1) for _ in range(2))
        attended = 2 * d if c.attention else d
        if c.attention:
            self.subject_attention = SelfAttention(d, c.heads)
            self.object_attention = SelfAttention(d, c.heads)
        extra = 2 if c.distant else 0
        self.subject_convolution = Convolution(attended + extra, d)
        self.subject = nn.Linear(d, 2)
        self.predicate_hidden = nn.Linear(d, d)
        self.predicate = nn.Linear(d, c.predicates)
        self.subject_reader = nn.GRU(d, d, bidirectional=True)
        # One convolution over (text, attention, subject, features), its columns apart: the first
        # two are computed once for a text, the others for each of its subjects.
        extra = 2 + 2 * c.predicates if c.distant else 0
        self.object_base = Convolution(attended + extra, d, bias=False)
        self.object_subject = Convolution(2 * d, d)
        self.object_any = nn.Linear(d, 1)
        self.object = nn.Linear(d, 2 * c.predicates)

    def forward(
        self,
        tokens: Tensor,
        spans: Tensor,
        *,
        words: Tensor | None = None,
        distant: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Probabilities of subjects, and of the objects of one subject a text.

        Args:
            tokens: Character numbers (B, L), filled up with 0 at the end.
            spans: First and last position of a subject in each text, (B, 2).
            words: Word number of each character, (B, L); for a model with word vectors.
            distant: Features of distant supervision, 0 / 1, (B, L, 2 + 2 + 2 P): for subjects,
                then for objects.

        Returns:
            Start and end of subjects, (B, L, 2); start and end of objects, (B, L, P, 2). 0 where
            there is no text.
        """
        rows = Rows.of((tokens > 0).sum(-1), self.gap)
        texts, longest = tokens.shape
        place = rows.text[rows.real] * longest + rows.position[rows.real]  # (N,) in (B L)

        def laid(x: Tensor) -> Tensor:
            flat = x.new_zeros(len(rows.text), *x.shape[2:])
            return flat.index_copy(0, rows.real, x.flatten(0, 1).index_select(0, place))

        encoded = self.encode(
            laid(tokens),
            rows,
            words=None if words is None else laid(words),
            distant=None if distant is None else laid(distant),
        )
        # One subject a text: the rows of both are the same.
        scores = self.objects(encoded, torch.arange(texts, device=tokens.device), spans)
        subject = scores.new_zeros(texts * longest, 2).index_copy(0, place, encoded.subject.exp())
        objects = scores.new_zeros(texts * longest, *scores.shape[1:])
        objects = objects.index_copy(0, place, scores.exp())
        shape = texts, longest
        return subject.view(*shape, 2), objects.view(*shape, self.config.predicates, 2)

    def trunk(self, tokens: Tensor, rows: Rows, words: Tensor | None = None) -> Tensor:
        """States (T, d) of character numbers (T,), 0 in empty rows."""
        c = self.config
        x = self.character(tokens) + self.position(rows.position.clamp(max=c.positions - 1))
        if c.words:
            assert words is not None, "this model reads word numbers too"
            x = x + self.word_map(self.word(words) * (words > 0)[:, None])
        if self.training and c.dropout:
            x = dropout(x, c.dropout)
        states: Tensor = x.index_fill(0, rows.empty, 0)
        for layer in self.layers:
            states = layer(states, rows.empty)
        return states

    def encode(
        self,
        tokens: Tensor,
        rows: Rows,
        *,
        words: Tensor | None = None,
        distant: Tensor | None = None,
    ) -> Encoded:
        """Everything that does not depend on a subject; see :meth:`forward` for the arguments,
        which here have T rows in place of (B, L).
        """
        c = self.config
        t = self.trunk(tokens, rows, words)
        blocks = Blocks.of(rows)
        characters = t.index_select(0, rows.real)
        either = [F.relu(layer(characters)) for layer in self.prior_hidden]
        prior = torch.cat([layer(h) for layer, h in zip(self.prior, either, strict=True)], -1)
        prior = F.logsigmoid(_wide(prior))

        def features(attention: str, columns: slice) -> Tensor:
            parts = [t]
            if c.attention:
                parts.append(getattr(self, attention)(t, blocks).to(t.dtype))
            if c.distant:
                assert distant is not None, "this model reads features of distant supervision too"
                parts.append(distant[:, columns].to(t.dtype))
            return torch.cat(parts, -1)

        hidden = F.relu(self.subject_convolution(features("subject_attention", slice(2))))
        subject = _wide(self.subject(hidden.index_select(0, rows.real)))
        subject = F.logsigmoid(subject) + prior
        pooled = F.relu(self.predicate_hidden(_pool(t, blocks)))
        predicate = F.logsigmoid(_wide(self.predicate(pooled)))
        base = self.object_base(features("object_attention", slice(2, None)))
        return Encoded(rows, t, subject, prior, predicate, base.index_select(0, rows.real))

    def objects(self, encoded: Encoded, texts: Tensor, spans: Tensor) -> Tensor:
        """log p of objects of given subjects.

        Args:
            encoded: Of :meth:`encode`.
            texts: The text of each subject, (S,).
            spans: First and last position of each subject in its text, (S, 2).

        Returns:
            log p of starts and ends at each character of each subject's text, (N', P, 2), the texts
            one after the other in the order of the subjects.
        """
        c = self.config
        lengths = encoded.rows.lengths
        own = Rows.of(lengths[texts], 0)
        source = (lengths.cumsum(0) - lengths)[texts][own.text] + own.position  # (N',) in (N,)
        part = self._subject_part(self._subject_vectors(encoded, texts, spans), spans, own)
        hidden = F.relu(encoded.base.index_select(0, source) + part)
        some = F.logsigmoid(_wide(self.object_any(hidden)))  # (N', 1)
        each = F.logsigmoid(_wide(self.object(hidden))).view(-1, c.predicates, 2)
        shared = some + encoded.prior.index_select(0, source)  # (N', 2)
        predicate = encoded.predicate.index_select(0, texts).index_select(0, own.text)  # (N', P)
        return each + shared[:, None] + predicate[:, :, None]

    def _subject_part(self, vectors: Tensor, spans: Tensor, own: Rows) -> Tensor:
        """The object convolution over what a subject adds to each character, (N', d).

        That is its vector, everywhere the same, and two rows of the table of positions, those of
        the distances from its first and last character. A convolution is linear: over the table it
        is computed once, for each distance, and then looked up. What its taps would take from
        before the first and after the last character of a text is subtracted there.
        """
        d, most = self.config.width, self.config.positions - 1
        linear = self.object_subject.linear
        taps = linear.weight.view(d, 3, 2, d)  # outputs, taps, first or last character, inputs
        single = torch.einsum("pi,otki->tkpo", self.position.weight, taps)  # (3, 2, positions, d)
        offset = torch.arange(-most, most + 1, device=spans.device)
        near = (offset + torch.arange(-1, 2, device=spans.device)[:, None]).abs().clamp(max=most)
        table = torch.stack([single[tap].index_select(1, near[tap]) for tap in range(3)]).sum(0)
        whole = F.linear(vectors, taps.sum(1).flatten(1), linear.bias).index_select(0, own.text)
        place = own.position[:, None] - spans[own.text] + most  # (N', 2)
        part = whole + table[0].index_select(0, place[:, 0]) + table[1].index_select(0, place[:, 1])
        edges = []
        for tap, outside in ((0, torch.full_like(own.lengths, -1)), (2, own.lengths)):
            far = (outside[:, None] - spans).abs().clamp(max=most)  # (S, 2)
            beyond = F.linear(vectors, taps[:, tap].flatten(1))
            for end in range(2):
                beyond = beyond + single[tap, end].index_select(0, far[:, end])
            edges.append(beyond[own.lengths > 0])
        first, last = own.starts, own.starts + own.lengths - 1
        rows = torch.cat([first[own.lengths > 0], last[own.lengths > 0]])
        return part.index_add(0, rows, -torch.cat(edges).to(part.dtype))

    def _subject_vectors(self, encoded: Encoded, texts: Tensor, spans: Tensor) -> Tensor:
        """(S, 2 d): points from the first to the last character, read by the GRU both ways."""
        a = torch.linspace(0, 1, SUBJECT_POINTS, device=spans.device)
        k1, k2 = spans.unbind(-1)
        point = (k1 * (1 - a[:, None]) + k2 * a[:, None]).round().long()  # (6, S)
        states = encoded.states.index_select(0, (encoded.rows.starts[texts] + point).flatten())
        states = states.view(*point.shape, self.config.width)
        with torch.autocast(states.device.type, enabled=False):
            out, _ = self.subject_reader(states.to(self.position.weight.dtype))
        # Each direction's last state: forward at the last point, backward at the first.
        d = self.config.width
        return torch.cat([out[-1, :, :d], out[0, :, d:]], -1)


def _pool(t: Tensor, blocks: Blocks) -> Tensor:
    """The largest value of each column in each text, (B, d); 0 for an empty text."""
    if not blocks.shapes:
        return t.new_zeros(0, t.shape[-1])
    best = []
    lengths = _split(blocks.lengths, [n for n, _ in blocks.shapes])
    for padded, inside in zip(blocks.spread(t), lengths, strict=True):
        if not padded.shape[1]:  # nothing but empty texts
            best.append(t.new_zeros(len(padded), t.shape[-1]))
            continue
        past = torch.arange(padded.shape[1], device=t.device) >= inside[:, None]
        largest = padded.masked_fill(past[..., None], -torch.inf).amax(1)
        best.append(largest.masked_fill((inside == 0)[:, None], 0))
    return torch.cat(best).index_select(0, blocks.order.argsort())


def _split(x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """``torch.split``, also into no part."""
    return torch.split(x, sizes) if sizes else ()


def _wide(x: Tensor) -> Tensor:
    """At least float32: logarithms of probabilities near 1 need it."""
    return x if x.dtype == torch.float64 else x.float()
