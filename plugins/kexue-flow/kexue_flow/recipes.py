"""How Glow is trained, and what the recipes of all flows have in common.

Glow after [1] with what its reproductions found since: Adamax beats Adam, a warm-up is needed, and
samples are drawn from averaged weights. The coupling nets run in bfloat16, which changes the
likelihood in the fourth digit and saves almost half of the time (`make bench ARGS=glow_train`); the
flow itself stays in float32.

References:
    [1] Kingma & Dhariwal, Glow, 2018. https://arxiv.org/abs/1807.03039
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kexue_core.training import (
    Batch,
    Card,
    Dataset,
    Recipe,
    RecipeConfig,
    Split,
    StepContext,
)
from kexue_core.training.data import open_images, random_flip
from kexue_flow.glow import Flow, Glow, GlowConfig, dequantize
from kexue_flow.losses import FlowNLL

__all__ = [
    "FlowRecipe",
    "FlowRecipeConfig",
    "GlowCelebA",
    "GlowCelebA32",
    "GlowCelebA32Config",
    "GlowCelebAConfig",
    "GlowFashion",
    "GlowFashionConfig",
]

EVALUATION_BATCH = 64
PREVIEW_IMAGES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecipeConfig(RecipeConfig):
    """Settings that the training of every flow has.

    Attributes:
        size: Side of the images in pixels.
        channels: 3 for RGB, 1 for grey.
        bits: Bits a channel that the data is quantised to.
        learning_rate: Adamax's, at its height.
        warmup: Optimiser steps over which it rises; then it falls to zero as a cosine.
        clip: Bound on the gradient's norm, where the loss is in bits a dimension.
        net_dtype: Number type of the coupling nets while training.
        flip: Mirror images at random.
        reversible: Recompute activations on the way back: less memory for more time.
    """

    size: int = 64
    channels: int = 3
    bits: int = 8
    learning_rate: float = 1e-3
    warmup: int = 500
    clip: float = 1.0
    net_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    flip: bool = False
    reversible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GlowCelebAConfig(FlowRecipeConfig):
    """Settings of a Glow's training; the defaults are the 6.4M-parameter model of 64x64 faces.

    Attributes:
        levels: L of [1].
        depth: K of [1], the steps of flow a level (``steps`` are the optimiser's).
        hidden: Width of the coupling nets.
    """

    steps: int = 200_000
    bits: int = 5
    levels: int = 4
    depth: int = 16
    hidden: int = 128
    flip: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GlowCelebA32Config(GlowCelebAConfig):
    """32x32 faces, three levels of eight steps: what one core trains in an hour or so."""

    steps: int = 13_000
    size: int = 32
    levels: int = 3
    depth: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GlowFashionConfig(GlowCelebAConfig):
    """28x28 grey images at their full 8 bits, two levels, no padding."""

    steps: int = 6_000
    size: int = 28
    channels: int = 1
    bits: int = 8
    levels: int = 2
    depth: int = 8
    hidden: int = 96
    flip: bool = False


class FlowRecipe(Recipe):
    """Maximum likelihood of dequantised images by Adamax. A subclass names data and flow."""

    config: FlowRecipeConfig
    #: Public data that a stranger can train on.
    hub: ClassVar[str]
    #: Side of the square that is cut out of an image; ``None`` keeps the shorter side whole.
    crop: ClassVar[int | None] = None
    #: Factor on the deviation of the prior for previews, and for samples of the weights.
    temperature: ClassVar[float] = 0.7
    start_samples: ClassVar[int] = 256

    @abstractmethod
    def flow(self) -> Flow:
        """A new flow."""

    def data(self, source: str | None, split: Split) -> Dataset:
        """Images of the configured size."""
        c = self.config
        return open_images(
            source or self.hub, split, size=c.size, channels=c.channels, crop=self.crop
        )

    def build(self) -> Mapping[str, nn.Module]:
        """A new flow; `initialize` follows in `start`."""
        flow = self.flow()
        flow.net_dtype = getattr(torch, self.config.net_dtype)
        flow.reversible = self.config.reversible
        return {"model": flow}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """Adamax, which reproductions of [1] found better than Adam."""
        parameters = modules["model"].parameters()
        return {"model": torch.optim.Adamax(parameters, lr=self.config.learning_rate)}

    def learning_rate_scale(self, step: int) -> float:
        """A linear rise, then half a cosine to zero."""
        c = self.config
        rise = min(1.0, (step + 1) / c.warmup) if c.warmup else 1.0
        return rise * 0.5 * (1 + math.cos(math.pi * step / c.steps))

    def start(self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext) -> None:
        """Take scales from the first batch."""
        flow = modules["model"]
        assert isinstance(flow, Flow)
        flow.initialize(self._dequantized(batch["image"], context))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """Minimise bits a dimension of one batch."""
        image = batch["image"]
        if self.config.flip:
            image = random_flip(image, context)
        log_prob = modules["model"](self._dequantized(image, context))
        bits = FlowNLL(bits=self.config.bits)(log_prob, dims=image[0].numel())
        return {"loss": bits, **context.minimize("model", bits, clip=self.config.clip)}

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Bits a dimension, the noise of dequantisation from a fixed seed."""
        assert isinstance(model, Flow)
        device = next(model.parameters()).device
        n = min(len(data), limit or len(data))
        generator = torch.Generator().manual_seed(0)
        total = 0.0
        for first in range(0, n, EVALUATION_BATCH):
            image = data.batch(range(first, min(n, first + EVALUATION_BATCH)))["image"]
            bits = model.bits_per_dim(image.to(device), generator=generator)
            total += float(bits.double().sum())
        return {"bits_per_dim": total / n}

    def preview(self, model: nn.Module) -> Tensor:
        """The same samples every time."""
        assert isinstance(model, Flow)
        generator = torch.Generator().manual_seed(0)
        latents = model.prior(PREVIEW_IMAGES, temperature=self.temperature, generator=generator)
        return model.decode(latents)

    def preprocess(self) -> Mapping[str, Any]:
        """What `config.json` says of the images."""
        c = self.config
        return {
            "modality": "image",
            "size": c.size,
            "channels": c.channels,
            "range": [0, 1],
            "bits": c.bits,
        }

    def sampler(self) -> tuple[str, Mapping[str, Any]]:
        """The prior, cooled as in the pictures of [1]."""
        return "latent-prior", {"temperature": self.temperature}

    def _dequantized(self, image: Tensor, context: StepContext) -> Tensor:
        # With the step's own noise, so that the processes of a run agree on it.
        noise = context.noise(len(image), "uniform", *image.shape[1:])
        return dequantize(image, noise, self.config.bits)


class GlowCelebA(FlowRecipe):
    """Glow on CelebA faces."""

    Config: ClassVar[type[RecipeConfig]] = GlowCelebAConfig
    config: GlowCelebAConfig
    hub: ClassVar[str] = "nielsr/CelebA-faces"
    #: The face in CelebA's 178x218 frames; smaller images are kept whole.
    crop: ClassVar[int | None] = 148
    card: ClassVar[Card] = Card(
        summary="Glow (invertible 1x1 convolutions, learned split priors) of CelebA faces. "
        "It samples, encodes and decodes exactly, interpolates, and gives exact likelihoods.",
        data="CelebA (Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015)",
        license="LicenseRef-CelebA-noncommercial",
        terms="CelebA is for non-commercial research only, and so are these weights.",
        limits="Small and trained briefly: samples are soft, backgrounds smear. CelebA is a "
        "biased set of photographs of celebrities; likelihoods say nothing about a person.",
    )

    def flow(self) -> Glow:
        """A new Glow."""
        c = self.config
        return Glow(
            GlowConfig(
                size=c.size,
                channels=c.channels,
                levels=c.levels,
                steps=c.depth,
                hidden=c.hidden,
                bits=c.bits,
            )
        )


class GlowCelebA32(GlowCelebA):
    """Glow on CelebA faces of 32x32."""

    Config: ClassVar[type[RecipeConfig]] = GlowCelebA32Config
    card: ClassVar[Card] = replace(
        GlowCelebA.card,
        limits="32x32 pixels, trained for an hour and a half on one core; the recipe `glow-celeba` "
        "is for 64x64. Samples are soft, and backgrounds smear. CelebA is a biased set of "
        "photographs of celebrities; likelihoods say nothing about a person.",
    )


class GlowFashion(GlowCelebA):
    """Glow on Fashion-MNIST."""

    Config: ClassVar[type[RecipeConfig]] = GlowFashionConfig
    hub: ClassVar[str] = "zalando-datasets/fashion_mnist"
    crop: ClassVar[int | None] = None
    card: ClassVar[Card] = Card(
        summary="Glow (invertible 1x1 convolutions, learned split priors) of Fashion-MNIST at "
        "28x28 and its full 8 bits.",
        data="Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017; arXiv 1708.07747)",
        license="MIT",
        terms="Fashion-MNIST is under the MIT licence, and so are these weights.",
        limits="Small, and trained for half an hour of one core: samples have the outlines of "
        "clothes and little of their texture. As with every flow, a higher likelihood does not "
        "mean that an image is more typical.",
    )
