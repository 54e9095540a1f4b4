"""What kexue-vae declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import LossSpec, ModelSpec, RecipeSpec, hookimpl
from kexue_core.specs import Spec

#: Real-valued data: the kit's are grey, which a Bernoulli decoder refuses.
TINY = {"size": 2, "latent": 2, "widths": (8,), "likelihood": "gaussian-fixed"}


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the models, losses and recipes."""
    yield ModelSpec(
        name="vae",
        factory="kexue_vae.vae:VAE",
        config="kexue_vae.vae:VAEConfig",
        summary="VAE: Bernoulli, Gaussian (fixed, learned, optimal sigma), discretised logistic",
        post=5253,
        papers=("1312.6114", "1509.00519", "2006.13202"),
        capabilities=("latent", "density"),
        bound=True,
        tiny=TINY,
        float32=("*.bias", "likelihood.*"),
    )
    yield ModelSpec(
        name="cvae",
        factory="kexue_vae.cvae:CVAE",
        config="kexue_vae.cvae:CVAEConfig",
        summary="VAE whose prior has one learned mean a class",
        post=5253,
        papers=("1312.6114",),
        capabilities=("latent", "density"),
        bound=True,
        tiny={**TINY, "classes": 3},
        example_input="kexue_vae.cvae:cvae_example_input",
        float32=("*.bias", "likelihood.*", "prior_mean"),
    )
    yield ModelSpec(
        name="vae-cluster",
        factory="kexue_vae.cluster:ClusterVAE",
        config="kexue_vae.cluster:ClusterVAEConfig",
        summary="VAE that clusters: learned centres and a softmax q(y|z)",
        post=5887,
        papers=("1611.05148",),
        capabilities=("latent", "density", "classifier"),
        bound=True,
        tiny={**TINY, "clusters": 3, "hidden": 8},
        float32=("*.bias", "likelihood.*", "centres"),
    )
    yield ModelSpec(
        name="vae-gumbel",
        factory="kexue_vae.gumbel:GumbelVAE",
        config="kexue_vae.gumbel:GumbelVAEConfig",
        summary="VAE with categorical latents, trained through the Gumbel softmax",
        post=6705,
        papers=("1611.01144",),
        capabilities=("latent", "density"),
        bound=True,
        tiny={**TINY, "categories": 3},
        float32=("*.bias", "likelihood.*"),
    )
    yield LossSpec(
        name="elbo",
        factory="kexue_vae.losses:ELBO",
        example="kexue_vae.losses:elbo_example",
        summary="Negative evidence lower bound in nats an image, with beta and free bits",
        post=5253,
        papers=("1312.6114", "1606.04934"),
    )
    yield LossSpec(
        name="iwae",
        factory="kexue_vae.losses:IWAE",
        example="kexue_vae.losses:iwae_example",
        summary="Negative importance-weighted bound (IWAE-k) in nats an image",
        post=5253,
        papers=("1509.00519",),
    )
    yield RecipeSpec(
        name="vae-mnist",
        factory="kexue_vae.recipes:VAEMnist",
        model="vae",
        data="ylecun/mnist",
        summary="28x28 binarised MNIST, multilayer perceptrons, 40 latents",
        post=5253,
    )
    yield RecipeSpec(
        name="cvae-fashion",
        factory="kexue_vae.conditional:CVAEFashion",
        model="cvae",
        data="zalando-datasets/fashion_mnist",
        summary="28x28 Fashion-MNIST, one prior mean a class; minutes of one core",
        post=5253,
    )
    yield RecipeSpec(
        name="vae-celeba",
        factory="kexue_vae.recipes:VAECelebA",
        model="vae",
        data="nielsr/CelebA-faces",
        summary="64x64 CelebA faces, convolutional, optimal sigma; minutes of one core",
        post=5253,
    )
    yield RecipeSpec(
        name="vae-cluster-mnist",
        factory="kexue_vae.discrete:ClusterMnist",
        model="vae-cluster",
        data="ylecun/mnist",
        summary="28x28 binarised MNIST in ten clusters that training finds",
        post=5887,
    )
    yield RecipeSpec(
        name="vae-gumbel-mnist",
        factory="kexue_vae.discrete:GumbelMnist",
        model="vae-gumbel",
        data="ylecun/mnist",
        summary="28x28 binarised MNIST, thirty latents of ten categories, tau from 1 to 0.01",
        post=6705,
    )
