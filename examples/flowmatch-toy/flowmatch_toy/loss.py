"""Conditional flow matching: regress the velocity of straight paths. Needs torch alone.

References:
    [1] Lipman et al., Flow Matching for Generative Modeling, 2022. https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowmatch_toy.model import FlowMatching, FlowMatchingConfig

__all__ = ["FlowMatchingLoss", "example"]


class FlowMatchingLoss(nn.Module):
    """Mean of |v(u_t, t) - (data - noise)|^2 with u_t = (1 - t) noise + t data [1, eq 23]."""

    def forward(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        data: Tensor,
        noise: Tensor,
        t: Tensor,
    ) -> Tensor:
        """Scalar loss of normalised data and noise (n, 2) at times t (n,) in [0, 1]."""
        u = (1 - t[:, None]) * noise + t[:, None] * data
        error = velocity(u, t) - (data - noise)
        # Half precision ends at 65,504: squares are summed in float32.
        error = error.float() if error.dtype.itemsize < 4 else error
        return error.square().sum(1).mean()


def example(generator: torch.Generator) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Arguments of one call; the kit differentiates with respect to the data."""
    data = torch.randn(4, 2, generator=generator).requires_grad_()
    noise, t = torch.randn(4, 2, generator=generator), torch.rand(4, generator=generator)
    return FlowMatching(FlowMatchingConfig(hidden=8, layers=1)), data, noise, t
