"""The encoder for sentence vectors on a CPU: packed weights, no padding, nothing in vain.

Nearly all of the time goes into four products a layer (:mod:`kexue_core.packing`). The rest is kept
small: rows of padding do not exist, queries and keys are turned in place by one complex product,
and where only the first token's state is read, the last layer computes no other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_core.packing import linear
from kexue_roformer_sim.encoder import norm, rotation

if TYPE_CHECKING:
    from kexue_roformer_sim.encoder import Encoder, Layer

__all__ = ["Packed"]

#: Up to so many tokens, bfloat16 attention is a batched product, a softmax and another: twice as
#: fast as torch's fused one, whose memory does not grow with the square of the length.
EXPLICIT = 128


class Batch(NamedTuple):
    """Texts one after another, the shorter ones first; T tokens in all.

    Attributes:
        tokens: (T,).
        texts: Which text each belongs to, (T,).
        positions: Where in it, (T,).
        sizes: Texts of one length follow one another: how many there are, and their length.
        order: The texts in this order, (n,).
    """

    tokens: Tensor
    texts: Tensor
    positions: Tensor
    sizes: list[tuple[int, int]]
    order: Tensor

    def by_length(self, x: Tensor) -> list[Tensor]:
        """What belongs to the tokens, (T, ...), as one (n, length, ...) for each length."""
        parts = torch.split(x, [n * length for n, length in self.sizes])
        return [p.view(*size, *x.shape[1:]) for p, size in zip(parts, self.sizes, strict=True)]


def without_padding(tokens: Tensor) -> Batch:
    """The tokens (n, L) that are not 0, and the first of each text whatever it is."""
    present = tokens != 0
    present[:, 0] = True
    lengths, order = present.sum(-1).sort(stable=True)
    present = present[order]
    length, n = lengths.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]  # torch's
    return Batch(
        tokens=tokens[order][present],
        texts=order[:, None].expand_as(tokens)[present],
        positions=torch.arange(tokens.shape[1]).expand_as(tokens)[present],
        sizes=list(zip(n.tolist(), length.tolist(), strict=True)),
        order=order,
    )


class Packed:
    """The encoder with packed weights. It shares nothing with the model but its sizes.

    Args:
        model: On the CPU.
        dtype: float32 or bfloat16.
    """

    def __init__(self, model: Encoder, dtype: torch.dtype) -> None:
        self.config = model.config
        self.dtype = dtype
        self.embeddings = _copy(model.embeddings)
        project = model.embeddings.project
        self.project = linear(project.weight, project.bias, dtype=dtype) if project else None
        self.layers = [_PackedLayer(layer, dtype) for layer in model.layers]  # type: ignore[arg-type]
        self.last = None
        if model.layers and self.config.pooling == "cls":
            self.last = _FirstTokens(model.layers[-1], self.layers[-1])  # type: ignore[arg-type]
        # Once a sentence: not worth rounding.
        self.pooler = (model.pooler.weight.detach().float(), model.pooler.bias.detach().float())
        self.token_weight = (
            None if model.token_weight is None else model.token_weight.detach().float()
        )

    def __call__(self, tokens: Tensor) -> Tensor:
        """Sentence vectors (n, hidden_size), float32, of tokens (n, L) without a second segment.

        Args:
            tokens: int64, 0 for padding.
        """
        if not len(tokens):
            return torch.empty(0, self.config.hidden_size)
        batch = without_padding(tokens)
        if self.config.pooling == "cls":
            pooled = self.run(batch, first_only=True).float()
        else:
            pooled = self.mean(self.run(batch).float(), batch)
        vectors = F.linear(pooled, *self.pooler)
        return vectors[batch.order.argsort()]

    def states(self, tokens: Tensor) -> Tensor:
        """States (n, L, hidden_size) of tokens (n, L), in the dtype of the weights; 0 at padding.

        The first of a text counts even if it is padding.
        """
        n, length = tokens.shape
        if not n:
            return torch.empty(n, length, self.config.hidden_size, dtype=self.dtype)
        batch = without_padding(tokens)
        x = self.run(batch)
        if batch.sizes == [(n, length)]:
            return x.view(n, length, -1)
        states = x.new_zeros(n, length, x.shape[-1])
        states[batch.texts, batch.positions] = x
        return states

    def run(self, batch: Batch, *, first_only: bool = False) -> Tensor:
        """States (T, hidden_size) of the tokens, or (n, hidden_size) of each text's first one."""
        c, e = self.config, self.embeddings
        length = int(batch.positions.max()) + 1
        x = F.embedding(batch.tokens, e["tokens"]) + e["segments"][0]
        if "positions" in e:
            x = x + e["positions"][batch.positions]
        x = F.layer_norm(x, x.shape[-1:], e["norm.weight"], e["norm.bias"], c.norm_eps)
        x = x.to(self.dtype)
        if self.project:
            x = self.project(x)
        turns = None
        if c.positions == "rope":
            table = rotation(torch.arange(length), c.hidden_size // c.heads, torch.float32)
            turns = torch.complex(*table)[batch.positions]
        if not first_only or self.last is None:
            for layer in self.layers:
                x = layer(x, turns, batch)
            return _firsts(x, batch) if first_only else x
        for layer in self.layers[:-1]:
            x = layer(x, turns, batch)
        return self.last(x, turns, batch)

    def mean(self, x: Tensor, batch: Batch) -> Tensor:
        """Weighted means (n, hidden_size) of the states of each text."""
        weights = (batch.tokens != 0).float()
        if self.token_weight is not None:
            weights = weights * self.token_weight[batch.tokens].exp()
        return torch.cat(
            [
                torch.einsum("nl,nlh->nh", w / w.sum(-1, keepdim=True).clamp(min=1e-6), states)
                for w, states in zip(batch.by_length(weights), batch.by_length(x), strict=True)
            ]
        )


class _PackedLayer:
    def __init__(self, layer: Layer, dtype: torch.dtype) -> None:
        self.heads = layer.heads
        self.dtype = dtype
        weight, bias = (_as_complex(p, layer.heads) for p in (layer.qkv.weight, layer.qkv.bias))
        self.qkv = linear(weight, bias, dtype=dtype)
        self.attention = linear(layer.attention.weight, layer.attention.bias, dtype=dtype)
        self.inner = linear(layer.inner.weight, layer.inner.bias, dtype=dtype, activation="gelu")
        self.outer = linear(layer.outer.weight, layer.outer.bias, dtype=dtype)
        self.norms = [_cast(layer.norm1, dtype), _cast(layer.norm2, dtype)]

    def __call__(self, x: Tensor, turns: Tensor | None, batch: Batch) -> Tensor:
        """States (T, width) of those before.

        Args:
            x: (T, width).
            turns: exp(i angle), complex, (T, d / 2).
            batch: What ``x`` belongs to.
        """
        qkv = _turn(self.qkv(x).view(len(x), 3, self.heads, -1), turns)
        return self.rest(x, _join([self.mix(part) for part in batch.by_length(qkv)]))

    def mix(self, qkv: Tensor) -> Tensor:
        """Attention of n texts of L tokens: (n, L, 3, heads, d) to (n L, width)."""
        qkv = qkv.permute(2, 0, 3, 1, 4)
        if self.dtype == torch.bfloat16:
            qkv = qkv.to(self.dtype, memory_format=torch.contiguous_format)
        return _attend(*qkv).transpose(1, 2).flatten(2).flatten(0, 1)

    def rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention, of rows (m, width)."""
        x = norm(self.attention(mixed).add_(x), self.norms[0])
        return norm(self.outer(self.inner(x)).add_(x), self.norms[1])


class _FirstTokens:
    """A layer for the first token of each text alone, which needs no more of the others than keys.

    sum_j p_j (W x_j + b) = W (sum_j p_j x_j) + b: values are not computed either.
    """

    def __init__(self, layer: Layer, packed: _PackedLayer) -> None:
        self.packed = packed
        weights, biases = (
            _as_complex(p, layer.heads).to(packed.dtype).chunk(3)
            for p in (layer.qkv.weight, layer.qkv.bias)
        )
        self.query, self.key = (
            linear(*parts, dtype=packed.dtype)
            for parts in zip(weights[:2], biases[:2], strict=True)
        )
        self.value = weights[2].view(layer.heads, -1, weights[2].shape[1]).transpose(1, 2)
        self.bias = biases[2]

    def __call__(self, x: Tensor, turns: Tensor | None, batch: Batch) -> Tensor:
        """States (n, width) of those before, (T, width)."""
        heads, width = self.packed.heads, x.shape[-1]
        firsts = _firsts(x, batch)
        # The first position is 0, where nothing turns.
        queries = self.query(firsts).float().view(len(firsts), heads, -1)
        keys = _turn(self.key(x).view(len(x), 1, heads, -1), turns).float().squeeze(1)
        means = []
        for q, k, states in zip(
            torch.split(queries, [n for n, _ in batch.sizes]),
            batch.by_length(keys),
            batch.by_length(x),
            strict=True,
        ):
            scores = torch.einsum("nhd,nlhd->nhl", q, k)
            means.append(scores.softmax(-1).to(x.dtype) @ states)
        values = _join(means).transpose(0, 1) @ self.value  # (heads, n, d)
        mixed = values.transpose(0, 1).reshape(-1, width) + self.bias
        return self.packed.rest(firsts, mixed)


def _turn(x: Tensor, turns: Tensor | None) -> Tensor:
    """Queries and keys (T, ..., heads, d) turned: the first two of three, or the first of one.

    In float32, and in place where ``x`` is.
    """
    if turns is None:
        return x
    x = x.float()
    pairs = torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))
    pairs[:, :2].mul_(turns[:, None, None])
    return x


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k') v of (n, heads, L, d), the queries divided by sqrt(d) before."""
    if q.dtype != torch.bfloat16 or k.shape[2] > EXPLICIT:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def _firsts(x: Tensor, batch: Batch) -> Tensor:
    """The rows (n, width) of the texts' first tokens."""
    return _join([part[:, 0] for part in batch.by_length(x)])


def _join(parts: list[Tensor]) -> Tensor:
    """One after another; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _as_complex(qkv: Tensor, heads: int) -> Tensor:
    """Rows of queries and keys reordered so that the pairs that turn are neighbours.

    That is (x_2i, x_2i+1) as published, undoing :func:`.encoder.halves_from_pairs`: a complex
    number. Queries are divided by sqrt(d) as well, exactly where d is 64.

    Args:
        qkv: (3 width, ...).
        heads: Number of heads.
    """
    q, k, v = qkv.detach().float().chunk(3)
    pairs = (heads, 2, len(q) // heads // 2, -1)
    q = q / math.sqrt(len(q) // heads)
    q, k = (t.reshape(pairs).transpose(1, 2).reshape(t.shape) for t in (q, k))
    return torch.cat([q, k, v])


def _copy(embeddings: nn.Module) -> dict[str, Tensor]:
    """The tables as float32: they are looked up, and what is looked up is rounded later."""
    tables = {k: v.detach().float() for k, v in embeddings.named_parameters()}
    return {
        k.removesuffix(".weight") if k.count(".") == 1 and "norm" not in k else k: v
        for k, v in tables.items()
    }


def _cast(layer: nn.LayerNorm, dtype: torch.dtype) -> nn.LayerNorm:
    made = nn.LayerNorm(layer.normalized_shape, eps=layer.eps, dtype=dtype)
    made.load_state_dict(layer.state_dict())
    return made.requires_grad_(False)
