"""Training: what a recipe is, and the loop that runs it.

Importing this costs no torch; the loop, the data readers and the records are imported from their
modules (:mod:`.loop`, :mod:`.data`, :mod:`.records`) where they are needed.
"""

from kexue_core.training.recipe import (
    SPLITS,
    Batch,
    Card,
    Dataset,
    Recipe,
    RecipeConfig,
    Split,
    StepContext,
)

__all__ = ["SPLITS", "Batch", "Card", "Dataset", "Recipe", "RecipeConfig", "Split", "StepContext"]
