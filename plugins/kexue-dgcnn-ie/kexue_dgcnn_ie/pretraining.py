"""Unlabelled text first: the network learns to guess hidden characters before it learns triples.

References:
    Devlin et al., BERT (masked language modelling). arXiv 1810.04805
    Joshi et al., SpanBERT (spans rather than single characters are hidden). arXiv 1907.10529
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_dgcnn_ie.dgcnn import DGCNN, Rows
from kexue_dgcnn_ie.text import UNKNOWN

__all__ = ["CharacterHead", "Masked", "join_lines", "mask", "masked_loss"]

#: Longest run of characters that is hidden at once.
LONGEST = 4


def join_lines(lines: Sequence[str], least: int = 48, most: int = 256) -> list[str]:
    """Texts of at least ``least`` characters from neighbouring lines, and of at most ``most``."""
    texts, current = [], ""
    for line in lines:
        current = f"{current} {line}" if current else line
        if len(current) >= least:
            texts.append(current[:most])
            current = ""
    return [*texts, current] if current else texts


class Masked(NamedTuple):
    """Texts with some characters hidden.

    Attributes:
        tokens: Character numbers, one text after the other, (N,); hidden ones are unknown.
        lengths: Characters of each text, (B,).
        places: Which of the N are hidden, (M,).
        hidden: What they are, (M,).
    """

    tokens: Tensor
    lengths: Tensor
    places: Tensor
    hidden: Tensor


def mask(tokens: Sequence[Sequence[int]], source: random.Random, share: float) -> Masked:
    """Hide about ``share`` of the characters of each text, in runs of 1 to :data:`LONGEST`."""
    shown: list[int] = []
    places: list[int] = []
    hidden: list[int] = []
    for row in tokens:
        offset = len(shown)
        shown += row
        wanted = max(1, round(share * len(row)))
        taken: set[int] = set()
        while len(taken) < wanted:
            start = source.randrange(len(row))
            taken.update(range(start, min(len(row), start + source.randint(1, LONGEST))))
        for i in sorted(taken):
            if row[i] != UNKNOWN:
                places.append(offset + i)
                hidden.append(row[i])
            shown[offset + i] = UNKNOWN
    return Masked(
        torch.tensor(shown),
        torch.tensor([len(row) for row in tokens]),
        torch.tensor(places, dtype=torch.int64),
        torch.tensor(hidden, dtype=torch.int64),
    )


class CharacterHead(nn.Module):
    """Logits of characters from states, over the model's own table of characters."""

    def __init__(self, width: int, characters: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(characters))

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """(M, d) and (characters, d) -> (M, characters)."""
        return F.linear(F.gelu(self.hidden(states)), table, self.bias)


def masked_loss(model: DGCNN, head: CharacterHead, batch: Masked) -> Tensor:
    """Mean cross-entropy of the hidden characters, in nats."""
    rows = Rows.of(batch.lengths, model.gap)
    tokens = torch.zeros_like(rows.text).index_copy(0, rows.real, batch.tokens)
    words = torch.zeros_like(tokens) if model.config.words else None  # they would tell
    states = model.trunk(tokens, rows, words).index_select(0, rows.real[batch.places])
    return F.cross_entropy(head(states, model.character.weight).float(), batch.hidden)
