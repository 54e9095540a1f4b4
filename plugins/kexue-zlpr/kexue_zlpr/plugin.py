"""What kexue-zlpr declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import LossSpec, ModelSpec, RecipeSpec, hookimpl
from kexue_core.specs import Spec

PAPERS = ("2208.02955",)


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the losses, the classifier and its recipe."""
    yield LossSpec(
        name="zlpr",
        factory="kexue_zlpr.zlpr:ZLPRLoss",
        example="kexue_zlpr.examples:dense",
        summary="Softmax cross-entropy for several labels at once, threshold 0",
        post=7359,
        papers=PAPERS,
    )
    yield LossSpec(
        name="zlpr-sparse",
        factory="kexue_zlpr.zlpr:SparseZLPRLoss",
        example="kexue_zlpr.examples:sparse",
        summary="ZLPR with true classes by number, exact at a million classes",
        post=8888,
        papers=PAPERS,
    )
    yield LossSpec(
        name="zlpr-soft",
        factory="kexue_zlpr.zlpr:SoftZLPRLoss",
        example="kexue_zlpr.examples:soft",
        summary="ZLPR for soft labels; its optimum is sigmoid(2 s)",
        post=9064,
        papers=PAPERS,
    )
    yield ModelSpec(
        name="text-classifier",
        factory="kexue_zlpr.text_classifier:TextClassifier",
        config="kexue_zlpr.text_classifier:TextClassifierConfig",
        summary="Small multi-label text classifier on hashed n-grams",
        post=7359,
        papers=(*PAPERS, "1607.01759"),
        capabilities=("classifier",),
        tiny={"labels": ["a", "b", "c"], "buckets": 50, "width": 8, "hidden": 8},
        example_input="kexue_zlpr.text_classifier:example_input",
    )
    yield RecipeSpec(
        name="zlpr-reuters",
        factory="kexue_zlpr.recipes:ZLPRReuters",
        model="text-classifier",
        summary="Topics of Reuters-21578 news, 90 labels; minutes of one core",
        post=7359,
    )
