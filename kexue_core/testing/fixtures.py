"""pytest fixtures for plugin authors: ``pytest_plugins = ["kexue_core.testing.fixtures"]``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kexue_core.testing.loopback_hub import LoopbackHub

__all__ = ["loopback_hub"]


@pytest.fixture
def loopback_hub() -> Iterator[LoopbackHub]:
    """A Hub on the loopback interface, empty, with all faults off."""
    with LoopbackHub() as hub:
        yield hub
