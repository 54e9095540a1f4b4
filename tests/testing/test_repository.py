"""Every plugin of this repository is held against the kit, now and whenever one is added."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from synthetic import REPOSITORY

from kexue_core.testing import conformance_tests

PLUGINS = sorted(
    path.parent
    for folder in ("plugins", "examples")
    for path in REPOSITORY.glob(f"{folder}/*/pyproject.toml")
)

# The core is a plugin too: the samplers that several plugins share.
test_core = conformance_tests("kexue")


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_the_plugin_has_its_test_of_conformance(plugin: Path) -> None:
    name = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]["name"]
    tests = [path.read_text(encoding="utf-8") for path in plugin.glob("tests/test_*.py")]
    call = f'conformance_tests("{name}")'
    assert any(call in text for text in tests), (
        f"add {plugin.name}/tests/test_conformance.py with\n\n"
        f"    from kexue_core.testing import conformance_tests\n\n"
        f"    test_conformance = {call}"
    )


def test_a_plugin_that_is_not_installed_fails_one_test_that_says_so() -> None:
    test = conformance_tests("kexue-no-such-plugin")
    (mark,) = (m for m in test.pytestmark if m.name == "parametrize")
    assert mark.kwargs["ids"] == ["installed"]
    with pytest.raises(pytest.fail.Exception, match="kexue-no-such-plugin is not installed"):
        test(None, lambda *_: None)
