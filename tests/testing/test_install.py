"""What ``kexue install`` and ``uninstall`` hand to pip, and what they say where there is none."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path

import pytest

from kexue_core.commands import _pip
from kexue_core.commands.install import requirement
from kexue_core.commands.uninstall import installed
from kexue_core.errors import KexueError, NotFoundError
from kexue_core.registry import load_registry

REGISTRY = """format: 1
plugins:
  kexue-flow: {summary: flows, requires: "kexue-flow>=0.1,<0.2"}
weights:
  glow-celeba: {plugin: kexue-flow, model: glow, status: unverified, repo: a/b}
  their-thing: {plugin: theirs, model: thing, status: unverified, repo: a/b}
"""


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    monkeypatch.setenv("KEXUE_REGISTRY", str(path))
    load_registry.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def _forget() -> object:
    yield
    load_registry.cache_clear()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("kexue-flow", "kexue-flow>=0.1,<0.2"),
        ("Kexue_Flow", "kexue-flow>=0.1,<0.2"),
        ("flow", "kexue-flow>=0.1,<0.2"),
        ("glow-celeba", "kexue-flow>=0.1,<0.2"),
        ("their-thing", "theirs"),
        ("./folder", "./folder"),
        ("some.whl", "some.whl"),
        ("some-plugin>=1", "some-plugin>=1"),
        ("kexue-flow[train]", "kexue-flow[train]"),
    ],
)
def test_names_become_requirements(name: str, wanted: str) -> None:
    assert requirement(name) == wanted


def test_an_unknown_name_never_reaches_the_package_index() -> None:
    with pytest.raises(NotFoundError, match="Did you mean glow-celeba"):
        requirement("glow-celebb")
    with pytest.raises(NotFoundError, match="give a version"):
        requirement("requests")


def test_only_plugins_are_removed() -> None:
    assert installed("flow") == "kexue-flow"
    with pytest.raises(NotFoundError):
        installed("torch")
    with pytest.raises(KexueError, match="does not remove itself"):
        installed("kexue")


def test_without_pip_the_exact_command_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KexueError) as caught:
        _pip.run_pip(["uninstall", "--yes", "kexue-flow"])
    wanted = ["uv", "pip", "uninstall", "--python", sys.executable, "kexue-flow"]
    assert caught.value.hint == f"Run `{shlex.join(wanted)}`"


def test_with_pip_the_command_is_of_this_interpreter() -> None:
    said = _pip.command_line(["install", "kexue-flow>=0.1,<0.2"])
    assert shlex.split(said) == [sys.executable, "-m", "pip", "install", "kexue-flow>=0.1,<0.2"]


def test_a_failing_pip_is_one_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KexueError, match="pip install failed with exit code"):
        _pip.run_pip(["install", "--no-index", "no-such-package-of-kexue"])
    out, err = capfd.readouterr()
    assert not out
    assert "no-such-package-of-kexue" in err
