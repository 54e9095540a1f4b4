"""The promises of every plugin, kept by this one."""

from kexue_core.testing import conformance_tests

test_conformance = conformance_tests("kexue-roformer-sim")
