"""The core's own plugin: the samplers that several plugins share."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core.hookspecs import hookimpl
from kexue_core.specs import Option, SamplerSpec, Spec


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the shared samplers."""
    yield SamplerSpec(
        name="latent-prior",
        factory="kexue_core.samplers.latent_prior:latent_prior",
        summary="Draw latents from the model's prior and decode them",
        post=5253,
        needs=("latent", "generator"),
        options={
            "temperature": Option(
                default=1.0, help="factor on the prior's standard deviation, 0 to about 1"
            ),
            "batch_size": Option(default=16, help="samples decoded at once"),
            "labels": Option(
                default=None,
                help="class of all samples, or [0,1,...] in turn; for conditional models",
            ),
        },
    )
    # Declared last: the first that fits is the default of models without weights.
    yield SamplerSpec(
        name="latent-traversal",
        factory="kexue_core.samplers.latent_traversal:latent_traversal",
        summary="Move one draw along its latent dimensions, a row each, most active first",
        post=5253,
        needs=("latent", "generator"),
        options={
            "points": Option(default=9, help="images a row, at least 2"),
            "reach": Option(default=3.0, help="half the length of a walk, in the latent's units"),
            "temperature": Option(default=0.0, help="of the draw; 0 is the prior's mean"),
            "first": Option(default=0, help="rows begin with this dimension of the order, from 0"),
        },
        tiny={"temperature": 1.0},
    )
