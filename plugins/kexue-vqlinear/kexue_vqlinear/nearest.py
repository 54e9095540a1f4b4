"""The nearest of many codes, without a matrix of all distances.

argmin |z - e|^2 is argmax z.e - |e|^2 / 2: one matrix product whose bias is half a norm. It is
formed a block of rows and codes at a time, so that memory does not grow with the number of codes,
and reduced in two stages: the largest of each group of codes, then the place inside that group.
Where bfloat16 is faster, `shortlist` comes first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_vqlinear.shortlist import is_worth_it, shortlist

__all__ = ["NotFiniteError", "nearest"]

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

#: Rows and codes of one block: 4 MB of scores, which a processor's cache holds.
ROWS, CODES = 512, 2048
#: Codes of a group of the first stage.
GROUP = 64
#: Images that a block of rows is dressed up as; with fewer, oneDNN chooses a slower kernel.
IMAGES = 16


class NotFiniteError(ValueError, FloatingPointError):
    """Vectors have no nearest code; in training, because it has diverged."""


@torch.no_grad()
def nearest(
    z: Tensor,
    table: Tensor,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Index of the row of `table` that is nearest to each row of `z`; of several the lowest.

    Computed in float32 at least, whatever the number types and autocast.

    Args:
        z: Vectors (n, d).
        table: Codes (K, d), K >= 1.
        temperature: 0 for the nearest; above, code k is drawn with probability proportional to
            exp(-|z - e_k|^2 / temperature), by the Gumbel-max trick.
        generator: Of those draws; torch's own where `None`.

    Returns:
        Indices (n,), int64.

    Raises:
        NotFiniteError: A value of `z` or `table` is NaN, infinite, or too large for its square.
    """
    dtype = torch.promote_types(torch.promote_types(z.dtype, table.dtype), torch.float32)
    n, size = len(z), len(table)
    codes = torch.zeros(n, dtype=torch.long, device=z.device)
    best = torch.full((n,), -torch.inf, dtype=dtype, device=z.device)
    norms = best.new_zeros(())
    # Elsewhere a kernel's start costs more than its cache: 134 MB of scores.
    many, wide = (ROWS, CODES) if z.device.type == "cpu" else (4 * ROWS, 8 * CODES)
    with torch.autocast(z.device.type, enabled=False):
        if temperature == 0 and is_worth_it(z, table):
            found = shortlist(z, table)
            if found is not None:
                return found
        for k in range(0, size, wide):
            block = table[k : k + wide].to(dtype)
            bias = block.square().sum(1).mul_(-0.5)
            norms += bias.sum()
            for i in range(0, n, many):
                scores = _scores(z[i : i + many].to(dtype), block, bias)
                if temperature > 0:
                    noise = torch.empty_like(scores).exponential_(generator=generator)
                    scores -= noise.log_().mul_(temperature / 2)  # -log of an exponential: Gumbel
                value, place = _largest(scores)
                # Strictly larger: among equals the earlier block wins. NaN, once found, stays.
                before = best[i : i + many]
                better = ~((value <= before) | before.isnan())
                best[i : i + many] = torch.where(better, value, before)
                codes[i : i + many] = torch.where(better, place + k, codes[i : i + many])
    if not (best.isfinite().all() and norms.isfinite()):
        raise NotFiniteError(
            "vectors to quantise, or codes, are NaN, infinite, or too large to square"
        )
    return codes


def _scores(rows: Tensor, block: Tensor, bias: Tensor) -> Tensor:
    """rows @ block.T + bias, (n, k)."""
    n, d = rows.shape
    onednn = rows.device.type == "cpu" and rows.dtype == torch.float32
    if not (onednn and n % IMAGES == 0 and _HAS_ONEDNN):
        return torch.addmm(bias, rows, block.T)
    # The same product as a 1x1 convolution of images with d channels. torch hands it to oneDNN,
    # whose kernels are up to twice as fast as the BLAS behind addmm on processors of some makers.
    images = rows.reshape(IMAGES, 1, n // IMAGES, d).permute(0, 3, 1, 2)  # channels last: a view
    scores = F.conv2d(images, block[:, :, None, None], bias)
    return scores.permute(0, 2, 3, 1).reshape(n, len(block))


def _largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Value and first place of the largest of each row of scores (n, k); NaN counts as largest."""
    n, k = scores.shape
    if k % GROUP or k == GROUP:
        value, place = scores.max(1)
        return value, place
    # A maximum without its place runs at the speed of memory; with it, many times slower.
    groups = scores.view(n, k // GROUP, GROUP)
    value, group = groups.amax(2).max(1)
    winners = groups.gather(1, group[:, None, None].expand(-1, 1, GROUP))[:, 0]
    return value, group * GROUP + winners.argmax(1)
