"""Linear maps on a CPU with weights packed once for oneDNN, and the net to write with around them.

torch hands oneDNN a plain weight, or MKL, and has it reordered at every call. Packed once into the
layout that the kernel wants, the same product runs at nine tenths of what the processor can do, and
the GELU after it costs next to nothing: it is done while the result is still in registers. The two
operators are torch's own and private; :func:`.fast.can_pack` tries them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kexue_roformer_sim.encoder import Encoder, norm

if TYPE_CHECKING:
    from kexue_roformer_sim.encoder import Head

__all__ = ["linear", "writer"]

#: Rows of the products that weights are packed for: 64 texts of 32 tokens.
ROWS = 2048


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
