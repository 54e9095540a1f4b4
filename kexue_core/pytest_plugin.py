"""The conformance kit in anybody's pytest: ``pytest --kexue kexue-flow``, without a test file.

pytest imports this module wherever kexue is installed (entry-point group ``pytest11``), so whatever
costs time is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from kexue_core.errors import PluginError

if TYPE_CHECKING:
    from kexue_core.testing.kit import Case
    from kexue_core.testing.loopback_hub import LoopbackHub

__all__ = ["loopback_hub"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--kexue``."""
    parser.getgroup("kexue").addoption(
        "--kexue",
        action="append",
        default=[],
        metavar="DIST",
        help="also hold this installed distribution against kexue's conformance kit",
    )


@pytest.hookimpl(tryfirst=True)  # before -k chooses among the tests
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add one test a check of each distribution that ``--kexue`` names."""
    for distribution in session.config.getoption("--kexue"):
        from kexue_core.testing.kit import cases

        try:
            found = cases(distribution)
        except PluginError as error:
            raise pytest.UsageError(str(error)) from None
        items.extend(
            _CaseItem.from_parent(
                session, name=case.id, nodeid=f"{distribution}::{case.id}", case=case
            )
            for case in found
        )


class _CaseItem(pytest.Item):
    """One check of one subject."""

    def __init__(self, *, case: Case, **given: Any) -> None:
        super().__init__(**given)
        self.case = case

    def runtest(self) -> None:
        from kexue_core.testing.kit import run_case

        if (recorded := run_case(self.case)) is not None:
            self.user_properties.append((self.case.id, recorded))

    def reportinfo(self) -> tuple[str, None, str]:
        return self.nodeid, None, self.nodeid


@pytest.fixture
def loopback_hub() -> Iterator[LoopbackHub]:
    """A Hub on the loopback interface, empty, with all faults off."""
    from kexue_core.testing.loopback_hub import LoopbackHub

    with LoopbackHub() as hub:
        yield hub
