"""A continuous normalizing flow in the plane, by flow matching. Needs torch alone.

A velocity field v(u, t) carries noise at t = 0 to data at t = 1. The flow is integrated with the
classical Runge-Kutta rule; its log-determinant is the integral of the divergence of v [2, eq 8].

References:
    [1] Lipman et al., Flow Matching for Generative Modeling, 2022. https://arxiv.org/abs/2210.02747
    [2] Chen et al., Neural Ordinary Differential Equations, 2018. https://arxiv.org/abs/1806.07366
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["FlowMatching", "FlowMatchingConfig", "example_input"]

# Data lie in [0, 1]; inside, they are centred and of deviation about one.
CENTRE, SPREAD = 0.5, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowMatchingConfig:
    """Width and depth of the velocity net; `steps` of the integrator."""

    hidden: int = 64
    layers: int = 3
    steps: int = 24

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class FlowMatching(nn.Module):
    """A density of points (n, 2) in the unit square, with an inverse."""

    data_shape = (2,)

    def __init__(self, config: FlowMatchingConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden
        layers: list[nn.Module] = [nn.Linear(3, width), nn.SiLU()]
        for _ in range(config.layers - 1):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        """Velocity (n, 2) at the points u (n, 2), normalised, and times t (n,) in [0, 1]."""
        velocity: Tensor = self.net(torch.cat([u, t[:, None]], dim=1))
        return velocity

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points x (n, 2) -> latents (n, 2), and log |d latent / dx| (n,) in nats."""
        u = (x - CENTRE) / SPREAD
        z, change = self._integrate(u, start=1.0, end=0.0, divergence=True)
        return z, change - 2 * math.log(SPREAD)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (n,), of points (n, 2)."""
        z, log_det = self.transform(x)
        return log_det - 0.5 * z.square().sum(1) - math.log(2 * math.pi)

    @torch.no_grad()
    def bits_per_dim(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Bits a coordinate at a resolution of 1/256, (n,); points are real, nothing is drawn."""
        return 8 - self.log_prob(x) / (2 * math.log(2))

    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Latents (n, 2) from N(0, temperature^2 I), one after the other."""
        if condition is not None:
            raise ValueError("this model is unconditional: condition must be None")
        latent = torch.empty(n, 2)
        for row in latent:
            row.normal_(generator=generator)
        return temperature * latent.to(next(self.parameters()))

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Latents (n, 2) to points (n, 2), clamped to [0, 1]."""
        u, _ = self._integrate(latent, start=0.0, end=1.0)
        return (CENTRE + SPREAD * u).clamp(0, 1)

    @torch.no_grad()
    def to_latent(self, x: Tensor) -> Tensor:
        """Points (n, 2) to latents (n, 2); `decode` gives the points back."""
        return self._integrate((x - CENTRE) / SPREAD, start=1.0, end=0.0)[0]

    def _integrate(
        self, u: Tensor, *, start: float, end: float, divergence: bool = False
    ) -> tuple[Tensor, Tensor]:
        # Runge-Kutta 4 on u, and with it on the log-determinant.
        log_det, step = u.new_zeros(len(u)), (end - start) / self.config.steps
        slope = self._with_divergence if divergence else self._without_divergence
        for i in range(self.config.steps):
            t = start + i * step
            k1, d1 = slope(u, t)
            k2, d2 = slope(u + step / 2 * k1, t + step / 2)
            k3, d3 = slope(u + step / 2 * k2, t + step / 2)
            k4, d4 = slope(u + step * k3, t + step)
            u = u + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            log_det = log_det + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        return u, log_det

    def _at(self, t: float) -> Callable[[Tensor], Tensor]:
        return lambda u: self(u, torch.full_like(u[:, 0], t))

    def _without_divergence(self, u: Tensor, t: float) -> tuple[Tensor, Tensor]:
        return self._at(t)(u), u.new_zeros(len(u))

    def _with_divergence(self, u: Tensor, t: float) -> tuple[Tensor, Tensor]:
        # Exact in the plane: one directional derivative an axis.
        divergence = u.new_zeros(len(u))
        velocity = u
        for axis in range(2):
            direction = torch.zeros_like(u)
            direction[:, axis] = 1
            velocity, along = torch.func.jvp(self._at(t), (u,), (direction,))
            divergence = divergence + along[:, axis]
        return velocity, divergence


def example_input(model: FlowMatching, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A point and a time for each of n calls of `forward`."""
    points = torch.empty(n, 2)
    times = torch.empty(n)
    for i in range(n):
        points[i].normal_(generator=generator)
        times[i].uniform_(generator=generator)
    return points, times
