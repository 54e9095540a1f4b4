"""What kexue-sngan declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import LossSpec, ModelSpec, RecipeSpec, SamplerSpec, hookimpl
from kexue_core.specs import Option, Spec

SNGAN = "1802.05957"


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the models, losses, the sampler and the recipes."""
    yield from _models()
    yield from _losses()
    yield SamplerSpec(
        name="truncated-prior",
        factory="kexue_sngan.truncation:truncated_prior",
        summary="Decode latents of a normal prior whose tails are cut off",
        papers=("1809.11096",),
        needs=("generator",),
        options={
            "truncation": Option(
                default=1.5, help="bound on every number of a latent, in deviations: 0.5 to 3"
            ),
            "batch_size": Option(default=16, help="samples decoded at once"),
        },
        example="kexue_sngan.examples:generator_model",
    )
    yield from _recipes()


def _models() -> Iterator[Spec]:
    yield ModelSpec(
        name="sngan-cnn",
        factory="kexue_sngan.cnn:CNNGenerator",
        config="kexue_sngan.cnn:SNGANCNNConfig",
        summary="Convolutional generator of an SN-GAN",
        post=6051,
        papers=(SNGAN,),
        capabilities=("generator",),
        tiny={"size": 8, "latent": 8, "width": 8, "critic_width": 8, "levels": 2},
        float32=("*.running_*", "*.bias"),
    )
    yield ModelSpec(
        name="sngan-resnet",
        factory="kexue_sngan.resnet:ResNetGenerator",
        config="kexue_sngan.resnet:SNGANResNetConfig",
        summary="Residual generator of an SN-GAN",
        post=6051,
        papers=(SNGAN, "1512.03385"),
        capabilities=("generator",),
        tiny={"size": 8, "latent": 8, "width": 8, "critic_width": 8, "levels": 2},
        float32=("*.running_*", "*.bias"),
    )


def _losses() -> Iterator[Spec]:
    games = (
        ("gan-hinge", "HingeGAN", 6051, "1705.02894", "Hinge loss of a GAN"),
        ("gan-nonsaturating", "NonSaturatingGAN", None, "1406.2661", "The first loss of GANs"),
        ("wgan", "WassersteinGAN", 4439, "1701.07875", "Difference of mean scores"),
        ("relativistic-gan", "RelativisticGAN", 6110, "1807.00734", "Real against generated"),
    )
    for name, factory, post, paper, summary in games:
        yield LossSpec(
            name=name,
            factory=f"kexue_sngan.losses:{factory}",
            example="kexue_sngan.examples:scores",
            summary=summary,
            post=post,
            papers=(paper,),
        )
    yield LossSpec(
        name="gradient-penalty",
        factory="kexue_sngan.losses:GradientPenalty",
        example="kexue_sngan.examples:critic",
        summary="Slope of a critic held at 1 between real and generated, or below",
        post=6051,
        papers=("1704.00028",),
    )
    yield LossSpec(
        name="wgan-div",
        factory="kexue_sngan.losses:WassersteinDivergence",
        example="kexue_sngan.examples:critic",
        summary="Penalty of WGAN-div: a power of the critic's slope",
        post=6139,
        papers=("1712.01026",),
    )
    yield LossSpec(
        name="spectral-norm-penalty",
        factory="kexue_sngan.penalty:SpectralNormPenalty",
        example="kexue_sngan.examples:weight",
        summary="Squared spectral norms of any model's weights, in place of weight decay",
        post=6051,
        papers=("1705.10941",),
    )


def _recipes() -> Iterator[Spec]:
    yield RecipeSpec(
        name="sngan-fashion",
        factory="kexue_sngan.recipes:SNGANFashion",
        model="sngan-cnn",
        data="zalando-datasets/fashion_mnist",
        summary="28x28 Fashion-MNIST; an hour of one core",
        post=6051,
    )
    yield RecipeSpec(
        name="sngan-fashion-quick",
        factory="kexue_sngan.recipes:SNGANFashionQuick",
        model="sngan-cnn",
        weights="sngan-fashion",
        data="zalando-datasets/fashion_mnist",
        summary="The same in half a minute, to see that it runs",
        post=6051,
    )
    yield RecipeSpec(
        name="sngan-celeba",
        factory="kexue_sngan.recipes:SNGANCelebA",
        model="sngan-cnn",
        data="nielsr/CelebA-faces",
        summary="64x64 CelebA faces; an hour and a half of one core",
        post=6051,
    )
    yield RecipeSpec(
        name="sngan-celeba-quick",
        factory="kexue_sngan.recipes:SNGANCelebAQuick",
        model="sngan-cnn",
        weights="sngan-celeba",
        data="nielsr/CelebA-faces",
        summary="The same in half a minute, to see that it runs",
        post=6051,
    )
    yield RecipeSpec(
        name="sngan-cifar10",
        factory="kexue_sngan.recipes:SNGANCIFAR10",
        model="sngan-resnet",
        data="uoft-cs/cifar10",
        summary="32x32 CIFAR-10 with residual networks; an accelerator is wanted",
        post=6051,
        papers=(SNGAN,),
    )
