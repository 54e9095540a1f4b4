"""A small recipe: a linear autoencoder of 8x8 images, with dropout, noise and a running buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kexue_core.training.data import open_images, random_flip
from kexue_core.training.recipe import Batch, Card, Dataset, Recipe, RecipeConfig, StepContext


@dataclass(frozen=True)
class ToyConfig:
    width: int = 16


class Toy(nn.Module):
    """The maths are beside the point: parameters, a norm, a data-dependent buffer."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.encode = nn.Linear(64, config.width)
        self.decode = nn.Linear(config.width, 64)
        self.drop = nn.Dropout(0.1)
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.drop(torch.tanh(self.encode(x - self.mean)))) + self.mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyRecipeConfig(RecipeConfig):
    steps: int = 40
    batch_size: int = 8
    ema: float = 0.9
    evaluate_every: int = 15
    preview_every: int = 20
    checkpoint_every: int = 10
    width: int = 16
    learning_rate: float = 1e-2
    sleep: float = 0.0  # seconds a step, for a test that kills the process
    poison: int = -1  # step whose loss becomes NaN
    dropout: bool = True
    betas: tuple[float, float] = (0.9, 0.99)
    mode: str | None = None


class ToyRecipe(Recipe):
    Config = ToyRecipeConfig
    config: ToyRecipeConfig
    card = Card(
        summary="A toy.",
        data="Made up.",
        license="CC0-1.0",
        terms="Do as you like.",
        limits="Good for nothing but tests.",
    )
    start_samples = 32

    def data(self, source: str | None, split: str) -> Dataset:
        assert source is not None
        return open_images(source, split, size=8, channels=1)  # type: ignore[arg-type]

    def build(self) -> Mapping[str, nn.Module]:
        model = Toy(ToyConfig(self.config.width))
        if not self.config.dropout:
            model.drop.p = 0.0
        return {"model": model}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        return {
            "adam": torch.optim.Adam(
                modules["model"].parameters(), self.config.learning_rate, betas=self.config.betas
            )
        }

    def learning_rate_scale(self, step: int) -> float:
        return min(1.0, (step + 1) / 10)

    def start(self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext) -> None:
        modules["model"].mean.copy_(batch["image"].flatten(1).mean(0))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        if self.config.sleep:
            import time

            time.sleep(self.config.sleep)
        x = random_flip(batch["image"], context).flatten(1)
        noisy = x + 0.05 * context.noise(len(x), "normal", 64)
        loss = (modules["model"](noisy) - x).square().mean()
        if context.step == self.config.poison:
            loss = loss * float("nan")
        return {"loss": loss, **context.minimize("adam", loss, clip=1.0)}

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        n = min(len(data), limit or len(data))
        x = data.batch(range(n))["image"].flatten(1)
        return {"mse": (model(x) - x).square().mean().item()}

    def preview(self, model: nn.Module) -> Tensor:
        x = torch.linspace(0, 1, 64).expand(4, 64)
        return model(x).clamp(0, 1).view(4, 1, 8, 8)

    def preprocess(self) -> Mapping[str, Any]:
        return {"modality": "image", "size": 8, "channels": 1, "range": [0, 1]}
