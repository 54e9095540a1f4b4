"""What kexue-flow declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import AdapterSpec, LossSpec, ModelSpec, RecipeSpec, hookimpl
from kexue_core.specs import Spec


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the models, losses, recipes and adapters."""
    yield ModelSpec(
        name="glow",
        factory="kexue_flow.glow:Glow",
        config="kexue_flow.glow:GlowConfig",
        summary="Flow with invertible 1x1 convolutions and learned split priors",
        post=5807,
        papers=("1807.03039",),
        capabilities=("latent", "density"),
        tiny={"size": 4, "levels": 2, "steps": 2, "hidden": 8},
        float32=("*.actnorm.*", "*.mixing.*", "*.prior.*", "*.bias", "*.logs"),
    )
    yield ModelSpec(
        name="nice",
        factory="kexue_flow.nice:NICE",
        config="kexue_flow.nice:NICEConfig",
        summary="Flow of additive couplings that keep the volume, and one scale",
        post=5776,
        papers=("1410.8516",),
        capabilities=("latent", "density"),
        tiny={"size": 4, "couplings": 3, "hidden": 8, "depth": 2},
        float32=("logs", "*.bias"),
    )
    yield ModelSpec(
        name="realnvp",
        factory="kexue_flow.realnvp:RealNVP",
        config="kexue_flow.realnvp:RealNVPConfig",
        summary="Flow of affine couplings with checkerboard and channel masks",
        post=5807,
        papers=("1605.08803",),
        capabilities=("latent", "density"),
        tiny={"size": 4, "channels": 1, "levels": 2, "couplings": 2, "hidden": 4, "blocks": 1},
        float32=("*.mean", "*.variance", "*.prior.*", "*.bias", "*.logs", "*.scale"),
    )
    yield LossSpec(
        name="flow-nll",
        factory="kexue_flow.losses:FlowNLL",
        example="kexue_flow.losses:flow_nll_example",
        summary="Negative log-likelihood in bits a dimension",
        post=5776,
        papers=("1807.03039",),
    )
    yield RecipeSpec(
        name="glow-celeba",
        factory="kexue_flow.recipes:GlowCelebA",
        model="glow",
        data="nielsr/CelebA-faces",
        summary="64x64 CelebA faces at 5 bits, K16 L4 h128; an accelerator is wanted",
        post=5807,
    )
    yield RecipeSpec(
        name="glow-celeba32",
        factory="kexue_flow.recipes:GlowCelebA32",
        model="glow",
        weights="glow-celeba",
        data="nielsr/CelebA-faces",
        summary="32x32 CelebA faces at 5 bits, K8 L3 h128; an hour or two of one core",
        post=5807,
    )
    yield RecipeSpec(
        name="glow-fashion",
        factory="kexue_flow.recipes:GlowFashion",
        model="glow",
        data="zalando-datasets/fashion_mnist",
        summary="28x28 Fashion-MNIST at 8 bits, K8 L2 h96",
        post=5807,
    )
    yield RecipeSpec(
        name="nice-mnist",
        factory="kexue_flow.mnist:NICEMNIST",
        model="nice",
        data="ylecun/mnist",
        summary="28x28 MNIST at 8 bits, four couplings; ten minutes of one core",
        post=5776,
    )
    yield RecipeSpec(
        name="realnvp-mnist",
        factory="kexue_flow.mnist:RealNVPMNIST",
        model="realnvp",
        data="ylecun/mnist",
        summary="28x28 MNIST at 8 bits, three scales; twenty minutes of one core",
        post=5807,
    )
    yield AdapterSpec(
        name="normflows-glow",
        factory="kexue_flow.adapters:from_normflows",
        model="glow",
        formats=("pickle", "safetensors"),
        summary="A Glow of normflows, saved as the state_dict of its MultiscaleFlow",
        post=5807,
        papers=("1807.03039",),
    )
