"""What kexue-zoo declares."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import LossSpec, ModelSpec, Option, SamplerSpec, hookimpl
from kexue_core.specs import Spec


def _model(name: str, kind: str, **fields: object) -> ModelSpec:
    factory = f"kexue_zoo.models:{kind}"
    return ModelSpec(name=name, factory=factory, config="kexue_zoo.models:Config", **fields)


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the zoo."""
    yield _model("mixed", "Mixed", float32=("precise.*", "scale"))
    yield _model("tied", "Tied")
    yield _model("shared", "Shared")
    yield _model("computed", "Computed")
    yield _model("hoarding", "Hoarding")
    yield _model("recurrent", "Recurrent")
    yield _model("peeking", "Peeking")
    yield _model("refusing", "Refusing")
    yield _model("failing", "Failing")
    yield _model("frozen", "Frozen", deprecated="use mixed")
    yield _model("normed", "Normed")
    yield _model("lexicon", "Lexicon")
    yield _model("rider", "Rider")
    yield _model("dreamer", "Dreamer", capabilities=("latent",), aliases=("old-dreamer",))
    options = {
        "temperature": Option(default=1.0, help="factor on the deviation"),
        "steps": Option(default=3, help="steps of the chain"),
        "clip": Option(default=False, help="whether to clip to [0, 1]"),
        "mode": Option(default="plain", help="plain or fancy"),
        "seed_text": Option(default=None, help="anything"),
    }
    yield SamplerSpec(
        name="dream", factory="kexue_zoo.models:dream", needs=("latent",), options=options
    )
    yield SamplerSpec(name="codes-only", factory="kexue_zoo.models:dream", needs=("codes",))
    yield LossSpec(
        name="power", factory="kexue_zoo.models:PowerLoss", example="kexue_zoo.models:example"
    )
