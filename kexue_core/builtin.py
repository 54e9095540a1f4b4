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
