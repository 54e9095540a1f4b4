"""Linear maps with weights packed once for oneDNN, and whether the weights have changed since.

torch hands oneDNN a plain weight, which is reordered at every call. The operators that pack it
once are torch's own and private (``torch.compile`` uses them): they are tried out first, and where
they are missing or wrong the maps are plain ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "fingerprint", "linear", "rounded"]

Linear: TypeAlias = Callable[[Tensor], Tensor]

#: Rows of the products that weights are packed for: 64 texts of 55 characters.
ROWS = 3520


def fingerprint(model: nn.Module) -> list[tuple[object, ...]]:
    """What differs as soon as a weight does.

    How often a weight was written to is not enough: torch's fused optimizers do not count. So the
    bits are added up, in less time than a text takes.
    """
    return [(p.dtype, p.device, -1 if p.is_inference() else p._version, *_sum(p.detach()))
            for p in model.parameters()]  # fmt: skip


def _sum(x: Tensor) -> tuple[object, ...]:
    """On the CPU of whole words of 64 bits, as integers, and what is left over."""
    if x.device.type != "cpu":
        return (float(x.float().sum()),)
    data = x.reshape(-1).view(torch.uint8).numpy()
    whole = len(data) - len(data) % 8
    return int(np.add.reduce(data[:whole].view(np.int64))), data[whole:].tobytes()


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As in a model of this dtype, but at least float32, for sums."""
    x = x.detach().to(dtype)
    return x if dtype == torch.float64 else x.float()


def linear(
    weight: Tensor, bias: Tensor | None = None, *, dtype: torch.dtype, relu: bool = False
) -> Linear:
    """x (n, inputs) -> x W^T + b, (n, outputs), in ``dtype``; ``relu`` of it where wanted."""
    weight = weight.to(dtype).contiguous()
    bias = None if bias is None else bias.to(dtype)
    if _has_onednn(dtype):
        return _packed(weight, bias, "relu" if relu else "none")

    def run(x: Tensor) -> Tensor:
        y = F.linear(x, weight, bias)
        return y.relu_() if relu else y

    return run


def _packed(weight: Tensor, bias: Tensor | None, then: str) -> Linear:
    prepared = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)

    def run(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, prepared, bias, then, [], "")
        return y

    return run


@functools.cache
def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether the private operators are there, and right, for a dtype."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's
        return False
    weight = torch.linspace(-1, 1, 40 * 24).view(40, 24)
    x, bias = torch.linspace(-9, 9, 5 * 24).view(5, 24).cos(), torch.linspace(-1, 1, 40)
    try:
        y = _packed(weight.to(dtype), bias.to(dtype), "relu")(x.to(dtype))
    except (AttributeError, RuntimeError, TypeError):
        return False
    wanted = F.linear(x, weight, bias).relu()
    # bfloat16 has 8 bits of mantissa; 24 products of at most 1 are summed.
    limit = 1e-5 if dtype == torch.float32 else 0.1
    return bool((y.float() - wanted).abs().max() < limit)
