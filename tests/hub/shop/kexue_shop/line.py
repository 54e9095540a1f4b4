"""A straight line, and its checkpoints of the old days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    width: int = 4


class Line(nn.Module):
    def __init__(self, config: LineConfig) -> None:
        super().__init__()
        self.config = config
        self.data_shape = (config.width,)
        self.linear = nn.Linear(config.width, 1)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.linear(x)[:, 0]

    def bits_per_dim(self, x: Tensor) -> Tensor:
        return -self.log_prob(x)


def from_old(
    tensors: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], LineConfig]:
    """Rename, and turn the kernel round."""
    names = {"dense/kernel": "linear.weight", "dense/bias": "linear.bias"}
    state = {names.get(name, name): torch.as_tensor(tensor) for name, tensor in tensors.items()}
    if "linear.weight" in state:
        state["linear.weight"] = state["linear.weight"].T.contiguous()
    width = state["linear.weight"].shape[1] if "linear.weight" in state else 4
    return state, LineConfig(width=width, **config)
