"""Densities that are known exactly: to hold samplers and learned energies against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["TOYS", "GaussianMixture", "Ring", "Toy", "kolmogorov_distance", "standard_errors"]


class GaussianMixture(nn.Module):
    """sum_k w_k N(m_k, C_k): an energy with a normalised density, to sample from as well.

    Args:
        weights: (k,), summing to 1.
        means: (k, d).
        covariances: (k, d, d).
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    inverse: Tensor
    constant: Tensor

    def __init__(
        self,
        weights: Sequence[float],
        means: Sequence[Sequence[float]],
        covariances: Sequence[Sequence[Sequence[float]]],
    ) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights))
        self.register_buffer("means", torch.tensor(means))
        factors = torch.linalg.cholesky(torch.tensor(covariances))
        self.register_buffer("factors", factors)
        self.register_buffer("inverse", torch.linalg.inv(factors))
        logs = self.weights.log() - factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = logs - self.data_shape[0] / 2 * math.log(2 * math.pi)
        self.register_buffer("constant", constant)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """(d,)."""
        return (self.means.shape[1],)

    @property
    def covariance(self) -> Tensor:
        """Of the whole, (d, d)."""
        mean = self.weights @ self.means
        off = self.means - mean
        within = self.factors @ self.factors.mT + off[:, :, None] * off[:, None, :]
        return (self.weights[:, None, None] * within).sum(0)

    def energy(self, x: Tensor) -> Tensor:
        """-log p(x) in nats, (n,), of x (n, d)."""
        white = (self.inverse @ (x[:, None] - self.means)[..., None]).squeeze(3)  # (n, k, d)
        return -torch.logsumexp(self.constant - 0.5 * white.square().sum(2), 1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` exact samples, (n, d)."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.data_shape[0], 1, generator=generator)
        drawn: Tensor = self.means[chosen] + (self.factors[chosen] @ noise).squeeze(2)
        return drawn

    def distribution(self, x: Tensor) -> Tensor:
        """P(X <= x), (n,), float64, of x (n,); in one dimension."""
        deviations = self.factors[:, 0, 0].double()
        z = (x.double()[:, None] - self.means[:, 0].double()) / deviations
        below: Tensor = torch.special.ndtr(z)
        return (self.weights.double() * below).sum(1)


class Ring(nn.Module):
    """Radius N(2, 0.2^2), angle uniform."""

    data_shape = (2,)
    radius, deviation = 2.0, 0.2

    def energy(self, x: Tensor) -> Tensor:
        """-log p(x) in nats, (n,), of x (n, 2)."""
        r: Tensor = torch.linalg.vector_norm(x, dim=1).clamp_min(1e-6)
        constant = math.log(self.deviation * (2 * math.pi) ** 1.5)
        return ((r - self.radius) / self.deviation).square() / 2 + r.log() + constant

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` exact samples, (n, 2)."""
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        r = self.radius + self.deviation * torch.randn(n, generator=generator)
        return r[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


def _round(deviation: float) -> list[list[float]]:
    return [[deviation**2, 0.0], [0.0, deviation**2]]


def _eight_gaussians() -> GaussianMixture:
    angles = [2 * math.pi * k / 8 for k in range(8)]
    means = [[2 * math.cos(a), 2 * math.sin(a)] for a in angles]
    return GaussianMixture([1 / 8] * 8, means, [_round(0.25)] * 8)


def _two_scales() -> GaussianMixture:
    """A narrow peak on the flank of a broad one, and a long one across."""
    covariances = [_round(1.0), _round(0.25), [[1.0, 0.85], [0.85, 0.8]]]
    return GaussianMixture([0.5, 0.2, 0.3], [[-1.0, 1.0], [0.5, 1.5], [1.0, -1.2]], covariances)


Toy = GaussianMixture | Ring

#: Densities in the plane, all but a ten-thousandth of them within [-5, 5]^2.
TOYS: Mapping[str, Callable[[], Toy]] = {
    "eight-gaussians": _eight_gaussians,
    "ring": Ring,
    "two-scales": _two_scales,
}


def standard_errors(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """By how many standard errors the moments of independent Gaussian samples are off.

    Args:
        x: (n, d).
        mean: (d,).
        covariance: (d, d).

    Returns:
        Absolute values for the mean, then for the upper triangle of the covariance.
    """
    x, mean, covariance = x.double(), mean.double(), covariance.double()
    n, variance = len(x), covariance.diagonal()
    off_mean = (x.mean(0) - mean) / (variance / n).sqrt()
    # Of a Gaussian, var(s_ij) = (c_ii c_jj + c_ij^2) / n.
    errors = ((variance[:, None] * variance + covariance.square()) / n).sqrt()
    off = (x.T.cov() - covariance) / errors
    row, column = torch.triu_indices(len(mean), len(mean))
    return torch.cat([off_mean, off[row, column]]).abs()


def kolmogorov_distance(x: Tensor, distribution: Callable[[Tensor], Tensor]) -> float:
    """Largest gap between the samples' distribution function, x (n,), and the true one."""
    below = distribution(x.sort().values)
    ranks = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    return float(torch.maximum((ranks[1:] - below).abs(), (below - ranks[:-1]).abs()).max())
