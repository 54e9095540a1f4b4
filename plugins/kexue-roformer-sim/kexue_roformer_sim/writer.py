"""The net to write with, around packed products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kexue_core.packing import linear
from kexue_roformer_sim.encoder import Encoder, norm

if TYPE_CHECKING:
    from kexue_roformer_sim.encoder import Head

__all__ = ["writer"]


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
        self.run = linear(layer.weight, layer.bias, dtype=layer.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class _Head(nn.Module):
    def __init__(self, head: Head, tokens: Tensor) -> None:
        super().__init__()
        self.dense = linear(
            head.dense.weight, head.dense.bias, dtype=tokens.dtype, activation="gelu"
        )
        self.norm = head.norm
        self.tokens = linear(tokens, head.bias, dtype=tokens.dtype)

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        # The table of tokens is packed.
        return self.tokens(norm(self.dense(hidden), self.norm))
