"""The kit: which checks there are for a distribution, and running them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from kexue_core.errors import PluginError
from kexue_core.names import normalize
from kexue_core.plugins import discover
from kexue_core.testing.outcomes import Check, CheckFailure, Outcome, explain, perform
from kexue_core.testing.subjects import (
    AdapterSubject,
    LossSubject,
    ModelSubject,
    PluginSubject,
    RecipeSubject,
    SamplerSubject,
)

__all__ = ["Case", "cases", "conformance_tests", "run_case", "run_checks", "subject_cases"]


@dataclass(frozen=True, slots=True)
class Case:
    """One check of one subject.

    Attributes:
        subject: What is looked at.
        check: What is looked for.
    """

    subject: Any
    check: Check[Any]

    @property
    def id(self) -> str:
        """``model:glow-density``: the id of its test, and what ``--only`` matches."""
        return f"{self.subject.label}-{self.check.name}"

    def perform(self) -> Outcome:
        """Run it; whatever it raises becomes the outcome."""
        return perform(self.subject, self.subject.label, self.check)


def cases(distribution: str) -> list[Case]:
    """Every check that the specs of an installed distribution ask for.

    Raises:
        PluginError: It is not installed, or is no plugin.
    """
    plugins = discover()
    record = plugins.record(distribution)
    if record is None:
        raise PluginError(
            f"{normalize(distribution)} is not installed, or names no entry point "
            "in the group 'kexue'",
            hint=f"Run `pip install -e .` where its pyproject.toml is, or "
            f"`pip install {normalize(distribution)}`",
        )
    subject = PluginSubject(record, plugins)
    return [case for part in (subject, *subject.parts()) for case in subject_cases(part)]


def subject_cases(subject: Any) -> list[Case]:
    """The checks of one subject, those whose promise its spec makes."""
    return [Case(subject, check) for check in _checks(subject) if _applies(check, subject)]


def run_checks(
    distribution: str,
    *,
    only: str = "*",
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Hold an installed distribution against the kit.

    Args:
        distribution: Its name.
        only: Glob over ids such as ``model:glow-*``.
        report: Called with each outcome as it comes.

    Raises:
        PluginError: The distribution is not installed, or ``only`` matches no check.
    """
    chosen = [case for case in cases(distribution) if fnmatchcase(case.id, only)]
    if not chosen:
        raise PluginError(
            f"No check of {distribution} matches {only!r}",
            hint="`kexue check --list` shows their names",
        )
    outcomes = []
    for case in chosen:
        outcomes.append(case.perform())
        report(outcomes[-1])
    return outcomes


def run_case(case: Case) -> object:
    """Run one check as a test of pytest, which fails as it fails.

    Returns:
        What it recorded, or ``None``.
    """
    import pytest

    try:
        return case.check.run(case.subject)
    except CheckFailure as failure:
        pytest.fail(str(failure), pytrace=False)
    except (Exception, SystemExit) as error:
        # The traceback of the plugin's own error is worth showing.
        raise AssertionError(explain(error, case.check)) from error


def conformance_tests(distribution: str) -> Callable[..., None]:
    """A pytest function with one test a check: all that a plugin's test file needs.

    ::

        from kexue_core.testing import conformance_tests

        test_conformance = conformance_tests("kexue-flow")
    """
    import pytest

    try:
        found: list[Case | None] = [*cases(distribution)]
        ids = [case.id for case in found if case is not None]
        trouble = None
    except PluginError as error:
        # One failing test says so; raising here would end pytest's whole collection.
        found, ids, trouble = [None], ["installed"], error

    @pytest.mark.parametrize("case", found, ids=ids)
    def test_conformance(case: Case | None, record_property: Callable[[str, object], None]) -> None:
        if case is None:
            pytest.fail(str(trouble), pytrace=False)
        if (recorded := run_case(case)) is not None:
            record_property(case.id, recorded)

    # Who collects tests can tell that this one is the kit's, and whose.
    test_conformance.conformance_of = normalize(distribution)  # type: ignore[attr-defined]
    return test_conformance


def _checks(subject: Any) -> Iterator[Check[Any]]:
    """The tables of checks, imported only for what is there: samplers need no ``torch.compile``."""
    from kexue_core.testing import plugin_checks

    if isinstance(subject, PluginSubject):
        yield from plugin_checks.PLUGIN_CHECKS
    elif isinstance(subject, ModelSubject):
        from kexue_core.testing.capability_checks import CAPABILITY_CHECKS
        from kexue_core.testing.density_checks import DENSITY_CHECKS
        from kexue_core.testing.fresh import FRESH_CHECKS
        from kexue_core.testing.graph_checks import GRAPH_CHECKS
        from kexue_core.testing.model_checks import MODEL_CHECKS
        from kexue_core.testing.text_checks import TEXT_CHECKS

        yield from MODEL_CHECKS
        yield from CAPABILITY_CHECKS
        yield from DENSITY_CHECKS
        yield from TEXT_CHECKS
        yield from FRESH_CHECKS
        yield from GRAPH_CHECKS
    elif isinstance(subject, LossSubject):
        from kexue_core.testing.loss_checks import LOSS_CHECKS

        yield from LOSS_CHECKS
    elif isinstance(subject, SamplerSubject):
        from kexue_core.testing.sampler_checks import SAMPLER_CHECKS

        yield from SAMPLER_CHECKS
    elif isinstance(subject, RecipeSubject):
        yield from plugin_checks.RECIPE_CHECKS
    elif isinstance(subject, AdapterSubject):
        yield from plugin_checks.ADAPTER_CHECKS


def _applies(check: Check[Any], subject: Any) -> bool:
    """Whether a check applies; where even asking fails, the check itself will say why."""
    try:
        return check.applies(subject)
    except Exception:
        return True
