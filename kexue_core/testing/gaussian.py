"""A Gaussian in the plane that every sampler can draw from and whose moments are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Gaussian", "GaussianConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianConfig:
    """Mean and Cholesky factor; six deviations lie about within [0, 1], as images do."""

    mean: tuple[float, float] = (0.5, 0.45)
    # Deviations 0.08 and 0.12, correlation 0.5.
    factor: tuple[tuple[float, float], tuple[float, float]] = ((0.08, 0.0), (0.06, 0.10392))


class Gaussian(nn.Module):
    """N(mean, factor factor^T) with a latent, a density, an energy and codes.

    Data are (n, 2). The codes, (n, 2) integers of 0..15, are the quantised coordinates.
    """

    mean: Tensor
    factor: Tensor
    data_shape = (2,)

    def __init__(self, config: GaussianConfig | None = None) -> None:
        super().__init__()
        self.config = config or GaussianConfig()
        self.register_buffer("mean", torch.tensor(self.config.mean))
        self.register_buffer("factor", torch.tensor(self.config.factor))

    @property
    def covariance(self) -> Tensor:
        """(2, 2)."""
        return self.factor @ self.factor.T

    def forward(self, x: Tensor) -> Tensor:
        """log p(x), (n,)."""
        return self.log_prob(x)

    def energy(self, x: Tensor) -> Tensor:
        """Half the squared Mahalanobis distance in nats, (n,), for x (n, 2)."""
        return 0.5 * self._whiten(x).square().sum(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (n,), for x (n, 2)."""
        return -self.energy(x) - math.log(2 * math.pi) - self.factor.diagonal().log().sum()

    def bits_per_dim(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Bits a dimension of x as it is, (n,): nothing is quantised here."""
        return -self.log_prob(x) / (2 * math.log(2))

    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Standard normal latents, (n, 2), times the temperature."""
        drawn = [torch.randn(2, generator=generator) for _ in range(n)]
        return temperature * (torch.stack(drawn) if n else torch.empty(0, 2)).to(self.mean.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (n, 2) to data (n, 2), clamped to [0, 1]."""
        return (self.mean + latent @ self.factor.T).clamp(0, 1)

    def to_latent(self, x: Tensor) -> Tensor:
        """Data (n, 2) to latents (n, 2)."""
        return self._whiten(x)

    def to_codes(self, x: Tensor) -> Tensor:
        """Sixteenths, (n, 2) integers, of x in [0, 1]."""
        return (x * 16).long().clamp(0, 15)

    def from_codes(self, codes: Tensor) -> Tensor:
        """The middle of each sixteenth, (n, 2)."""
        return (codes + 0.5) / 16

    def _whiten(self, x: Tensor) -> Tensor:
        white: Tensor = torch.linalg.solve_triangular(self.factor, (x - self.mean).T, upper=False)
        return white.T
