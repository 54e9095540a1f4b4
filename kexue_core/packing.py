"""Linear maps with weights packed once for oneDNN, and whether the weights have changed since.

On a CPU torch hands oneDNN a plain weight, or MKL, and has it reordered at every call. Packed once
into the layout that the kernel wants, the same product runs at nine tenths of what the processor
can do, and an activation after it costs next to nothing: it is done while the result is still in
registers. The two operators are torch's own and private (``torch.compile`` uses them): they are
tried out first, and where they are missing or wrong the maps are plain ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Activation", "Linear", "fingerprint", "has_onednn", "linear"]

Linear: TypeAlias = Callable[[Tensor], Tensor]
Activation: TypeAlias = Literal["none", "relu", "gelu"]

#: Rows of the products that weights are packed for: 64 texts of 32 tokens.
ROWS = 2048

_PLAIN: dict[Activation, Linear] = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}


def linear(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    activation: Activation = "none",
) -> Linear:
    """A linear map x (..., inputs) -> activation(x W^T + b), (..., outputs), without gradients.

    It holds a copy of the weights: what is written to them later does not reach it.

    Args:
        weight: (outputs, inputs), on the CPU.
        bias: (outputs,).
        dtype: Of the copy; x has to be of the same.
        activation: GELU is the exact one, with erf.
    """
    weight = weight.detach().to(dtype, copy=True).contiguous()
    bias = None if bias is None else bias.detach().to(dtype, copy=True)
    if has_onednn(dtype):
        return _packed(weight, bias, activation)
    then = _PLAIN[activation]
    return lambda x: then(F.linear(x, weight, bias))


def _packed(weight: Tensor, bias: Tensor | None, activation: Activation) -> Linear:
    prepared = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    algorithm = "none" if activation == "gelu" else ""  # not tanh

    def run(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, prepared, bias, activation, [], algorithm)
        return y

    return run


@functools.cache
def has_onednn(dtype: torch.dtype) -> bool:
    """Whether weights of a dtype can be packed: the operators are there, and right."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's
        return False
    weight = torch.linspace(-1, 1, 40 * 24).view(40, 24)
    x, bias = torch.linspace(-9, 9, 15 * 24).view(3, 5, 24).cos(), torch.linspace(-1, 1, 40)
    # bfloat16 has 8 bits of mantissa; 24 products of at most 1 are summed.
    limit = 1e-5 if dtype == torch.float32 else 0.1
    for activation, then in _PLAIN.items():
        try:
            y = _packed(weight.to(dtype), bias.to(dtype), activation)(x.to(dtype))
        except (AttributeError, RuntimeError, TypeError):
            return False
        if not bool((y.float() - then(F.linear(x, weight, bias))).abs().max() < limit):
            return False
    return True


def fingerprint(model: nn.Module, *, most: int | None = None) -> list[tuple[object, ...]]:
    """What differs as soon as a weight does: compare it with an earlier one.

    How often a weight was written to is not enough: torch's fused optimizers do not count. So bits
    are added up, of a million weights in about the time of one short text through such a net.

    Args:
        model: Its parameters are looked at, not its buffers.
        most: For large models: add up at most so many numbers of each parameter, evenly spread.
            What no count and no optimizer shows, one number set through ``.data``, is then missed.
    """
    return [
        (p.dtype, p.device, p.data_ptr(), -1 if p.is_inference() else p._version, *_sum(part))
        for p in model.parameters()
        for part in [_spread(p.detach().reshape(-1), most)]
    ]


def _spread(x: Tensor, most: int | None) -> Tensor:
    return x if most is None else x[:: max(1, -(-x.numel() // most))].contiguous()


def _sum(x: Tensor) -> tuple[object, ...]:
    """On the CPU of whole words of 64 bits, as integers, and what is left over."""
    if x.device.type != "cpu":
        return (float(x.float().sum()),)
    data = x.view(torch.uint8).numpy()
    whole = len(data) - len(data) % 8
    return int(np.add.reduce(data[:whole].view(np.int64))), data[whole:].tobytes()
