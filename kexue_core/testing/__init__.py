"""The conformance kit: does a plugin keep the promises of its specs?

A plugin's whole test of conformance::

    from kexue_core.testing import conformance_tests

    test_conformance = conformance_tests("kexue-flow")

``kexue check kexue-flow`` runs the same checks without pytest. Nothing here is imported by listing,
loading or sampling.
"""

from __future__ import annotations

from kexue_core.testing.kit import Case, cases, conformance_tests, run_checks, subject_cases
from kexue_core.testing.outcomes import Check, CheckFailure, Outcome

__all__ = [
    "Case",
    "Check",
    "CheckFailure",
    "Outcome",
    "cases",
    "conformance_tests",
    "run_checks",
    "subject_cases",
]
