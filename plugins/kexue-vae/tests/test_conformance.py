"""kexue-vae keeps the promises of its specs."""

from __future__ import annotations

from kexue_core.testing import conformance_tests

test_conformance = conformance_tests("kexue-vae")
