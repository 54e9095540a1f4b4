"""How the weights of this plugin are trained: SN-GAN after [1], in what one core can do.

From [1]: Adam with betas (0, 0.9) and a learning rate that falls to zero over the whole run (2e-4,
twice that on CelebA, ten times on Fashion-MNIST), hinge loss, spectral normalisation of all layers
of the discriminator. Different: images are sampled from averaged weights of the generator; one
batch of generated images serves the discriminator's step and then the generator's; convolutions run
in bfloat16, and sigma never does.

References:
    [1] Miyato et al., Spectral Normalization for GANs, 2018. https://arxiv.org/abs/1802.05957
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
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
from kexue_sngan.cnn import CNNDiscriminator, CNNGenerator, SNGANCNNConfig
from kexue_sngan.discriminator import save_discriminator
from kexue_sngan.losses import GAMES, GradientPenalty
from kexue_sngan.resnet import ResNetDiscriminator, ResNetGenerator, SNGANResNetConfig
from kexue_sngan.spectral import spectral_norm
from kexue_sngan.thumbnails import thumbnail_distance

__all__ = [
    "SNGAN",
    "SNGANCIFAR10",
    "SNGANCIFAR10Config",
    "SNGANCelebA",
    "SNGANCelebAConfig",
    "SNGANCelebAQuick",
    "SNGANCelebAQuickConfig",
    "SNGANConfig",
    "SNGANFashion",
    "SNGANFashionConfig",
    "SNGANFashionQuick",
    "SNGANFashionQuickConfig",
]

#: Images that are generated at once while measuring.
EVALUATION_BATCH = 128
PREVIEW_IMAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SNGANConfig(RecipeConfig):
    """Settings of a GAN's training.

    Attributes:
        size, channels, latent, width, critic_width, levels: Those of the model.
        game: Loss, a key of :data:`kexue_sngan.losses.GAMES`.
        spectral: Whether the discriminator is spectrally normalised.
        gradient_penalty: Weight of the gradient penalty, 0 for none.
        one_sided: Whether that punishes norms above 1 only.
        critic_steps: Steps of the discriminator for one of the generator; ``steps`` counts its.
        learning_rate: Adam's at the start; it falls linearly to zero.
        critic_learning_rate: The same of the discriminator.
        beta1, beta2: Adam's.
        dtype: Number type of the convolutions in training.
        flip: Mirror images at random.
    """

    steps: int = 50_000
    batch_size: int = 64
    ema: float = 0.999
    evaluate_every: int = 1_000
    preview_every: int = 1_000
    checkpoint_every: int = 1_000
    size: int = 32
    channels: int = 3
    latent: int = 128
    width: int = 64
    critic_width: int = 64
    levels: int = 3
    game: Literal["hinge", "nonsaturating", "wgan", "relativistic"] = "hinge"
    spectral: bool = True
    gradient_penalty: float = 0.0
    one_sided: bool = False
    critic_steps: int = 1
    learning_rate: float = 2e-4
    critic_learning_rate: float = 2e-4
    beta1: float = 0.0
    beta2: float = 0.9
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    flip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SNGANFashionConfig(SNGANConfig):
    """28x28 grey images, two levels.

    Ten times the learning rates of [1]: a discriminator whose layers are bounded bears them, and
    gets further in 3,000 steps than with those in 18,000.
    """

    steps: int = 18_000
    size: int = 28
    channels: int = 1
    width: int = 32
    critic_width: int = 32
    levels: int = 2
    learning_rate: float = 2e-3
    critic_learning_rate: float = 2e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class SNGANFashionQuickConfig(SNGANFashionConfig):
    """The same in half a minute: half as wide, a few steps, to see that everything works."""

    steps: int = 200
    batch_size: int = 32
    width: int = 16
    critic_width: int = 16
    ema: float = 0.98
    evaluate_every: int = 100
    preview_every: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SNGANCelebAConfig(SNGANConfig):
    """64x64 faces, four levels, narrow enough for one core.

    Deeper than that of Fashion-MNIST, it does not bear such learning rates: at 1e-3 the
    discriminator gives every image one score after some hundred steps.
    """

    steps: int = 9_000
    batch_size: int = 32
    size: int = 64
    width: int = 24
    critic_width: int = 24
    levels: int = 4
    learning_rate: float = 4e-4
    critic_learning_rate: float = 4e-4
    flip: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SNGANCelebAQuickConfig(SNGANCelebAConfig):
    """The same in half a minute, to see that everything works."""

    steps: int = 60
    batch_size: int = 16
    width: int = 8
    critic_width: int = 8
    ema: float = 0.9
    evaluate_every: int = 30
    preview_every: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SNGANCIFAR10Config(SNGANConfig):
    """32x32, the residual networks of [1] with five steps of the discriminator a step."""

    steps: int = 250_000
    width: int = 256
    critic_width: int = 128
    critic_steps: int = 5
    flip: bool = True


class SNGAN(Recipe):
    """A convolutional SN-GAN of any images."""

    Config: ClassVar[type[RecipeConfig]] = SNGANConfig
    config: SNGANConfig
    #: Public data that a stranger can train on.
    hub: ClassVar[str]
    #: Side of the square that is cut out of larger frames; smaller images are kept whole.
    crop: ClassVar[int | None] = None

    def data(self, source: str | None, split: Split) -> Dataset:
        """Images, cropped where they are whole frames."""
        c = self.config
        return open_images(
            source or self.hub, split, size=c.size, channels=c.channels, crop=self.crop
        )

    def build(self) -> Mapping[str, nn.Module]:
        """A new generator, and a discriminator under spectral normalisation."""
        # oneDNN and tensor cores read this layout as it lies, and lay no activation out anew.
        generator, critic = (
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for net in self.networks()
        )
        if self.config.spectral:
            critic = spectral_norm(critic)
        self._critic = critic
        return {"model": generator, "discriminator": critic}

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The generator and the plain discriminator."""
        c = self.config
        config = SNGANCNNConfig(
            size=c.size,
            channels=c.channels,
            latent=c.latent,
            width=c.width,
            critic_width=c.critic_width,
            levels=c.levels,
        )
        return CNNGenerator(config), CNNDiscriminator(config)

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """Adam without momentum, one for each."""
        c = self.config
        rates = {"model": c.learning_rate, "discriminator": c.critic_learning_rate}
        return {
            name: torch.optim.Adam(modules[name].parameters(), rate, betas=(c.beta1, c.beta2))
            for name, rate in rates.items()
        }

    def learning_rate_scale(self, step: int) -> float:
        """A straight line to zero."""
        return 1 - step / self.config.steps

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """One step of the discriminator, and, every ``critic_steps``, one of the generator."""
        c = self.config
        game = GAMES[c.game]()
        image = batch["image"]
        real = 2 * (random_flip(image, context) if c.flip else image) - 1
        z = context.noise(len(real), "normal", c.latent)
        turn = (context.step + 1) % c.critic_steps == 0
        precision = torch.autocast(
            context.device.type, torch.bfloat16, enabled=c.dtype == "bfloat16"
        )
        with precision, torch.set_grad_enabled(turn):
            fake = modules["model"](z)

        critic = modules["discriminator"]
        shown = fake.detach().to(real.dtype)  # no gradient of this step reaches the generator
        with precision:
            scores = critic(torch.cat([real, shown])).float()
        of_real, of_fake = scores.chunk(2)
        loss = game(of_real, of_fake)
        if c.gradient_penalty:
            penalty = GradientPenalty(c.gradient_penalty, one_sided=c.one_sided)
            loss = loss + penalty(critic, real, shown, context.noise(len(real), "uniform"))
        metrics = {
            "loss": loss,
            "real_score": of_real.mean(),
            "fake_score": of_fake.mean(),
            **context.minimize("discriminator", loss),
        }
        if not turn:
            return metrics

        with frozen(getattr(critic, "module", critic)) as judge, precision:
            if c.game == "relativistic":
                with torch.no_grad():
                    of_real = judge(real).float()
            loss = game.generator(judge(fake).float(), of_real)
        context.minimize("model", loss)
        return {**metrics, "generator_loss": loss}

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Frechet distance over thumbnails: a watch for collapse, no figure of quality.

        Quality is measured by ``kexue eval --metrics sample-quality``.
        """
        n = min(len(data), limit or len(data))
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        found: dict[str, list[Tensor]] = {"real": [], "fake": []}
        for first in range(0, n, EVALUATION_BATCH):
            rows = range(first, min(n, first + EVALUATION_BATCH))
            latent = model.prior(len(rows), generator=generator)  # type: ignore[operator]
            found["fake"].append(model.decode(latent.to(device)).cpu())  # type: ignore[operator]
            found["real"].append(data.batch(rows)["image"])
        real, fake = (torch.cat(found[name]) for name in ("real", "fake"))
        return {"thumbnail_distance": thumbnail_distance(real, fake)}

    def preview(self, model: nn.Module) -> Tensor:
        """The same samples every time."""
        generator = torch.Generator().manual_seed(0)
        latent = model.prior(PREVIEW_IMAGES, generator=generator)  # type: ignore[operator]
        images: Tensor = model.decode(latent)  # type: ignore[operator]
        return images

    def preprocess(self) -> Mapping[str, Any]:
        """What `config.json` says of the images."""
        c = self.config
        return {"modality": "image", "size": c.size, "channels": c.channels, "range": [0, 1]}

    def sampler(self) -> tuple[str, Mapping[str, Any]]:
        """The prior as it was trained with."""
        return "latent-prior", {"batch_size": PREVIEW_IMAGES}

    def extra_files(self, folder: Path) -> None:
        """The discriminator, for who wants to train on."""
        if self.config.spectral:
            save_discriminator(self._critic, folder)


class SNGANFashion(SNGAN):
    """SN-GAN on Fashion-MNIST."""

    Config: ClassVar[type[RecipeConfig]] = SNGANFashionConfig
    hub: ClassVar[str] = "zalando-datasets/fashion_mnist"
    card: ClassVar[Card] = Card(
        summary="SN-GAN (a convolutional generator, trained against a spectrally normalised "
        "discriminator) of Fashion-MNIST at 28x28.",
        data="Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017; arXiv 1708.07747)",
        license="MIT",
        terms="Fashion-MNIST is under the MIT licence, and so are these weights.",
        limits="Small, and trained for about an hour of one core. A GAN has no likelihood, cannot "
        "encode an image, and may leave out kinds of clothes: see recall beside its floor.",
    )


class SNGANFashionQuick(SNGANFashion):
    """The same, to see that it works."""

    Config: ClassVar[type[RecipeConfig]] = SNGANFashionQuickConfig


class SNGANCelebA(SNGAN):
    """SN-GAN on CelebA faces."""

    Config: ClassVar[type[RecipeConfig]] = SNGANCelebAConfig
    hub: ClassVar[str] = "nielsr/CelebA-faces"
    crop: ClassVar[int | None] = 148
    card: ClassVar[Card] = Card(
        summary="SN-GAN (a convolutional generator, trained against a spectrally normalised "
        "discriminator) of CelebA faces at 64x64.",
        data="CelebA (Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015)",
        license="LicenseRef-CelebA-noncommercial",
        terms="CelebA is for non-commercial research only, and so are these weights.",
        limits="Small and trained briefly: faces are often misshapen. CelebA is a biased set of "
        "photographs of celebrities; nothing here tells about a person.",
    )


class SNGANCelebAQuick(SNGANCelebA):
    """The same, to see that it works."""

    Config: ClassVar[type[RecipeConfig]] = SNGANCelebAQuickConfig


class SNGANCIFAR10(SNGAN):
    """SN-GAN with residual networks on CIFAR-10; wants an accelerator."""

    Config: ClassVar[type[RecipeConfig]] = SNGANCIFAR10Config
    config: SNGANCIFAR10Config
    hub: ClassVar[str] = "uoft-cs/cifar10"
    card: ClassVar[Card] = replace(
        SNGANFashion.card,
        summary="SN-GAN with residual networks of CIFAR-10 at 32x32.",
        data="CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)",
        license="LicenseRef-CIFAR-10",
        terms="CIFAR-10 was published for research, without a licence; cite Krizhevsky 2009.",
        limits="Objects are often not recognisable. Figures compare with papers only where the "
        "data was lossless CIFAR-10 and the features were Inception's.",
    )

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The residual generator and discriminator."""
        c = self.config
        config = SNGANResNetConfig(
            size=c.size,
            channels=c.channels,
            latent=c.latent,
            width=c.width,
            critic_width=c.critic_width,
            levels=c.levels,
        )
        return ResNetGenerator(config), ResNetDiscriminator(config)


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The module, whose parameters want no gradient meanwhile: gradients only pass through it.

    It saves their computation, and spectral normalisation stays where the last step left it.
    """
    wanted = [p for p in module.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield module
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
