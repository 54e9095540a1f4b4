"""The conformance kit, and what the plugin costs to import."""

from __future__ import annotations

import subprocess
import sys

from kexue_core.testing import conformance_tests

test_conformance = conformance_tests("kexue-dgcnn-ie")


def test_the_plugin_module_imports_no_torch() -> None:
    code = (
        "import sys, kexue_dgcnn_ie, kexue_dgcnn_ie.plugin as p;"
        "list(p.kexue_components()); print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "jieba", "ahocorasick"} & set(run.stdout.split())
