"""The replay buffer: where chains ended, for others to start from.

A chain of some twenty steps does not get from noise to data. So training goes on where earlier
chains stopped, and a few in a hundred start anew, so that new modes are found.

References:
    [1] Du & Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019, section 3.2.
        https://arxiv.org/abs/1903.08689
    [2] Su Jianlin, https://kexue.fm/archives/6612
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ReplayBuffer", "dequantize"]


def dequantize(levels: Tensor, noise: Tensor) -> Tensor:
    """8-bit levels 0..255 spread over their bins of [0, 1): (k + u) / 256.

    Args:
        levels: Whole numbers of any type.
        noise: Uniform in [0, 1), of the same shape; its type is the result's.
    """
    return noise.add(levels).div_(256)


class ReplayBuffer(nn.Module):
    """Ends of chains. A module without parameters: checkpoints keep it, and resuming is exact.

    Args:
        size: How many; [1] keeps 10,000.
        shape: Of a datum.
        restart: Share of chains that start from noise instead; [1] takes 0.05.
        quantized: Keep uint8, an eighth of a gigabyte less for [1]'s; for data in [0, 1]. Without
            it data are kept as they are, and fresh starts are uniform in ``low``..``high``.
        low, high: Range of fresh starts where nothing is quantized.

    Attributes:
        data: (size, *shape), uint8 or float32; noise at first.
    """

    data: Tensor

    def __init__(
        self,
        size: int,
        shape: Sequence[int],
        *,
        restart: float = 0.05,
        quantized: bool = True,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        if size < 1 or not 0 <= restart <= 1 or not low < high:
            raise ValueError("size must be at least 1, restart in [0, 1], low below high")
        self.restart = restart
        self.low, self.high = low, high
        if quantized:
            data = torch.randint(256, (size, *shape), dtype=torch.uint8)
        else:
            data = low + (high - low) * torch.rand(size, *shape)
        self.register_buffer("data", data)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def quantized(self) -> bool:
        """Whether 8-bit levels are kept."""
        return self.data.dtype == torch.uint8

    def start(self, choice: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Where chains begin.

        Args:
            choice: Uniform in [0, 1), (n, 2): which entry, and whether to start afresh instead.
            uniform: Uniform in [0, 1), (n, *shape): the fresh start, or the dequantisation.

        Returns:
            x, (n, *shape), and the entries, (n,), for :meth:`put`.
        """
        entries = (choice[:, 0] * len(self)).long().clamp_(max=len(self) - 1)
        kept = self.data[entries]
        kept = dequantize(kept, uniform) if self.quantized else kept.to(uniform.dtype)
        fresh = self.low + (self.high - self.low) * uniform
        anew = (choice[:, 1] < self.restart).view(-1, *[1] * (uniform.ndim - 1))
        return torch.where(anew, fresh, kept), entries

    @torch.no_grad()
    def put(self, entries: Tensor, x: Tensor) -> None:
        """Keep where chains ended, (n, *shape), at ``entries``, (n,).

        Of several chains with one entry the last is kept, on any device and number of threads.
        """
        rows = torch.arange(len(entries), device=entries.device)
        last = entries.new_zeros(len(self)).scatter_reduce_(0, entries, rows, "amax")
        kept = x[last[entries]]
        if self.quantized:
            kept = (256 * kept).clamp_(0, 255).to(torch.uint8)
        self.data[entries] = kept.to(self.data.dtype)
