"""What the weights of this plugin are trained on, and with which settings.

References:
    [1] Miyato et al., Spectral Normalization for GANs, 2018. https://arxiv.org/abs/1802.05957
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from kexue_core.training import Card, RecipeConfig
from kexue_sngan.gan_training import SNGAN, SNGANConfig
from kexue_sngan.resnet import ResNetDiscriminator, ResNetGenerator, SNGANResNetConfig

__all__ = [
    "SNGANCIFAR10",
    "SNGANCIFAR10Config",
    "SNGANCelebA",
    "SNGANCelebAConfig",
    "SNGANCelebAQuick",
    "SNGANCelebAQuickConfig",
    "SNGANFashion",
    "SNGANFashionConfig",
    "SNGANFashionQuick",
    "SNGANFashionQuickConfig",
]


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
        config = SNGANResNetConfig(**self.shape())
        return ResNetGenerator(config), ResNetDiscriminator(config)
