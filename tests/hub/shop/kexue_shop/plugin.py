"""What kexue-shop declares."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import AdapterSpec, ModelSpec, hookimpl
from kexue_core.specs import Spec


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the shop."""
    yield ModelSpec(
        name="line",
        factory="kexue_shop.line:Line",
        config="kexue_shop.line:LineConfig",
        capabilities=("density",),
    )
    yield AdapterSpec(
        name="line-old",
        factory="kexue_shop.line:from_old",
        model="line",
        formats=("pickle", "tensorflow"),
    )
