"""RoFormer with the UniLM mask: one net that encodes a sentence and writes another like it.

BERT is the same net with learned positions instead of rotations (SimBERT). Runs without kexue when
copied out.

References:
    [1] Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding. arXiv 2104.09864
    [2] Dong et al., Unified Language Model Pre-training (UniLM). arXiv 1905.03197
    [3] Su Jianlin, SimBERT, https://kexue.fm/archives/7427; RoFormer-Sim, /archives/8454
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Encoded",
    "Encoder",
    "EncoderConfig",
    "KeyValues",
    "allowed",
    "attend",
    "halves_from_pairs",
    "norm",
    "rotate",
    "rotation",
]

#: Keys and values of one layer, each (n, heads, L, d).
KeyValues = tuple[Tensor, Tensor]

#: float16 holds no 1e-12: below this a constant row would divide by zero there.
LEAST_HALF_EPS = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Settings of :class:`Encoder`; the defaults are those of RoFormer-Sim base.

    Attributes:
        vocab_size: Rows of the token table; row 0 is padding.
        embedding_size: Length of a token's vector; where it is not ``hidden_size``, one linear map
            follows.
        hidden_size: Width of the layers and length of the sentence vector.
        layers: Number of layers; 0 leaves the embeddings alone.
        heads: Attention heads; ``hidden_size / heads`` is even.
        intermediate_size: Width of the feed-forward nets.
        segments: Rows of the segment table.
        positions: ``"rope"`` rotates queries and keys [1], ``"learned"`` adds a table (BERT).
        max_positions: Rows of that table; without meaning for ``"rope"``, which has no end.
        pooling: The sentence vector is a linear map of the first token's state (``"cls"``), or of
            the mean over the first segment (``"mean"``).
        token_weights: Weigh that mean by a learned exp(weight) of each token.
        rewrites: Whether there is a head that predicts tokens.
        max_length: Tokens of a text that count, the marks at its ends among them.
        vocabulary: ``"shipped"`` for the first ``vocab_size`` of RoFormer-Sim's tokens, ``"own"``
            for a ``vocab.txt`` beside the weights.
        dropout: Probability of a dropped state in training.
        norm_eps: Added to variances.
    """

    vocab_size: int = 12_000
    embedding_size: int = 768
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    intermediate_size: int = 3072
    segments: int = 2
    positions: Literal["rope", "learned"] = "rope"
    max_positions: int = 512
    pooling: Literal["cls", "mean"] = "cls"
    token_weights: bool = False
    rewrites: bool = True
    max_length: int = 64
    vocabulary: Literal["shipped", "own"] = "shipped"
    dropout: float = 0.1
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.positions not in ("rope", "learned"):
            raise ValueError(f"positions must be 'rope' or 'learned', not {self.positions!r}")
        if self.pooling not in ("cls", "mean"):
            raise ValueError(f"pooling must be 'cls' or 'mean', not {self.pooling!r}")
        if self.token_weights and self.pooling != "mean":
            raise ValueError("token_weights weigh a mean: set pooling='mean'")
        if self.vocabulary not in ("shipped", "own"):
            raise ValueError(f"vocabulary must be 'shipped' or 'own', not {self.vocabulary!r}")
        for name in ("vocab_size", "embedding_size", "hidden_size", "heads", "segments"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.layers < 0 or self.intermediate_size < 1:
            raise ValueError("layers must be at least 0, intermediate_size at least 1")
        if self.hidden_size % (2 * self.heads):
            raise ValueError("hidden_size must be an even multiple of heads: RoPE turns pairs")
        if self.max_length < 3:
            raise ValueError("max_length must be at least 3: [CLS], a token, [SEP]")
        if self.positions == "learned" and self.max_length > self.max_positions:
            raise ValueError("max_length must not exceed max_positions")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must be in [0, 1)")


class Encoded(NamedTuple):
    """What the net says of a batch.

    Attributes:
        hidden: States of the last layer, (n, L, hidden_size).
        vector: Sentence vector of the first segment, (n, hidden_size), not normalised.
        logits: Of the next token: (n, L, vocab_size), or (m, vocab_size) of the positions asked
            for, or ``None``.
    """

    hidden: Tensor
    vector: Tensor
    logits: Tensor | None


def rotation(positions: Tensor, size: int, dtype: torch.dtype) -> KeyValues:
    """Cosine and sine (L, size / 2) of the angles m theta_i, theta_i = 10000^(-2i / size) [1].

    The tables are computed and never loaded: checkpoints order them in several ways.
    """
    exponents = torch.arange(0, size, 2, device=positions.device, dtype=torch.float64) / size
    angles = positions.double()[:, None] * torch.exp(-math.log(10_000.0) * exponents)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, angles: KeyValues) -> Tensor:
    """Turn the pairs (x_i, x_{i + d/2}) of (..., L, d) by the angles of their positions.

    RoPE as published turns neighbours (x_2i, x_2i+1). Scores q . k do not know the order of their
    components, so the rows of the projections are permuted once (:func:`halves_from_pairs`) and
    the halves stay contiguous here.
    """
    cos, sin = angles
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a projection to queries or keys: in each head, the even ones first.

    Args:
        weight: (hidden, ...) whose pairs are neighbours, as all public checkpoints have it.
        heads: Number of heads.
    """
    by_head = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return by_head.transpose(1, 2).reshape(weight.shape)


def allowed(tokens: Tensor, segments: Tensor | None) -> Tensor:
    """Which position may look at which: (n, 1, 1 or L, L), true for yes.

    UniLM [2]: with c the cumulative sum of the segments, i sees j where c_j <= c_i. The first
    segment (zeros) sees itself in both directions, the second (ones) all of the first and itself up
    to i. Padding (token 0) is seen by nobody; a row of nothing but padding sees itself, so that no
    softmax is over nothing.
    """
    seen = tokens != 0
    seen = (seen | ~seen.any(-1, keepdim=True))[:, None, None]
    if segments is None:
        return seen
    order = segments.cumsum(-1)
    return seen & (order[:, None, None, :] <= order[:, None, :, None])


class Embeddings(nn.Module):
    """Tokens plus segments (plus positions), normalised, mapped to the width of the layers."""

    def __init__(self, c: EncoderConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(c.vocab_size, c.embedding_size)
        self.segments = nn.Embedding(c.segments, c.embedding_size)
        self.positions = (
            nn.Embedding(c.max_positions, c.embedding_size) if c.positions == "learned" else None
        )
        self.norm = nn.LayerNorm(c.embedding_size, eps=c.norm_eps)
        self.dropout = nn.Dropout(c.dropout)
        self.project = (
            nn.Linear(c.embedding_size, c.hidden_size)
            if c.embedding_size != c.hidden_size
            else None
        )

    def forward(self, tokens: Tensor, segments: Tensor | None, positions: Tensor) -> Tensor:
        """(n, L) tokens to (n, L, hidden_size)."""
        x = self.tokens(tokens)
        x = x + (self.segments.weight[0] if segments is None else self.segments(segments))
        if self.positions is not None:
            x = x + self.positions(positions)
        x = self.dropout(norm(x, self.norm))
        mapped: Tensor = x if self.project is None else self.project(x)
        return mapped


class Layer(nn.Module):
    """Post-LN: x = LN(x + attention(x)), x = LN(x + W2 gelu(W1 x)); biases everywhere."""

    def __init__(self, c: EncoderConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.qkv = nn.Linear(c.hidden_size, 3 * c.hidden_size)  # one product instead of three
        self.attention = nn.Linear(c.hidden_size, c.hidden_size)
        self.norm1 = nn.LayerNorm(c.hidden_size, eps=c.norm_eps)
        self.inner = nn.Linear(c.hidden_size, c.intermediate_size)
        self.outer = nn.Linear(c.intermediate_size, c.hidden_size)
        self.norm2 = nn.LayerNorm(c.hidden_size, eps=c.norm_eps)
        self.dropout = nn.Dropout(c.dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, angles: KeyValues | None, past: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        """States (n, L, hidden_size), and keys and values with those of the ``past`` before."""
        q, k, v = self.split(self.qkv(x), angles)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        mixed = attend(q, k, v, mask)
        mixed = self.attention(mixed.transpose(1, 2).flatten(2))
        x = norm(x + self.dropout(mixed), self.norm1)
        fed = self.outer(F.gelu(self.inner(x)))
        return norm(x + self.dropout(fed), self.norm2), (k, v)

    def split(self, qkv: Tensor, angles: KeyValues | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (n, heads, L, d); the first two rotated."""
        size = qkv.shape[-1] // (3 * self.heads)
        q, k, v = qkv.view(*qkv.shape[:-1], 3, self.heads, size).permute(2, 0, 3, 1, 4)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, k, v


class Head(nn.Module):
    """Logits of tokens: LN(gelu(Linear(h))) times the token table, plus a bias."""

    def __init__(self, c: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(c.hidden_size, c.embedding_size)
        self.norm = nn.LayerNorm(c.embedding_size, eps=c.norm_eps)
        self.bias = nn.Parameter(torch.zeros(c.vocab_size))

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """(..., hidden_size) and the token table to (..., vocab_size)."""
        return F.linear(norm(F.gelu(self.dense(hidden)), self.norm), tokens, self.bias)


class Encoder(nn.Module):
    """The net: embeddings, layers, the pooler that makes sentence vectors, the head that writes."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embeddings = Embeddings(c)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.pooler = nn.Linear(c.hidden_size, c.hidden_size)
        self.token_weight = nn.Parameter(torch.zeros(c.vocab_size)) if c.token_weights else None
        self.head = Head(c) if c.rewrites else None
        self.apply(_initialise)

    def forward(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        predict: Tensor | bool = False,
        depth: int | None = None,
    ) -> Encoded:
        """Encode a batch.

        Args:
            tokens: (n, L) int64, 0 for padding.
            segments: (n, L) int64: 0 for the text, 1 for what is written after it. ``None`` for
                texts alone.
            predict: Where to give logits: everywhere, nowhere, or at the true positions (n, L).
            depth: Run only so many layers: for training in stages.

        Raises:
            ValueError: ``predict`` without a head, or learned positions that do not suffice.
        """
        hidden, _ = self.run(tokens, segments, depth=depth)
        logits = None
        if predict is not False:
            logits = self.predict(hidden if predict is True else hidden[predict])
        return Encoded(hidden, self.pool(hidden, tokens, segments), logits)

    def run(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        past: Sequence[KeyValues] | None = None,
        mask: Tensor | None = None,
        depth: int | None = None,
    ) -> tuple[Tensor, list[KeyValues]]:
        """States (n, L, hidden_size), and each layer's keys and values for what comes after.

        Args:
            tokens: (n, L).
            segments: (n, L) or ``None``.
            past: What an earlier call gave for the tokens before these, which all may be seen.
            mask: Which keys may be seen, (n, 1, 1 or L, past + L); :func:`allowed` by default, and
                with a ``past`` every one.
            depth: Layers to run; all by default.

        Raises:
            ValueError: The table of learned positions has fewer rows.
        """
        c = self.config
        start = past[0][0].shape[2] if past else 0
        stop = start + tokens.shape[1]
        if c.positions == "learned" and stop > c.max_positions:
            raise ValueError(f"{stop} tokens, and positions are learned for {c.max_positions}")
        positions = torch.arange(start, stop, device=tokens.device)
        x = self.embeddings(tokens, segments, positions)
        angles = None
        if c.positions == "rope":
            angles = rotation(positions, c.hidden_size // c.heads, x.dtype)
        if mask is None and past is None:
            mask = allowed(tokens, segments)
        kept: list[KeyValues] = []
        for i, layer in enumerate(self.layers[:depth]):
            x, keys_values = layer(x, mask, angles, past[i] if past else None)
            kept.append(keys_values)
        return x, kept

    def pool(self, hidden: Tensor, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Sentence vectors (n, hidden_size) of states (n, L, hidden_size): a linear map, no tanh.

        The first token sees the first segment only, and the mean is over that segment, so what is
        written after a text never changes its vector.
        """
        if self.config.pooling == "cls":
            first: Tensor = self.pooler(hidden[:, 0])
            return first
        inside = tokens != 0
        if segments is not None:
            inside = inside & (segments == 0)
        weights = inside.to(hidden.dtype)
        if self.token_weight is not None:
            weights = weights * self.token_weight[tokens].exp()
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        mean: Tensor = self.pooler(torch.einsum("nl,nlh->nh", weights, hidden))
        return mean

    def predict(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) of states (..., hidden_size).

        Raises:
            ValueError: These weights have no head (``rewrites=False``).
        """
        if self.head is None:
            raise ValueError("These weights have no head that predicts tokens (rewrites=False)")
        logits: Tensor = self.head(hidden, self.embeddings.tokens.weight)
        return logits


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(d)) v over the allowed, (n, heads, L, d)."""
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # Its bfloat16 backward is 6 to 8 times slower than float32's at the length of a sentence.
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask)
    return F.scaled_dot_product_attention(q, k, v, mask)


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    """Layer normalisation with an eps that the dtype can hold."""
    eps = max(layer.eps, LEAST_HALF_EPS) if x.dtype == torch.float16 else layer.eps
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, eps)


def _initialise(module: nn.Module) -> None:
    """BERT's start: normal with deviation 0.02, biases 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
