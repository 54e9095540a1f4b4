"""How the codecs of this plugin are trained.

Mean squared error of the images and the commitment loss, nothing else: a perceptual or adversarial
loss would make sharper images and a worse comparison of quantisers.

References:
    [1] Zhu et al., Addressing Representation Collapse in Vector Quantized Models with One Linear
        Layer, 2024: Adam, betas (0.5, 0.9). arXiv 2411.02038
"""

from __future__ import annotations

import math
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
from kexue_vqlinear.autoencoder import VQAutoencoder, VQAutoencoderConfig
from kexue_vqlinear.usage import CodeUsage

__all__ = ["SimVQCelebA", "SimVQCelebAConfig", "VQCelebA", "VQCelebAConfig"]

EVALUATION_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SimVQCelebAConfig(RecipeConfig):
    """Settings of a codec's training; the defaults take ten minutes of one core.

    Attributes:
        size: Side of the images in pixels.
        channels: 3 for RGB, 1 for grey.
        quantizer: A key of `kexue_vqlinear.autoencoder.QUANTIZERS`.
        num_embeddings: Number of codes.
        dim: Channels of what is quantised.
        hidden: Width of each level; each halves the side.
        blocks: Residual blocks at the lowest level.
        estimator: "ste" or "rotation".
        learning_rate: Adam's, at its height.
        quantizer_learning_rate: The same for the parameters of the quantiser. Where they are as
            slow as the encoder, it runs away from its codes and few of them are used.
        warmup: Optimiser steps over which it rises; then it falls to zero as a cosine.
        clip: Bound on the gradient's norm.
        net_dtype: Number type of the convolutions while training; the quantiser stays in float32.
        flip: Mirror images at random.
    """

    steps: int = 2_400
    batch_size: int = 32
    ema: float = 0.0
    evaluate_every: int = 1_000
    preview_every: int = 0
    checkpoint_every: int = 500
    size: int = 64
    channels: int = 3
    quantizer: str = "simvq"
    num_embeddings: int = 1024
    dim: int = 128
    hidden: tuple[int, ...] = (48, 96, 128)
    blocks: int = 2
    estimator: Literal["ste", "rotation"] = "ste"
    learning_rate: float = 3e-3
    quantizer_learning_rate: float = 3e-2
    warmup: int = 100
    clip: float = 1.0
    net_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    flip: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VQCelebAConfig(SimVQCelebAConfig):
    """The same with plain vector quantisation."""

    quantizer: str = "vq"


class SimVQCelebA(Recipe):
    """An autoencoder of CelebA faces whose codes pass through one linear map."""

    Config: ClassVar[type[RecipeConfig]] = SimVQCelebAConfig
    config: SimVQCelebAConfig
    #: Public data that a stranger can train on.
    hub: ClassVar[str] = "nielsr/CelebA-faces"
    #: Side of the square that is cut out of CelebA's 178x218 frames; smaller images are kept whole.
    crop: ClassVar[int | None] = 148
    card: ClassVar[Card] = Card(
        summary="A codec of faces: 64x64 RGB to a grid of 8x8 codes of 1,024 and back. The codes "
        "pass through one linear map (SimVQ), so that all of them are used.",
        data="CelebA (Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015)",
        license="LicenseRef-CelebA-noncommercial",
        terms="CelebA is for non-commercial research only, and so are these weights.",
        limits="Small, trained for ten minutes of one core with mean squared error alone: "
        "reconstructions are soft. By itself it does not generate; `simvq-prior-celeba` draws "
        "codes for it. CelebA is a biased set of photographs of celebrities.",
    )

    def data(self, source: str | None, split: Split) -> Dataset:
        """Images, cropped to the face where they are whole frames."""
        c = self.config
        return open_images(
            source or self.hub, split, size=c.size, channels=c.channels, crop=self.crop
        )

    def build(self) -> Mapping[str, nn.Module]:
        """A new autoencoder."""
        c = self.config
        model = VQAutoencoder(
            VQAutoencoderConfig(
                size=c.size,
                channels=c.channels,
                quantizer=c.quantizer,
                num_embeddings=c.num_embeddings,
                dim=c.dim,
                hidden=c.hidden,
                blocks=c.blocks,
                estimator=c.estimator,
            )
        )
        # As oneDNN and cuDNN like it best; the file does not know.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return {"model": model}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """Adam with the betas of [1]."""
        c, rates = self.config, []
        for name, parameter in modules["model"].named_parameters():
            inside = name.startswith("quantizer.")
            rates.append((parameter, c.quantizer_learning_rate if inside else c.learning_rate))
        groups = [
            {"params": [p for p, r in rates if r == rate], "lr": rate}
            for rate in sorted({rate for _, rate in rates})
        ]
        return {"model": torch.optim.Adam(groups, betas=(0.5, 0.9))}

    def learning_rate_scale(self, step: int) -> float:
        """A linear rise, then half a cosine to zero."""
        c = self.config
        rise = min(1.0, (step + 1) / c.warmup) if c.warmup else 1.0
        return rise * 0.5 * (1 + math.cos(math.pi * step / c.steps))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """Minimise the squared error, in units of the range [-1, 1], and the quantiser's loss."""
        image = batch["image"]
        if self.config.flip:
            image = random_flip(image, context)
        dtype = getattr(torch, self.config.net_dtype)
        with torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32):
            loss, reconstruction, _, diagnostics = modules["model"](image)
        mse = (reconstruction.float() - image).square().mean()
        total = 4 * mse + loss
        return {
            "loss": total,
            "mse": mse,
            "quantizer": loss,
            **diagnostics._asdict(),
            **context.minimize("model", total, clip=self.config.clip),
        }

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Squared error, PSNR of it in decibels, and the use of codes over all of the data."""
        assert isinstance(model, VQAutoencoder)
        device = next(model.parameters()).device
        n = min(len(data), limit or len(data))
        usage = CodeUsage(model.config.num_embeddings)
        squares = 0.0
        for first in range(0, n, EVALUATION_BATCH):
            image = data.batch(range(first, min(n, first + EVALUATION_BATCH)))["image"].to(device)
            codes = model.to_codes(image)
            usage.update(codes)
            squares += float((model.from_codes(codes) - image).double().square().sum())
        mse = squares / (n * math.prod(model.data_shape))
        return {
            "mse": mse,
            "psnr": -10 * math.log10(max(mse, 1e-12)),
            "utilization": usage.utilization,
            "perplexity": usage.perplexity,
        }

    def preprocess(self) -> Mapping[str, Any]:
        """What `config.json` says of the images."""
        c = self.config
        return {
            "modality": "image",
            "size": c.size,
            "channels": c.channels,
            "range": [0, 1],
            "crop": self.crop,
        }


class VQCelebA(SimVQCelebA):
    """The same autoencoder with plain vector quantisation, to compare with."""

    Config: ClassVar[type[RecipeConfig]] = VQCelebAConfig
    card: ClassVar[Card] = replace(
        SimVQCelebA.card,
        summary="The codec `simvq-celeba` with plain vector quantisation in its middle: the same "
        "net, data and steps, to compare with.",
        limits="Most of its codes are never used, which is what it is there to show: use "
        "`simvq-celeba`. Small, trained for ten minutes of one core with mean squared error alone. "
        "CelebA is a biased set of photographs of celebrities.",
    )
