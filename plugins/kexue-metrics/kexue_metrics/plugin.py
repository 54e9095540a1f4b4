"""What kexue-metrics declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import ModelSpec, RecipeSpec, hookimpl
from kexue_core.specs import Spec


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the classifier and its recipes."""
    yield ModelSpec(
        name="image-classifier",
        factory="kexue_metrics.image_classifier:ImageClassifier",
        config="kexue_metrics.image_classifier:ImageClassifierConfig",
        summary="Small convolutional classifier, softmax or multi-label, with features",
        papers=("1409.1556", "1502.03167"),
        capabilities=("classifier",),
        tiny={"labels": ["a", "b", "c"], "size": 8, "widths": [4, 8]},
        float32=("*.norm.*", "*.bias"),
    )
    yield RecipeSpec(
        name="classifier-fashion",
        factory="kexue_metrics.recipes:ClassifierFashion",
        model="image-classifier",
        data="zalando-datasets/fashion_mnist",
        summary="The ten classes of Fashion-MNIST, 28x28; minutes of one core",
    )
    yield RecipeSpec(
        name="classifier-mnist",
        factory="kexue_metrics.recipes:ClassifierMNIST",
        model="image-classifier",
        data="ylecun/mnist",
        summary="The ten digits of MNIST, 28x28; minutes of one core",
    )
    yield RecipeSpec(
        name="classifier-celeba-attrs",
        factory="kexue_metrics.recipes:ClassifierCelebAAttributes",
        model="image-classifier",
        summary="Five attributes of CelebA faces, 48x48; minutes of one core",
    )
