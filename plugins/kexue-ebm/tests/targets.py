"""Densities with known moments, that samplers are held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CorrelatedGaussian(nn.Module):
    """N(mean, covariance) in the plane: deviations 1 and 1.5, correlation 0.6."""

    data_shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, -1.0]))
        self.register_buffer("covariance", torch.tensor([[1.0, 0.9], [0.9, 2.25]]))
        self.register_buffer("precision", torch.linalg.inv(self.covariance))

    def energy(self, x: Tensor) -> Tensor:
        """Half the squared Mahalanobis distance."""
        d = x - self.mean
        return 0.5 * ((d @ self.precision) * d).sum(1)


class Images(nn.Module):
    """The energy of a small convolution with a parameter to watch."""

    data_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def energy(self, x: Tensor) -> Tensor:
        """Something nonlinear."""
        return self.conv(x).square().sum((1, 2, 3))
