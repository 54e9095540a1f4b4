"""The net on a CPU: packed weights, and for sentence vectors no padding and nothing in vain.

Nearly all of the time goes into four products a layer; torch hands oneDNN a plain weight for them
and has it reordered at every call. Packed once into the layout that the kernel wants, they run at
nine tenths of what the processor can do, and the GELU is done while the result is in registers. The
rest is kept small: rows of padding do not exist, queries and keys are turned in place by one
complex product, and of the last layer only the first token is computed where only that is read.
Writing keeps the module as it is, around packed products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_roformer_sim.encoder import Encoder, norm, rotation

if TYPE_CHECKING:
    from kexue_roformer_sim.encoder import Head, Layer

__all__ = ["Packed", "linear", "writer"]

#: Rows of the products that weights are packed for: 64 texts of 32 tokens.
ROWS = 2048

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
        self.project = linear(project.weight, project.bias, dtype) if project else None
        self.layers = [_PackedLayer(layer, dtype) for layer in model.layers]  # type: ignore[arg-type]
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
        """States (T, hidden_size) of the tokens; with ``first_only`` (n, hidden_size) of the first.

        All that the last layer then computes of a text's other tokens is their keys and values.
        """
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
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, turns, batch, first_only=first_only and i == last)
        return _firsts(x, batch) if first_only and not self.layers else x

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
        self.qkv = linear(weight, bias, dtype)
        self.attention = linear(layer.attention.weight, layer.attention.bias, dtype)
        self.inner = linear(layer.inner.weight, layer.inner.bias, dtype, "gelu")
        self.outer = linear(layer.outer.weight, layer.outer.bias, dtype)
        self.norms = [_cast(layer.norm1, dtype), _cast(layer.norm2, dtype)]

    def __call__(
        self, x: Tensor, turns: Tensor | None, batch: Batch, *, first_only: bool
    ) -> Tensor:
        """States of the tokens, (T, width) or (n, width), of those before.

        Args:
            x: (T, width).
            turns: exp(i angle), complex, (T, d / 2).
            batch: What ``x`` belongs to.
            first_only: See :meth:`Packed.run`.
        """
        qkv = self.qkv(x)
        if turns is not None:
            qkv = qkv.float()  # the same, turned in place, where it is float32
            pairs = torch.view_as_complex(qkv.view(len(x), 3, self.heads, -1, 2))
            pairs[:, :2].mul_(turns[:, None, None])
        mixed = _join([self.mix(part, first_only) for part in batch.by_length(qkv)])
        if first_only:
            x = _firsts(x, batch)
        x = norm(self.attention(mixed).add_(x), self.norms[0])
        return norm(self.outer(self.inner(x)).add_(x), self.norms[1])

    def mix(self, qkv: Tensor, first_only: bool) -> Tensor:
        """Attention of n texts of L tokens: (n, L, 3 width) to (n L, width) or (n, width)."""
        n, length, width = qkv.shape
        qkv = qkv.view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.dtype == torch.bfloat16:
            qkv = qkv.to(self.dtype, memory_format=torch.contiguous_format)
        q, k, v = qkv
        mixed = _attend(q[:, :, :1] if first_only else q, k, v)
        return mixed.transpose(1, 2).reshape(-1, width // 3)


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


def writer(model: Encoder) -> Encoder:
    """The model around packed products: to write with, token by token.

    It shares the weights that are not packed, and does not see when they change.
    """
    with torch.device("meta"):
        made = Encoder(model.config)
    made.load_state_dict(model.state_dict(), assign=True)
    if model.head is not None:
        made.head = _Head(model.head, model.embeddings.tokens.weight)  # type: ignore[assignment]
    for module in list(made.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, nn.Linear):
                setattr(module, name, _Linear(part))
    return made.eval()


class _Linear(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.run = linear(layer.weight, layer.bias, layer.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class _Head(nn.Module):
    def __init__(self, head: Head, tokens: Tensor) -> None:
        super().__init__()
        self.dense = linear(head.dense.weight, head.dense.bias, tokens.dtype, "gelu")
        self.norm = head.norm
        self.tokens = linear(tokens, head.bias, tokens.dtype)

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        # The table of tokens is packed.
        return self.tokens(norm(self.dense(hidden), self.norm))


def linear(
    weight: Tensor, bias: Tensor, dtype: torch.dtype, attr: str = "none"
) -> Callable[[Tensor], Tensor]:
    """A linear map with a packed weight, followed by ``attr``: ``"none"`` or ``"gelu"``."""
    weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), ROWS)
    bias = bias.detach().to(dtype)
    algorithm = "none" if attr == "gelu" else ""

    def run(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, attr, [], algorithm)
        return y

    return run


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
