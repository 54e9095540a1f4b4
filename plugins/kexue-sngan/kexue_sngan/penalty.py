"""Spectral norm regularisation: a penalty on the largest singular values of a model's weights.

For a linear layer the best Lipschitz constant is the spectral norm of W, which is at most the
Frobenius norm that weight decay bounds, often far below. So instead of weight decay one adds

    loss + weight * sum over layers of sigma(W)^2

and punishes just what a perturbation of the input can be stretched by [1, equation 7; 2].

This file needs nothing but torch and :mod:`kexue_sngan.spectral`.

References:
    [1] Yoshida & Miyato, Spectral Norm Regularization, 2017. https://arxiv.org/abs/1705.10941
    [2] Su Jianlin, https://kexue.fm/archives/6051
"""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from kexue_sngan.spectral import LAYERS, as_matrix

__all__ = ["SpectralNormPenalty"]


class SpectralNormPenalty(nn.Module):
    """``weight * sum sigma(W)^2`` over the linear and convolutional layers of any model.

    >>> penalty = SpectralNormPenalty(0.01)
    >>> loss = F.cross_entropy(model(x), y) + penalty(model)                 # doctest: +SKIP

    The singular vectors are kept from call to call, one round of power iteration each [1,
    algorithm 1]; the first call makes ``warmup`` rounds from a fixed start. They are no state that
    need be saved: after a restart they are found again.

    Args:
        weight: Factor of the penalty, >= 0. [1] takes 0.01.
        rounds: Rounds of power iteration a call.
        warmup: Rounds at a weight's first call.
    """

    def __init__(self, weight: float = 0.01, *, rounds: int = 1, warmup: int = 15) -> None:
        super().__init__()
        if weight < 0 or rounds < 1 or warmup < 0:
            raise ValueError("weight and warmup must be at least 0, rounds at least 1")
        self.weight = weight
        self.rounds = rounds
        self.warmup = warmup
        self._vectors: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()

    def forward(self, target: nn.Module | Tensor) -> Tensor:
        """The penalty, a scalar of at least float32.

        Args:
            target: A model, or one weight, (out, ...) as that of a linear layer or convolution.

        Raises:
            ValueError: There is no such layer in the model.
        """
        if isinstance(target, Tensor):
            return self.weight * self._sigma(target, 0).square()
        terms = [
            self._sigma(layer.weight, dim)
            for layer in target.modules()
            for kind, dim in LAYERS.items()
            if isinstance(layer, kind) and isinstance(layer.weight, Tensor)
        ]
        if not terms:
            raise ValueError(f"{type(target).__name__} holds no layer whose weight is a linear map")
        return self.weight * torch.stack(terms).square().sum()

    def _sigma(self, weight: Tensor, dim: int) -> Tensor:
        matrix = as_matrix(weight, dim)
        if matrix.dtype in (torch.float16, torch.bfloat16):
            matrix = matrix.float()
        with torch.autocast(matrix.device.type, enabled=False):
            with torch.no_grad():
                v, rounds = self._vectors.get(weight), self.rounds
                if v is None:
                    # Not from torch's global generator: adding a penalty must not change what
                    # else a run draws.
                    generator = torch.Generator().manual_seed(0)
                    v = torch.randn(matrix.shape[1], generator=generator).to(matrix)
                    rounds += self.warmup
                for _ in range(rounds):
                    u = F.normalize(torch.mv(matrix, v), dim=0)
                    v = F.normalize(torch.mv(matrix.t(), u), dim=0)
                self._vectors[weight] = v
            return torch.dot(u, torch.mv(matrix, v))

    def extra_repr(self) -> str:
        """Its settings."""
        return f"weight={self.weight}, rounds={self.rounds}"
