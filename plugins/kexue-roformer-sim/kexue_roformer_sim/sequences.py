"""Token tensors of training: a text and its rewrite in one row, and the text with holes in it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["corrupt", "join", "targets_of"]

#: BERT's mix for a chosen token: this share [MASK], the next a random token, the rest as it was.
MASKED, RANDOM = 0.8, 0.1


def join(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and segments (n, L) of ``[CLS] first [SEP]`` and, as segment 1, ``second [SEP]``.

    Args:
        first, second: (n, L1) and (n, L2), both with [CLS] and [SEP], filled up with 0.
    """
    lengths = (first != 0).sum(-1, keepdim=True)
    rest = second[:, 1:]  # without its [CLS]
    size = first.shape[1] + rest.shape[1]
    tokens = torch.zeros(len(first), size, dtype=first.dtype, device=first.device)
    tokens[:, : first.shape[1]] = first
    places = lengths + torch.arange(rest.shape[1], device=first.device)
    tokens.scatter_add_(1, places, rest)  # adds zeros where there is padding
    segments = (torch.arange(size, device=first.device) >= lengths).long() * (tokens != 0)
    used = int((tokens != 0).sum(-1).max()) if len(tokens) else 0
    return tokens[:, :used], segments[:, :used]


def targets_of(tokens: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (n, L) whose next token is of segment 1, and those tokens (m,)."""
    predict = torch.zeros_like(segments, dtype=torch.bool)
    predict[:, :-1] = segments[:, 1:] == 1
    return predict, tokens[:, 1:][predict[:, :-1]]


def corrupt(
    tokens: Tensor, noise: Tensor, *, share: float, mask: int, vocab_size: int, keep: Tensor
) -> Tensor:
    """Tokens with holes: BERT's masking of a text that is to be understood all the same.

    Args:
        tokens: (n, L).
        noise: (n, L, 3) in [0, 1): which to choose, what becomes of it, which random token.
        share: Of the tokens, chosen.
        mask: Number of [MASK].
        vocab_size: Random tokens are below it.
        keep: (n, L), true where nothing may change: marks, padding, what is to be written.
    """
    chosen = (noise[..., 0] < share) & ~keep
    fate = noise[..., 1]
    random = (noise[..., 2] * vocab_size).long().clamp(1, vocab_size - 1)
    changed = torch.where(fate < MASKED, mask, torch.where(fate < MASKED + RANDOM, random, tokens))
    return torch.where(chosen, changed, tokens)
