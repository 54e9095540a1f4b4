"""What kexue-dgcnn-ie declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import ModelSpec, RecipeSpec, hookimpl
from kexue_core.specs import Spec


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the extractor and its recipe."""
    yield ModelSpec(
        name="dgcnn-ie",
        factory="kexue_dgcnn_ie.extractor:TripleExtractor",
        config="kexue_dgcnn_ie.dgcnn:DGCNNConfig",
        summary="Triples from text: dilated gated convolutions, half pointer and half tagging",
        post=6671,
        papers=("1612.08083",),
        capabilities=("extractor",),
        tiny={
            "characters": 60,
            "predicates": 3,
            "width": 8,
            "dilations": [1, 2],
            "heads": 2,
            "positions": 32,
            # In the midst of what random weights give: some spans, of several lengths.
            "start_threshold": 0.07,
            "end_threshold": 0.078,
        },
        example_input="kexue_dgcnn_ie.extractor:example_input",
    )
    yield RecipeSpec(
        name="dgcnn-ie-duie",
        factory="kexue_dgcnn_ie.recipes:DGCNNDuIE",
        model="dgcnn-ie",
        summary="55 relations of DuIE 2.0 sentences, characters only; hours of one core",
        post=6671,
    )
