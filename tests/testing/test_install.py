"""What ``kexue install`` and ``uninstall`` hand to pip, and what they say where there is none."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import write_distribution

from kexue_core.commands import _pip
from kexue_core.commands.install import requirement
from kexue_core.commands.uninstall import GROUPS, installed
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


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("my-plugin", "./my-plugin"),
        ("my-plugin[train]", "./my-plugin[train]"),
        ("flow", "./flow"),  # what lies here goes before the registry
        ("./my-plugin", "./my-plugin"),
        ("my-plugin/", "my-plugin/"),
        (".", "."),
        ("..", ".."),
        ("my-plugin>=1", "my-plugin>=1"),
        ("file", None),
    ],
)
def test_a_folder_here_is_never_looked_for_on_the_package_index(
    name: str, wanted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("my-plugin", "flow"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").touch()
    if wanted is None:
        with pytest.raises(NotFoundError):
            requirement(name)
    else:
        assert requirement(name) == wanted


def test_pip_takes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some-thing").mkdir()
    command = ["install", "--no-index", "--dry-run", requirement("some-thing")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command], capture_output=True, text=True, check=False
    )
    # It read the folder, which holds no project, and asked no index.
    assert "some-thing' is not installable" in done.stderr, done.stderr


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


@pytest.mark.parametrize("group", GROUPS)
def test_every_kind_of_plugin_is_found_without_its_import(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distribution(tmp_path, "their-verb", "raise SystemExit", group=group, entry="greet")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KEXUE_STRICT_PLUGINS", "1")
    monkeypatch.setenv("KEXUE_PLUGINS", "kexue-flow")  # restricts what is loaded, not removed
    assert installed("Their_Verb") == "their-verb"
    with pytest.raises(NotFoundError, match="Did you mean their-verb"):
        installed("their-verbs")


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
