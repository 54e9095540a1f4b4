"""An autoregressive prior over a grid of codes: with it, a codec generates.

A causal transformer reads the codes row by row and gives, for each, the distribution of the next.
Trained on the codes of images, it draws new grids, which the codec decodes.

References:
    [1] van den Oord et al., Neural Discrete Representation Learning, 2017, section 3.3.
        arXiv 1711.00937
    [2] Vaswani et al., Attention Is All You Need, 2017; here with the norm before each sublayer.
        arXiv 1706.03762
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CodePrior", "CodePriorConfig", "code_prior_input", "draw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePriorConfig:
    """What a `CodePrior` is built from.

    Attributes:
        shape: Height and width of the grid of codes.
        num_embeddings: K, number of codes.
        width: Of the transformer; a multiple of `heads`.
        depth: Its blocks.
        heads: Its attention heads.
        dropout: While training, of what each sublayer adds.
    """

    shape: tuple[int, int] = (8, 8)
    num_embeddings: int = 1024
    width: int = 192
    depth: int = 4
    heads: int = 6
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = (*self.shape, self.num_embeddings, self.width, self.depth, self.heads)
        if len(self.shape) != 2 or min(sizes) < 1:
            raise ValueError("shape must hold two sizes, and every size be >= 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class CodePrior(nn.Module):
    """p(codes) = prod_i p(code_i | codes before it), in raster order.

    It knows codes only. `attach` gives it the codec that its codes belong to, for `from_codes`; the
    codec is no part of its parameters or of its saved weights.
    """

    def __init__(self, config: CodePriorConfig) -> None:
        super().__init__()
        self.config = config
        height, width = config.shape
        self.token = nn.Embedding(config.num_embeddings, config.width)
        self.start = nn.Parameter(torch.zeros(config.width))
        self.row = nn.Parameter(torch.zeros(height, 1, config.width))
        self.column = nn.Parameter(torch.zeros(1, width, config.width))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.num_embeddings)
        for parameter in (self.token.weight, self.start, self.row, self.column, self.head.weight):
            nn.init.normal_(parameter, std=0.02)
        self._codec: tuple[nn.Module, ...] = ()  # in a tuple, where nn.Module does not look

    @property
    def code_shape(self) -> tuple[int, int]:
        """(height, width) of the grid."""
        return self.config.shape

    def forward(self, codes: Tensor) -> Tensor:
        """Logits (n, height, width, K) of each code, given those before it.

        Raises:
            ValueError: The codes are no integers (n, height, width) of 0 to K - 1.
        """
        self._check(codes)
        n = len(codes)
        tokens = self.token(codes.flatten(1)[:, :-1])
        x = torch.cat([self.start.expand(n, 1, -1), tokens], dim=1) + self._positions()
        for block in self.blocks:
            x, _ = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits.view(n, *self.config.shape, logits.shape[-1])

    def log_prob(self, codes: Tensor) -> Tensor:
        """log p of grids (n, height, width), in nats, (n,); errors as `forward`."""
        logits = self(codes).movedim(-1, 1)
        return -F.cross_entropy(logits, codes, reduction="none").flatten(1).sum(1)

    @torch.no_grad()
    def sample_codes(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw grids of codes (n, height, width), one code after the other.

        All random numbers of a grid are drawn before those of the next, so that grid *i* of a seed
        is the same however many are drawn.

        Args:
            n: Number of grids.
            temperature: Divides the logits; 0 takes the likeliest code.
            top_k: Only the k likeliest codes are drawn from; 0 for all.
            generator: Source of all randomness, on the CPU.

        Raises:
            ValueError: An argument is negative.
        """
        if n < 0 or not temperature >= 0 or top_k < 0:
            raise ValueError(
                f"n, temperature and top_k must be >= 0, got {n}, {temperature}, {top_k}"
            )
        length = math.prod(self.config.shape)
        uniform = torch.empty(n, length, dtype=torch.float64)
        for row in uniform:
            torch.rand(length, generator=generator, dtype=torch.float64, out=row)
        device = self.start.device
        positions, codes = self._positions(), torch.zeros(n, length, dtype=torch.long)
        codes, uniform = codes.to(device), uniform.to(device)
        caches: list[Any] = [None] * len(self.blocks)
        x = self.start.expand(n, 1, -1)
        for i in range(length):
            x = x + positions[i]
            for k, block in enumerate(self.blocks):
                x, caches[k] = block(x, caches[k])
            logits = self.head(self.norm(x[:, 0]))
            codes[:, i] = draw(logits, uniform[:, i], temperature=temperature, top_k=top_k)
            x = self.token(codes[:, i : i + 1])
        return codes.reshape(n, *self.config.shape)

    def attach(self, required: Sequence[nn.Module]) -> None:
        """Take the one codec that decodes these codes; it is moved along with the prior.

        Raises:
            ValueError: It is not one, is no codec, or its codes are others.
        """
        if len(required) != 1 or not hasattr(required[0], "from_codes"):
            raise ValueError("a code prior requires exactly one codec")
        [codec] = required
        config: Any = codec.config
        shape, size = tuple(getattr(codec, "code_shape", ())), config.num_embeddings
        if (shape, size) != (self.config.shape, self.config.num_embeddings):
            raise ValueError(
                f"the codec's codes are {shape} of {size}, "
                f"the prior's {self.config.shape} of {self.config.num_embeddings}"
            )
        self._codec = (codec.eval().to(self.start.device),)

    def from_codes(self, codes: Tensor) -> Tensor:
        """Data in [0, 1] of codes (n, height, width), by the codec.

        Raises:
            ValueError: No codec is attached, or codes as in `forward`.
        """
        if not self._codec:
            raise ValueError(
                "this prior has no codec: load its weights by kexue.load, or attach one"
            )
        self._check(codes)
        codec: Any = self._codec[0]
        data: Tensor = codec.from_codes(codes)
        return data

    def _apply(self, fn: Any, recurse: bool = True) -> CodePrior:
        for codec in self._codec:
            codec._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _positions(self) -> Tensor:
        return (self.row + self.column).flatten(0, 1)  # (height * width, channels)

    def _check(self, codes: Tensor) -> None:
        if tuple(codes.shape[1:]) != self.config.shape or codes.dtype != torch.long:
            raise ValueError(
                f"codes must be int64 (n, {self.config.shape[0]}, {self.config.shape[1]}), "
                f"got {codes.dtype} of {tuple(codes.shape)}"
            )
        size = self.config.num_embeddings
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise ValueError(
                f"codes must be 0 to {size - 1}, got {int(codes.min())} to {int(codes.max())}"
            )


class _Block(nn.Module):
    """Causal self-attention and a two-layer net, each added to its input [2]."""

    def __init__(self, config: CodePriorConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (n, t, width) after those of the cache; returns the result and the new cache."""
        n, t, width = x.shape
        qkv = self.qkv(self.norms[0](x)).view(n, t, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, t, width / heads)
        if cache is not None:
            k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        # With a cache there is one query, which may see everything.
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x = x + self.dropout(self.project(attended.transpose(1, 2).reshape(n, t, width)))
        return x + self.dropout(self.net(self.norms[1](x))), (k, v)


def draw(logits: Tensor, uniform: Tensor, *, temperature: float = 1.0, top_k: int = 0) -> Tensor:
    """One class a row by inverting the distribution function, so that one number decides it.

    Args:
        logits: (n, K).
        uniform: (n,) in [0, 1).
        temperature: Divides the logits; 0 takes the likeliest class.
        top_k: Only the k likeliest; 0 for all.

    Returns:
        (n,), int64.
    """
    logits = logits.double()
    if temperature == 0:
        return logits.argmax(1)
    if 0 < top_k < logits.shape[1]:
        least = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    upper = (logits / temperature).softmax(1).cumsum(1)
    # Rounding may leave the last bound below 1: scale the number, not the bounds.
    chosen = torch.searchsorted(upper, (uniform[:, None] * upper[:, -1:]), right=True)
    return chosen[:, 0].clamp(max=logits.shape[1] - 1)


def code_prior_input(model: CodePrior, n: int, generator: torch.Generator) -> Tensor:
    """`n` grids of codes, the first of them the same whatever `n`."""
    size = model.config.num_embeddings
    drawn = [torch.randint(size, model.code_shape, generator=generator) for _ in range(n)]
    return torch.stack(drawn) if n else torch.zeros(0, *model.code_shape, dtype=torch.long)
