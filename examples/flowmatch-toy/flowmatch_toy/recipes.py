"""How the weights are trained: on two half moons, drawn on the spot."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowmatch_toy import model as nets
from flowmatch_toy.loss import FlowMatchingLoss
from kexue_core.errors import DataError
from kexue_core.training import Batch, Card, Dataset, Recipe, RecipeConfig, Split, StepContext

__all__ = ["Moons", "MoonsConfig", "MoonsData"]

#: Points of each split, and its seed.
SPLITS = {"train": (20_000, 1), "val": (2_000, 2), "test": (4_000, 3)}


class MoonsData:
    """Two interleaved half circles with Gaussian noise, inside the unit square."""

    def __init__(self, split: Split) -> None:
        size, seed = SPLITS[split]
        generator = torch.Generator().manual_seed(seed)
        angle = math.pi * torch.rand(size, generator=generator)
        upper = torch.rand(size, generator=generator) < 0.5
        x = torch.where(upper, angle.cos(), 1 - angle.cos())
        y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
        noise = 0.07 * torch.randn(size, 2, generator=generator)
        # x spans [-1, 2] and y [-0.5, 1]: one scale for both, the middle in the middle.
        points = torch.stack([x - 0.5, y - 0.25], dim=1) + noise
        self.points = (0.5 + points / 4).clamp(0, 1)
        self.name = f"two moons ({split})"
        self.fingerprint = hashlib.sha256(self.points.numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.points)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Points (n, 2) in [0, 1]."""
        return {"point": self.points[list(indices)]}


@dataclass(frozen=True, slots=True, kw_only=True)
class MoonsConfig(RecipeConfig):
    """Settings of the training."""

    steps: int = 4_000
    batch_size: int = 512
    ema: float = 0.99
    hidden: int = 64
    layers: int = 3
    learning_rate: float = 2e-3


class Moons(Recipe):
    """Flow matching on two moons."""

    Config: ClassVar[type[RecipeConfig]] = MoonsConfig
    config: MoonsConfig
    card: ClassVar[Card] = Card(
        summary="Flow matching of two half moons in the plane.",
        data="Two moons, drawn by MoonsData of this package",
        license="CC0-1.0",
        terms="The data are computed; no terms bind them.",
        limits="A toy in two dimensions.",
    )

    def data(self, source: str | None, split: Split) -> Dataset:
        """The moons; there is no other data."""
        if source is not None:
            raise DataError("This recipe draws its own data", hint="Leave --data out")
        return MoonsData(split)

    def build(self) -> Mapping[str, nn.Module]:
        """A new model."""
        c = self.config
        config = nets.FlowMatchingConfig(hidden=c.hidden, layers=c.layers)
        return {"model": nets.FlowMatching(config)}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """Adam."""
        parameters = modules["model"].parameters()
        return {"model": torch.optim.Adam(parameters, lr=self.config.learning_rate)}

    def learning_rate_scale(self, step: int) -> float:
        """Half a cosine to zero."""
        return 0.5 * (1 + math.cos(math.pi * step / self.config.steps))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """Regress the velocity at one random time a point."""
        data = (batch["point"] - nets.CENTRE) / nets.SPREAD
        noise = context.noise(len(data), "normal", 2)
        t = context.noise(len(data), "uniform")
        loss = FlowMatchingLoss()(modules["model"], data, noise, t)
        return {"loss": loss, **context.minimize("model", loss, clip=1.0)}

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Mean negative log-likelihood in nats a point."""
        assert isinstance(model, nets.FlowMatching)
        points = data.batch(range(min(len(data), limit or len(data))))["point"]
        device = next(model.parameters()).device
        return {"nll": -float(model.log_prob(points.to(device)).double().mean())}

    def preprocess(self) -> Mapping[str, Any]:
        """What config.json says of the data."""
        return {"modality": "points", "range": [0, 1]}

    def sampler(self) -> tuple[str, Mapping[str, Any]]:
        """The core's: draw from the prior, decode."""
        return "latent-prior", {}
