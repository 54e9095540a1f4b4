"""Finite scalar quantisation: round a few bounded coordinates; nothing can collapse.

References:
    Mentzer et al., Finite Scalar Quantization: VQ-VAE Made Simple, 2023. arXiv 2309.15505
    https://kexue.fm/archives/9826
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kexue_vqlinear.nearest import NotFiniteError
from kexue_vqlinear.quantizer import Quantizer, with_gradient_of

__all__ = ["FSQ", "levels_for"]


def levels_for(num_embeddings: int) -> tuple[int, ...]:
    """Levels a coordinate whose product is the number of codes.

    The paper's table where it has the number; for other powers of two, levels of 8 and one rest.

    Raises:
        ValueError: The number is no power of two >= 4, and not in the table.
    """
    table = {1_000: (8, 5, 5, 5), 15_360: (8, 8, 8, 6, 5), 64_000: (8, 8, 8, 5, 5, 5)}
    if num_embeddings in table:
        return table[num_embeddings]
    bits = num_embeddings.bit_length() - 1
    if num_embeddings < 4 or 1 << bits != num_embeddings:
        raise ValueError(
            f"there are no levels for {num_embeddings} codes: give levels=, or a power of two >= 4"
        )
    # At least 4 levels where it can be: two or three are hardly more than a sign.
    eights, rest = divmod(bits, 3)
    if rest == 1 and eights:
        return (8,) * (eights - 1) + (4, 4)
    return (8,) * eights + ((1 << rest,) if rest else ())


class FSQ(Quantizer):
    """Rounds tanh-bounded coordinates to a grid (eq 1 and 2); there is no table to learn.

    Args:
        dim, options: See `Quantizer`. The loss is 0, and the estimator "ste".
        num_embeddings: Number of codes; the product of the levels.
        levels: Levels a coordinate; `levels_for(num_embeddings)` where `None`.

    Raises:
        ValueError: A level is below 3, the product is not `num_embeddings`, or rotation or a
            temperature is asked for.
    """

    steps: Tensor
    strides: Tensor

    def __init__(
        self,
        dim: int,
        num_embeddings: int,
        *,
        levels: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_embeddings, **options)
        if self.estimator != "ste" or self.temperature:
            raise ValueError("FSQ rounds: estimator must be 'ste' and temperature 0")
        self.levels = tuple(levels) if levels is not None else levels_for(num_embeddings)
        if min(self.levels, default=0) < 3 or math.prod(self.levels) != num_embeddings:
            raise ValueError(f"levels {self.levels} do not make {num_embeddings} codes")
        strides = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
        self.register_buffer("steps", torch.tensor(self.levels), persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)
        self.project_in = nn.Linear(dim, len(self.levels))
        self.project_out = nn.Linear(len(self.levels), dim)

    @torch.no_grad()
    def table(self) -> Tensor:
        """Every point of the grid, projected back."""
        codes = torch.arange(self.num_embeddings, device=self.strides.device)
        return self.project_out(self._points(codes))  # type: ignore[no-any-return]

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Quantizer.quantize`."""
        bounded = self._bound(self.project_in(z.to(self.project_in.weight.dtype)))
        digits = (bounded.detach().round() + self.steps // 2).long()
        if not bounded.isfinite().all():
            raise NotFiniteError("vectors to quantise are NaN or infinite")
        codes = (digits * self.strides).sum(-1)
        points = with_gradient_of(bounded / (self.steps // 2), self._points(codes))
        output = with_gradient_of(self.project_out(points), self.table()[codes])
        return output, codes, output.new_zeros((), dtype=output.dtype)

    def _bound(self, z: Tensor) -> Tensor:
        """Squash into the range that rounds to the levels: -L/2 to L/2 - 1, or +-(L - 1)/2."""
        half = (self.steps - 1) * (1 - 1e-3) / 2  # so that the ends are reached and not passed
        offset = 0.5 * (self.steps % 2 == 0)
        shift = (offset / half).to(z.dtype).atanh()
        return (z + shift).tanh() * half.to(z.dtype) - offset.to(z.dtype)

    def _points(self, codes: Tensor) -> Tensor:
        """Points of the grid in [-1, 1], (n, coordinates)."""
        digits = codes[:, None] // self.strides % self.steps
        half = self.steps // 2
        return ((digits - half) / half).to(self.project_in.weight.dtype)
