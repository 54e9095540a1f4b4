"""The conformance kit, and what the plugin costs to import."""

from __future__ import annotations

import subprocess
import sys

import kexue_zlpr
import pytest

from kexue_core.testing import conformance_tests

test_conformance = conformance_tests("kexue-zlpr")


def test_the_plugin_module_imports_no_torch() -> None:
    code = "import sys, kexue_zlpr.plugin as p; list(p.kexue_components()); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy"} & set(run.stdout.split())


def test_every_public_name_is_there() -> None:
    for name in kexue_zlpr.__all__:
        assert callable(getattr(kexue_zlpr, name))
    assert set(kexue_zlpr.__all__) == set(kexue_zlpr._HOME)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kexue_zlpr.nothing
