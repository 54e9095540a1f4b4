"""Densities with known moments, that samplers are held against."""

from __future__ import annotations

import math

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


class Mixture(nn.Module):
    """0.3 N(-2, 0.6^2) + 0.7 N(1.5, 1): two modes with a barrier that chains do cross."""

    data_shape = (1,)
    weights, means, deviations = (0.3, 0.7), (-2.0, 1.5), (0.6, 1.0)

    def energy(self, x: Tensor) -> Tensor:
        """-log of the density."""
        parts = [
            math.log(w / s) - ((x[:, 0] - m) / s).square() / 2
            for w, m, s in zip(self.weights, self.means, self.deviations, strict=True)
        ]
        return -torch.logsumexp(torch.stack(parts), 0)

    def distribution(self, x: Tensor) -> Tensor:
        """P(X <= x), (n,), in float64."""
        parts = [
            w * torch.distributions.Normal(m, s).cdf(x.double())
            for w, m, s in zip(self.weights, self.means, self.deviations, strict=True)
        ]
        return torch.stack(parts).sum(0)


class Images(nn.Module):
    """The energy of a small convolution with a parameter to watch."""

    data_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def energy(self, x: Tensor) -> Tensor:
        """Something nonlinear."""
        return self.conv(x).square().sum((1, 2, 3))
