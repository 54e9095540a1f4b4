"""Nested values (tensors in tuples, mappings, dataclasses, arrays, texts) handled as one.

A model's input and output may be a tensor, Glow's tuple of levels, a mapping, or a list of texts.
The checks slice, cast and compare them all alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "cast",
    "difference",
    "leaves",
    "length",
    "rows",
    "some",
    "sparse_strides",
    "tensors",
    "transform",
]


def transform(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``change`` to every tensor of a nested value; everything else stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(transform(v, change) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(transform(v, change) for v in value)
    if isinstance(value, Mapping):
        return {k: transform(v, change) for k, v in value.items()}
    return value


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in another number type; integers, texts and masks stay."""
    return transform(value, lambda t: t.to(dtype) if t.is_floating_point() else t)


def sparse_strides(value: Any) -> Any:
    """The same values in memory of the opposite order, with gaps: no view can flatten it."""

    def spread(tensor: Tensor) -> Tensor:
        order = tuple(reversed(range(tensor.ndim)))
        memory = tensor.new_zeros([tensor.shape[d] + 1 for d in order]).permute(order)
        part = memory[tuple(slice(size) for size in tensor.shape)]
        return part.copy_(tensor.detach())

    return transform(value, spread)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of everything that is no container."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    elif isinstance(value, np.ndarray):
        yield path, torch.from_numpy(np.ascontiguousarray(value))
    else:
        yield path, value


def tensors(value: Any) -> list[Tensor]:
    """Every tensor (and array) of a nested value."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor)]


def length(value: Any) -> int | None:
    """How many samples a nested value holds, ``None`` where it does not say."""
    if isinstance(value, list) and not any(isinstance(v, Tensor) for v in value):
        return len(value)  # texts, or results of which each is a list
    found = tensors(value)
    return len(found[0]) if found and found[0].ndim else None


def rows(value: Any, n: int, chosen: slice) -> Any:
    """The chosen samples of a value that holds ``n``; what has no sample dimension stays."""
    if isinstance(value, list) and len(value) == n and not isinstance(value[0], Tensor):
        return value[chosen]
    if isinstance(value, np.ndarray):
        return value[chosen] if value.ndim and len(value) == n else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(
            rows(getattr(value, field.name), n, chosen) for field in dataclasses.fields(value)
        )
    if isinstance(value, (tuple, list)):
        return tuple(rows(v, n, chosen) for v in value)
    if isinstance(value, Mapping):
        return {k: rows(v, n, chosen) for k, v in value.items()}
    if isinstance(value, Tensor) and value.ndim and len(value) == n:
        return value[chosen]
    return value


def some(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def difference(left: Any, right: Any) -> float:
    """Largest difference of two nested values, relative to their size where that exceeds 1.

    Infinite where they differ in structure, shape, or in anything that is no float.
    """
    a, b = list(leaves(left)), list(leaves(right))
    if len(a) != len(b):
        return float("inf")
    worst = 0.0
    for (_, x), (_, y) in zip(a, b, strict=True):
        worst = max(worst, _leaf_difference(x, y))
    return worst


def _leaf_difference(x: Any, y: Any) -> float:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        if x.shape != y.shape:
            return float("inf")
        if not x.is_floating_point() or not y.is_floating_point():
            return 0.0 if torch.equal(x, y) else float("inf")
        if x.numel() == 0:
            return 0.0
        x, y = x.detach().double(), y.detach().double()
        # Equal infinities (a density outside its support) are equal, not NaN; and NaN is equal to
        # NaN: that there is any is for other checks to say.
        gap = torch.where((x == y) | (x.isnan() & y.isnan()), 0.0, (x - y).abs())
        finite = x[x.isfinite()]
        scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
        return float("inf") if bool(gap.isnan().any()) else float(gap.max()) / scale
    if isinstance(x, float) and isinstance(y, float):
        return abs(x - y) / max(1.0, abs(x))
    return 0.0 if type(x) is type(y) and x == y else float("inf")
