"""What kexue-roformer-sim declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import hookimpl
from kexue_core.specs import Spec


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the components."""
    yield from ()
