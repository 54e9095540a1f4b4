"""The nearest of many codes: a short list by bfloat16, then the nearest on it by float64.

A processor that multiplies bfloat16 does so twice as fast as float32. The scores z.e + b, of which
the nearest code has the largest, are then wrong, but by how much is known. With ẑ, ê, b̂ the rounded
ones and |.| the Euclidean norm,

    |ẑ.ê + b̂ - (z.e + b)| <= |z - ẑ| |e| + |ẑ| |e - ê| + |b - b̂|      (Cauchy-Schwarz)

plus what the sum loses in float32. So every score lies in an interval, and a code whose interval
ends below where another's begins is not the nearest. What is left is a few codes a row.

All lengths are from the middle of the codes. What they and z have in common, which is most of them
in a net that learns, tells no two apart, and would widen every interval.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["is_worth_it", "shortlist"]

_CAPABILITIES: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
#: Whether the processor multiplies bfloat16 itself; elsewhere it is no faster than float32.
HAS_BFLOAT16 = any(_CAPABILITIES.get(name) for name in ("avx512_bf16", "amx_bf16"))

#: Rows and codes of one block: 2 MB of scores, which a processor's cache holds.
ROWS, CODES = 512, 2048
#: Groups of codes in a block, of each of which only the largest score is looked at first.
GROUPS = 64
#: How many of them a row may keep before the list is too long to be worth it.
LIMIT = 8
#: Candidates whose distances are computed at once: half a megabyte of differences.
PAIRS = 512

#: Rows and codes below which what surrounds the products takes as long as they save.
FEW_ROWS, FEW_CODES = 256, 4096

#: Rounding to bfloat16 moves a number by this part of the result at most, and a little.
ROUNDING = 2.0**-8 + 2.0**-16


def is_worth_it(z: Tensor, table: Tensor) -> bool:
    """Whether `shortlist` should be tried before a search in float32."""
    float32 = z.dtype == table.dtype == torch.float32 and z.device.type == "cpu"
    return float32 and HAS_BFLOAT16 and len(z) >= FEW_ROWS and len(table) >= FEW_CODES


@torch.no_grad()
def shortlist(z: Tensor, table: Tensor) -> Tensor | None:
    """Index of the row of `table` that is nearest to each row of `z`; of several the lowest.

    The distances of those that may be nearest are compared in float64.

    Args:
        z: Vectors (n, d), float32, n >= 1.
        table: Codes (K, d), float32, K >= 1.

    Returns:
        Indices (n,), int64; `None` where the list would be long, because many codes are about
        equally near, or where a value is NaN, infinite, or too large to square.
    """
    n, dim = z.shape
    # A norm this small may be one that was lost to underflow, in it or in the products.
    tiny = math.sqrt(dim) * 2.0**-63
    # Of a sum of dim products in float32, and of what is subtracted before; twice for good measure.
    summing = (dim + 8) * 2.0**-23
    middle = table[:CODES].mean(0)
    rows = z - middle
    z_short = rows.bfloat16()
    z_norm, z_lost = _norm(z_short.float()) + tiny, _norm(rows - z_short.float()) + tiny
    least = z_norm.new_full((n,), -torch.inf)  # where the interval of the best code begins
    shift = z_norm.new_zeros(())
    found: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, codes, where their intervals end
    for k in range(0, len(table), CODES):
        e = table[k : k + CODES] - middle
        squares = e.square().sum(1)
        if k == 0:
            shift = squares.mean() / 2  # what all share decides nothing, and would cost digits
        bias = shift - squares / 2
        e_short, bias_short = e.bfloat16(), bias.bfloat16()
        e_norm, e_lost = squares.max().sqrt() + tiny, _norm(e - e_short.float()).max() + tiny
        error = z_lost * e_norm + z_norm * e_lost + (bias - bias_short.float()).abs().max()
        error += summing * ((z_norm + e_norm).square() + shift)
        error *= 1 + 2.0**-10 + summing  # for the rounding in these lines themselves
        if not error.isfinite().all():
            return None
        count = GROUPS if len(e) % GROUPS == 0 else len(e)
        for i in range(0, n, ROWS):
            slack, best = error[i : i + ROWS], least[i : i + ROWS]
            scores = F.linear(z_short[i : i + ROWS], e_short, bias_short)
            # A group is every so-manyth code: like this the maximum runs along the memory.
            scores = scores.view(len(scores), -1, count)  # (m, members, groups)
            groups = scores.amax(1).float()
            top = groups.amax(1)
            torch.maximum(best, top - ROUNDING * top.abs() - slack, out=best)
            # The smallest score whose interval reaches `best`.
            enough = (best - slack) / (1 + torch.copysign(best.new_tensor(ROUNDING), best - slack))
            row, group = (groups >= enough[:, None]).nonzero(as_tuple=True)
            if len(row) > LIMIT * len(top) or not top.isfinite().all():
                return None
            members = scores[row, :, group].float()
            pair, member = (members >= enough[row, None]).nonzero(as_tuple=True)
            value = members[pair, member]
            row, code = row[pair], k + member * count + group[pair]
            found.append((row + i, code, value + ROUNDING * value.abs() + slack[row]))
    row, code, end = (torch.cat(parts) for parts in zip(*found, strict=True))
    reach = (end >= least[row]).nonzero()[:, 0]
    return _nearest_of(z, table, row[reach], code[reach])


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=1)
    return norm


def _nearest_of(z: Tensor, table: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
    """The nearest of the pairs of rows of z and codes (p,); every row has one."""
    distance = torch.cat(
        [
            (z[row].double() - table[code].double()).square().sum(1)
            for row, code in zip(torch.split(rows, PAIRS), torch.split(codes, PAIRS), strict=True)
        ]
    )
    least = distance.new_full((len(z),), torch.inf).scatter_reduce(0, rows, distance, "amin")
    equal = distance == least[rows]
    lowest = codes.new_full((len(z),), len(table))
    return lowest.scatter_reduce(0, rows[equal], codes[equal], "amin")
