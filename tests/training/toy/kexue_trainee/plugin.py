"""What the toy distribution declares."""

from __future__ import annotations

from collections.abc import Iterable

from kexue_core import ModelSpec, RecipeSpec, hookimpl
from kexue_core.specs import Spec


@hookimpl
def kexue_components() -> Iterable[Spec]:
    yield ModelSpec(
        name="toy",
        factory="kexue_trainee.recipe:Toy",
        config="kexue_trainee.recipe:ToyConfig",
        float32=("mean",),
    )
    yield RecipeSpec(name="toy-made", factory="kexue_trainee.recipe:ToyRecipe", model="toy")
