"""Contrastive divergence: down with the energy of data, up with that of the model's samples.

References:
    [1] Su Jianlin, https://kexue.fm/archives/6612
    [2] Du & Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019.
        https://arxiv.org/abs/1903.08689
    [3] Hinton, Training products of experts by minimizing contrastive divergence, 2002
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ContrastiveDivergence", "contrastive_divergence_example"]


class ContrastiveDivergence(nn.Module):
    """mean U(x+) - mean U(x-) + l2 (mean U(x+)^2 + mean U(x-)^2).

    The gradient of the first two terms is that of the negative log-likelihood, E_data[grad U] -
    E_model[grad U], where x- are samples of the model [1]. The last keeps energies near zero, which
    their constant leaves open; [1] prints a minus between its two parts, the code of [2] a plus,
    and only the sum is a regulariser.

    Args:
        l2: Weight of the squared energies; 1 in [2].
    """

    def __init__(self, l2: float = 1.0) -> None:
        super().__init__()
        if l2 < 0:
            raise ValueError(f"l2 must be at least 0, not {l2}")
        self.l2 = l2

    def forward(self, data: Tensor, samples: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            data: Energies of data in nats, (n,).
            samples: Energies of the model's samples, (m,), without a graph to the chains.
        """
        data, samples = _wide(data), _wide(samples)
        loss = data.mean() - samples.mean()
        return loss + self.l2 * (data.square().mean() + samples.square().mean())


def _wide(x: Tensor) -> Tensor:
    """Half-precision energies as float32: a square may leave their range."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def contrastive_divergence_example(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Energies of eight data and eight samples."""
    data, samples = torch.randn(2, 8, generator=generator).unbind()
    return data.requires_grad_(), samples.requires_grad_()
