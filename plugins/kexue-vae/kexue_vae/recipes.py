"""How the weights of this plugin are trained.

One recipe for all: Adam with a warm-up and half a cosine, the ELBO, then, where it is asked for, a
last part with IWAE-k; weights are averaged. Binary training images are drawn anew from their grey
values whenever they are seen, the usual guard against overfitting [1, section 5]; validation and
test images are binarised once.

References:
    [1] Burda et al., Importance Weighted Autoencoders, 2015. https://arxiv.org/abs/1509.00519
    [2] Rybkin et al., sigma-VAE, 2020. https://arxiv.org/abs/2006.13202
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
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
from kexue_vae.data import BinarizedOnce
from kexue_vae.likelihoods import make_likelihood
from kexue_vae.losses import ELBO, IWAE
from kexue_vae.vae import VAE, VAEConfig

__all__ = [
    "VAECelebA",
    "VAECelebAConfig",
    "VAEMnist",
    "VAEMnistConfig",
]

EVALUATION_BATCH = 128
PREVIEW_IMAGES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEMnistConfig(RecipeConfig):
    """Settings of a VAE's training; the defaults are the 1.4M-parameter model of binarised MNIST.

    Attributes:
        size: Side of the images in pixels.
        channels: 3 for RGB, 1 for grey.
        latent: Dimensions of z.
        net: ``mlp`` or ``conv``.
        widths: Hidden layers, or channels after each halving.
        likelihood: What p(x|z) is; see :mod:`kexue_vae.likelihoods`.
        sigma: Where the deviation of real-valued likelihoods starts.
        learning_rate: Adam's, at its height.
        warmup: Optimiser steps over which it rises; then it falls to zero as a cosine.
        clip: Bound on the gradient's norm, the loss being in nats an image.
        beta: Weight of the KL.
        free_bits: Nats a dimension without cost.
        iwae_samples: k of the bound that the last part of the training maximises.
        iwae_steps: Length of that part in optimiser steps; 0 for the ELBO throughout.
        iwae_batch: Images of each batch that are used in it: k samples are k times the work.
        evaluation_samples: k of the IWAE-k that is reported.
        binarization_seed: Of the generator that binarises validation and test images, once.
        net_dtype: Number type of the networks while training.
        flip: Mirror images at random.
    """

    steps: int = 48_000
    batch_size: int = 256
    ema: float = 0.9995
    evaluate_every: int = 24_000
    preview_every: int = 12_000
    checkpoint_every: int = 8_000
    size: int = 28
    channels: int = 1
    latent: int = 40
    net: Literal["mlp", "conv"] = "mlp"
    widths: tuple[int, ...] = (512, 512)
    likelihood: str = "bernoulli"
    sigma: float = 0.1
    learning_rate: float = 2e-3
    warmup: int = 500
    clip: float = 100.0
    beta: float = 1.0
    free_bits: float = 0.0
    iwae_samples: int = 5
    iwae_steps: int = 10_000
    iwae_batch: int = 64
    evaluation_samples: int = 500
    binarization_seed: int = 0
    net_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    flip: bool = False


class VAEMnist(Recipe):
    """A VAE on binarised MNIST."""

    Config: ClassVar[type[RecipeConfig]] = VAEMnistConfig
    config: VAEMnistConfig
    #: Public data that a stranger can train on.
    hub: ClassVar[str] = "ylecun/mnist"
    #: Side of the square that is cut out of the source's images before they are resized.
    crop: ClassVar[int | None] = None
    #: Of the sampler that the weights name.
    temperature: ClassVar[float] = 1.0
    card: ClassVar[Card] = Card(
        summary="VAE (one layer of 40 normal latents, multilayer perceptrons) of binary MNIST "
        "digits. It samples, encodes, interpolates, and bounds likelihoods by IWAE-k.",
        data="MNIST (LeCun, Cortes & Burges). Validation and test images are binarised once, each "
        "pixel 1 with probability grey value / 255 (no threshold), by torch.Generator with seed 0; "
        "the sha256 in a result's record is of the binary array. Training images are binarised "
        "anew whenever they are drawn",
        license="MIT",
        terms="MNIST is freely used; the weights are under the MIT licence.",
        limits="28x28 binary digits. The likelihood is a lower bound (IWAE-500), and comparable "
        "only with figures of the same binarisation and a similar k.",
    )

    def data(self, source: str | None, split: Split) -> Dataset:
        """Images; binary ones (validation, test) where the likelihood is Bernoulli's."""
        c = self.config
        images = open_images(
            source or self.hub, split, size=c.size, channels=c.channels, crop=self.crop
        )
        if c.likelihood == "bernoulli" and split != "train":
            return BinarizedOnce(images, seed=c.binarization_seed)
        return images

    def build(self) -> Mapping[str, nn.Module]:
        """A new model."""
        model = self._model()
        if self.config.net_dtype != "float32":
            model.net_dtype = getattr(torch, self.config.net_dtype)
        return {"model": model}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """Adam."""
        parameters = modules["model"].parameters()
        return {"model": torch.optim.Adam(parameters, lr=self.config.learning_rate, fused=True)}

    def learning_rate_scale(self, step: int) -> float:
        """A linear rise, then half a cosine to zero."""
        c = self.config
        rise = min(1.0, (step + 1) / c.warmup) if c.warmup else 1.0
        return rise * 0.5 * (1 + math.cos(math.pi * step / c.steps))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """Minimise the negative ELBO of one batch, or the negative IWAE-k of a part of it."""
        c = self.config
        weighted = context.step >= c.steps - c.iwae_steps
        rows = min(c.iwae_batch, len(batch["image"])) if weighted else len(batch["image"])
        image = self._prepare(batch["image"][:rows], context)
        condition = self._condition(batch)
        noise = self._noise(rows, c.iwae_samples if weighted else 1, context)
        terms = modules["model"](image, None if condition is None else condition[:rows], noise)
        if weighted:
            loss = IWAE()(terms.log_weights)
        else:
            loss = ELBO(beta=c.beta, free_bits=c.free_bits)(terms.log_likelihood, terms.kl)
        beside = self._beside(modules, batch, context)
        if "beside" in beside:
            loss = loss + beside.pop("beside")
        return {
            **beside,
            "loss": loss,
            "log_likelihood": terms.log_likelihood.mean(),
            "kl": terms.kl.sum(1).mean(),
            **context.minimize("model", loss, clip=c.clip),
        }

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """IWAE-k and ELBO, as nats an image of binary data and as bits a value of 8-bit data.

        Both are upper bounds of the true figure. The noise comes from a fixed seed.
        """
        assert isinstance(model, VAE)
        k = self.config.evaluation_samples
        generator = torch.Generator().manual_seed(0)
        first = next(model.parameters())
        n = min(len(data), limit or len(data))
        iwae = elbo = 0.0
        for start in range(0, n, EVALUATION_BATCH):
            batch = data.batch(range(start, min(n, start + EVALUATION_BATCH)))
            grey = batch["image"]
            image = self.likelihood.quantize(grey, torch.rand(grey.shape, generator=generator))
            image = image.to(first.device, first.dtype)
            condition = self._condition(batch)
            noise = model.noise(len(image), 1, generator).to(first.device, first.dtype)
            terms = model(image, condition, noise)
            loss = ELBO(reduction="sum")(terms.log_likelihood.double(), terms.kl.double())
            elbo += float(loss)
            bound = model.log_prob(image, condition, samples=k, generator=generator)
            iwae -= float(bound.double().sum())
        if self.config.likelihood == "bernoulli":
            return {f"nll_iwae_{k}": iwae / n, "negative_elbo": elbo / n}
        unit = math.prod(model.data_shape) * math.log(2)
        offset = 0 if self.likelihood.discrete else 8
        return {
            f"bits_per_dim_iwae_{k}": iwae / n / unit + offset,
            "bits_per_dim_elbo": elbo / n / unit + offset,
        }

    def preview(self, model: nn.Module) -> Tensor:
        """The same samples every time."""
        assert isinstance(model, VAE)
        generator = torch.Generator().manual_seed(0)
        latents = model.prior(PREVIEW_IMAGES, temperature=self.temperature, generator=generator)
        return model.decode(latents)

    def preprocess(self) -> Mapping[str, Any]:
        """What `config.json` says of the images."""
        c = self.config
        return {"modality": "image", "size": c.size, "channels": c.channels, "range": [0, 1]}

    def sampler(self) -> tuple[str, Mapping[str, Any]]:
        """The prior."""
        return "latent-prior", {"temperature": self.temperature}

    def _model(self) -> VAE:
        return VAE(VAEConfig(**self._shape()))

    def _shape(self) -> dict[str, Any]:
        c = self.config
        names = ("size", "channels", "latent", "net", "widths", "likelihood", "sigma")
        return {name: getattr(c, name) for name in names}

    @cached_property
    def likelihood(self) -> Any:
        """What data look like to the model."""
        return make_likelihood(self.config.likelihood, self.config.channels, self.config.sigma)

    def _prepare(self, image: Tensor, context: StepContext) -> Tensor:
        """Images as the likelihood wants them: binary, dequantised or rounded."""
        if self.config.flip:
            image = random_flip(image, context)
        noise = context.noise(len(image), "uniform", *image.shape[1:])
        quantized: Tensor = self.likelihood.quantize(image, noise)
        return quantized

    def _noise(self, rows: int, samples: int, context: StepContext) -> Tensor:
        """What the model makes samples of the posterior of, (rows, samples, d)."""
        return context.noise(rows, "normal", samples, self.config.latent)

    def _condition(self, batch: Batch) -> Tensor | None:
        """What the model is conditioned on: nothing."""
        return None

    def _beside(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> dict[str, Tensor]:
        """What is trained beside the bound: ``beside`` is added to the loss, the rest is logged."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class VAECelebAConfig(VAEMnistConfig):
    """64x64 faces, convolutional, with the deviation that is best for each batch [2].

    With beta = 1 the bound is 0.06 bits a value better, and the posteriors fill so little of the
    prior that samples are hardly faces; with 8 they are.
    """

    steps: int = 4_200
    batch_size: int = 64
    ema: float = 0.999
    evaluate_every: int = 0
    preview_every: int = 400
    checkpoint_every: int = 1_000
    size: int = 64
    channels: int = 3
    latent: int = 128
    net: Literal["mlp", "conv"] = "conv"
    widths: tuple[int, ...] = (32, 64, 128, 256)
    likelihood: str = "gaussian-optimal"
    learning_rate: float = 1e-3
    beta: float = 8.0
    warmup: int = 200
    clip: float = 1000.0
    iwae_steps: int = 0
    evaluation_samples: int = 16
    flip: bool = True


class VAECelebA(VAEMnist):
    """A VAE of CelebA faces."""

    Config: ClassVar[type[RecipeConfig]] = VAECelebAConfig
    hub: ClassVar[str] = "nielsr/CelebA-faces"
    #: Side of the square that is cut out of CelebA's 178x218 frames; smaller images are kept whole.
    crop: ClassVar[int | None] = 148
    temperature: ClassVar[float] = 0.8
    card: ClassVar[Card] = Card(
        summary="VAE (one layer of 128 normal latents, convolutional, Gaussian decoder with the "
        "optimal sigma) of CelebA faces at 64x64. It samples, encodes and interpolates.",
        data="CelebA (Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015)",
        license="LicenseRef-CelebA-noncommercial",
        terms="CelebA is for non-commercial research only, and so are these weights.",
        limits="Small and trained for minutes of one core: faces are blurred, as the mean of a "
        "Gaussian decoder is. CelebA is a biased set of photographs of celebrities; likelihoods "
        "say nothing about a person.",
    )
