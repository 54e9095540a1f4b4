"""How the prior over the codes of a codec is trained.

The images pass through the codec once, each also mirrored; what is trained on is the grids of codes
alone. The codec is fixed, and the prior requires it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kexue_core as kexue
from kexue_core.api import provenance
from kexue_core.errors import ConfigError, UnsupportedError
from kexue_core.training import Batch, Card, Dataset, Recipe, RecipeConfig, Split, StepContext
from kexue_core.training.data import open_images
from kexue_vqlinear.autoencoder import VQAutoencoder
from kexue_vqlinear.prior import CodePrior, CodePriorConfig
from kexue_vqlinear.sampler import code_prior

__all__ = ["Codes", "SimVQPriorCelebA", "SimVQPriorCelebAConfig"]

EVALUATION_BATCH = 64
PREVIEW_IMAGES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SimVQPriorCelebAConfig(RecipeConfig):
    """Settings of a prior's training; the defaults take ten minutes of one core.

    Attributes:
        codec: Reference of the codec's weights, which the prior will require.
        shape, num_embeddings: Of the codec's codes.
        width, depth, heads, dropout: See :class:`kexue_vqlinear.prior.CodePriorConfig`.
        learning_rate: AdamW's, at its height.
        weight_decay: AdamW's, of matrices.
        warmup: Optimiser steps over which it rises; then it falls to zero as a cosine.
        clip: Bound on the gradient's norm.
        net_dtype: Number type of matrix products while training.
        flip: Train on the codes of mirrored images too.
        temperature: Of samples, as the weights will suggest.
    """

    steps: int = 2_500
    batch_size: int = 32
    ema: float = 0.995
    evaluate_every: int = 500
    preview_every: int = 1_000
    checkpoint_every: int = 500
    codec: str = "simvq-celeba"
    shape: tuple[int, int] = (8, 8)
    num_embeddings: int = 1024
    width: int = 128
    depth: int = 4
    heads: int = 4
    dropout: float = 0.1
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 200
    clip: float = 1.0
    net_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    flip: bool = True
    temperature: float = 0.9


class Codes:
    """The codes of images as a data set: `codes`, (n, height, width), int64.

    Args:
        images: Images of the codec's shape, under `image`.
        codec: What encodes them.
        flip: Let the codes of the mirrored images follow.
    """

    def __init__(self, images: Dataset, codec: VQAutoencoder, *, flip: bool = False) -> None:
        self.name = images.name
        parts = [_encode(images, codec, flip=way) for way in ((False, True) if flip else (False,))]
        self._codes = torch.cat(parts)
        digest = hashlib.sha256(f"{images.fingerprint} {tuple(self._codes.shape)}".encode())
        digest.update(self._codes.numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._codes)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The grids at `indices`."""
        return {"codes": self._codes[list(indices)]}


@torch.no_grad()
def _encode(images: Dataset, codec: VQAutoencoder, *, flip: bool) -> Tensor:
    batches = []
    for first in range(0, len(images), EVALUATION_BATCH):
        chosen = range(first, min(len(images), first + EVALUATION_BATCH))
        image = images.batch(chosen)["image"]
        batches.append(codec.to_codes(image.flip(-1) if flip else image))
    return torch.cat(batches)


class SimVQPriorCelebA(Recipe):
    """A causal transformer over the codes of `simvq-celeba`."""

    Config: ClassVar[type[RecipeConfig]] = SimVQPriorCelebAConfig
    config: SimVQPriorCelebAConfig
    hub: ClassVar[str] = "nielsr/CelebA-faces"
    card: ClassVar[Card] = Card(
        summary="A prior over the 8x8 codes of `simvq-celeba`, which it requires: together they "
        "sample faces of 64x64.",
        data="CelebA (Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015)",
        license="LicenseRef-CelebA-noncommercial",
        terms="CelebA is for non-commercial research only, and so are these weights.",
        limits="Small, and trained for ten minutes of one core: faces are soft and at times "
        "crooked. CelebA is a biased set of photographs of celebrities; likelihoods say nothing "
        "about a person.",
    )

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        self._loaded: VQAutoencoder | None = None

    @property
    def codec(self) -> VQAutoencoder:
        """The codec, loaded when it is first asked for.

        Raises:
            UnsupportedError: The weights are of something else.
            ConfigError: Its codes are not those of the config.
        """
        if self._loaded is None:
            codec = kexue.load(self.config.codec)
            if not isinstance(codec, VQAutoencoder):
                raise UnsupportedError(
                    f"{self.config.codec} is no vq-autoencoder",
                    hint="Name a codec with --set codec=NAME or codec=file:PATH",
                )
            c = self.config
            if (codec.code_shape, codec.config.num_embeddings) != (c.shape, c.num_embeddings):
                raise ConfigError(
                    f"The codes of {c.codec} are {codec.code_shape} of "
                    f"{codec.config.num_embeddings}, not {c.shape} of {c.num_embeddings}",
                    hint="Set shape and num_embeddings to the former",
                )
            self._loaded = codec
        return self._loaded

    def data(self, source: str | None, split: Split) -> Dataset:
        """Codes of images that are prepared as the codec wants them."""
        known = provenance(self.codec)
        crop = known.config.preprocess.get("crop") if known else None
        channels, size, _ = self.codec.data_shape
        images = open_images(source or self.hub, split, size=size, channels=channels, crop=crop)
        return Codes(images, self.codec, flip=self.config.flip and split == "train")

    def build(self) -> Mapping[str, nn.Module]:
        """A new prior for the codec's codes."""
        c = self.config
        config = CodePriorConfig(
            shape=c.shape,
            num_embeddings=c.num_embeddings,
            width=c.width,
            depth=c.depth,
            heads=c.heads,
            dropout=c.dropout,
        )
        return {"model": CodePrior(config)}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """AdamW; only matrices decay."""
        c = self.config
        parameters = list(modules["model"].parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim == 2], "weight_decay": c.weight_decay},
            {"params": [p for p in parameters if p.ndim != 2], "weight_decay": 0.0},
        ]
        return {"model": torch.optim.AdamW(groups, lr=c.learning_rate, betas=(0.9, 0.95))}

    def learning_rate_scale(self, step: int) -> float:
        """A linear rise, then half a cosine to zero."""
        c = self.config
        rise = min(1.0, (step + 1) / c.warmup) if c.warmup else 1.0
        return rise * 0.5 * (1 + math.cos(math.pi * step / c.steps))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """Minimise the cross-entropy of each code, in bits."""
        codes = batch["codes"]
        dtype = getattr(torch, self.config.net_dtype)
        with torch.autocast(codes.device.type, dtype, enabled=dtype != torch.float32):
            logits = modules["model"](codes)
        loss = F.cross_entropy(logits.float().flatten(0, -2), codes.flatten()) / math.log(2)
        return {"loss": loss, **context.minimize("model", loss, clip=self.config.clip)}

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Bits a code."""
        assert isinstance(model, CodePrior)
        device = next(model.parameters()).device
        n = min(len(data), limit or len(data))
        total = 0.0
        for first in range(0, n, EVALUATION_BATCH):
            codes = data.batch(range(first, min(n, first + EVALUATION_BATCH)))["codes"].to(device)
            total -= float(model.log_prob(codes).double().sum())
        return {"bits_per_code": total / (n * math.prod(model.code_shape) * math.log(2))}

    def preview(self, model: nn.Module) -> Tensor:
        """The same samples every time."""
        assert isinstance(model, CodePrior)
        model.attach([self.codec])
        generator = torch.Generator().manual_seed(0)
        temperature = self.config.temperature
        return code_prior(model, PREVIEW_IMAGES, generator=generator, temperature=temperature)

    def preprocess(self) -> Mapping[str, Any]:
        """What `config.json` says of what is drawn."""
        channels, size, _ = self.codec.data_shape
        return {"modality": "image", "size": size, "channels": channels, "range": [0, 1]}

    def sampler(self) -> tuple[str, Mapping[str, Any]]:
        """Codes from the prior, a little cooled."""
        return "code-prior", {"temperature": self.config.temperature}

    def requires(self) -> Sequence[str]:
        """The codec."""
        return (self.config.codec,)
