"""What this plugin declares. Imports nothing heavy: `kexue list` imports this module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kexue_core import LossSpec, ModelSpec, RecipeSpec, hookimpl
from kexue_core.specs import Spec


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the model, the loss and the recipe."""
    yield ModelSpec(
        name="flow-matching",
        factory="flowmatch_toy.model:FlowMatching",
        config="flowmatch_toy.model:FlowMatchingConfig",
        summary="Continuous flow trained by regression on straight paths",
        papers=("2210.02747",),
        capabilities=("latent", "density"),
        tiny={"hidden": 8, "layers": 1, "steps": 12},
        # forward takes a point and a time, not data: the kit has to be told.
        example_input="flowmatch_toy.model:example_input",
    )
    yield LossSpec(
        name="flow-matching",
        factory="flowmatch_toy.loss:FlowMatchingLoss",
        example="flowmatch_toy.loss:example",
        summary="Squared error of the velocity on straight paths from noise to data",
        papers=("2210.02747",),
    )
    yield RecipeSpec(
        name="flow-matching-moons",
        factory="flowmatch_toy.recipes:Moons",
        model="flow-matching",
        summary="Two half moons in the plane, drawn on the spot; a minute on a CPU",
    )


@hookimpl
def kexue_registries() -> Iterator[Path]:
    """Name the weights that come with the package."""
    yield Path(__file__).with_name("registry.yaml")
