"""What kexue-vqlinear declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import LossSpec, ModelSpec, RecipeSpec, SamplerSpec, hookimpl
from kexue_core.specs import Option, Spec


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the models, losses, samplers and recipes."""
    yield ModelSpec(
        name="vq-autoencoder",
        factory="kexue_vqlinear.autoencoder:VQAutoencoder",
        config="kexue_vqlinear.autoencoder:VQAutoencoderConfig",
        summary="Image autoencoder with one of seven quantisers in its middle",
        post=10519,
        papers=("2411.02038", "1711.00937"),
        capabilities=("codes",),
        tiny={"size": 8, "num_embeddings": 16, "dim": 8, "hidden": (8, 8), "blocks": 1},
    )
    yield ModelSpec(
        name="code-transformer",
        factory="kexue_vqlinear.prior:CodePrior",
        config="kexue_vqlinear.prior:CodePriorConfig",
        summary="Causal transformer over a grid of codes; requires the codec that decodes them",
        post=6760,
        papers=("1711.00937", "1706.03762"),
        capabilities=("code-prior",),
        tiny={"shape": (2, 3), "num_embeddings": 16, "width": 16, "depth": 2, "heads": 2},
        example_input="kexue_vqlinear.prior:code_prior_input",
    )
    yield SamplerSpec(
        name="code-prior",
        factory="kexue_vqlinear.sampler:code_prior",
        summary="Draw codes from a prior and decode them with the codec that it requires",
        post=6760,
        papers=("1711.00937",),
        needs=("code-prior",),
        options={
            "temperature": Option(default=1.0, help="divides the prior's logits, 0 to about 1"),
            "top_k": Option(default=0, help="draw from the k likeliest codes only; 0 for all"),
            "batch_size": Option(default=16, help="samples drawn and decoded at once"),
        },
        example="kexue_vqlinear.sampler:code_prior_example",
    )
    yield LossSpec(
        name="vq-commitment",
        factory="kexue_vqlinear.losses:VQCommitment",
        example="kexue_vqlinear.losses:vq_commitment_example",
        summary="Draws codes and encoder together, each with its weight",
        post=10519,
        papers=("1711.00937",),
        stop_gradient=True,
    )
    for name, factory, what in (
        ("simvq-celeba", "SimVQCelebA", "SimVQ"),
        ("vq-celeba", "VQCelebA", "plain VQ, to compare with"),
    ):
        yield RecipeSpec(
            name=name,
            factory=f"kexue_vqlinear.recipes:{factory}",
            model="vq-autoencoder",
            data="nielsr/CelebA-faces",
            summary=f"64x64 CelebA faces, f = 8, K = 1,024: {what}",
            post=10519,
        )
    yield RecipeSpec(
        name="simvq-prior-celeba",
        factory="kexue_vqlinear.prior_recipes:SimVQPriorCelebA",
        model="code-transformer",
        data="nielsr/CelebA-faces",
        summary="Prior over the codes of simvq-celeba: samples 64x64 faces",
        post=6760,
    )
