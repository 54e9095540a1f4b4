"""Every plugin of this repository is held against the kit, now and whenever one is added."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from synthetic import MODULES, REPOSITORY, environment

from kexue_core.names import normalize
from kexue_core.plugins import discover
from kexue_core.testing import cases, conformance_tests

PLUGINS = sorted(
    path
    for folder in ("plugins", "examples")
    for path in (REPOSITORY / folder).iterdir()
    if path.is_dir() and not path.name.startswith((".", "_"))
)

# The core is a plugin too: the samplers that several plugins share.
test_core = conformance_tests("kexue")

#: (folder of a plugin, distribution) -> the cases that the kit's tests there cover.
Collected = dict[tuple[Path, str], set[str]]


def collect(plugins: Iterable[Path]) -> Collected:
    """What pytest finds of the kit's tests in some plugins, without those it would not run."""
    # Only files that name the kit: collecting the others would import all that tests need.
    files = {
        file: plugin
        for plugin in plugins
        for file in plugin.glob("tests/test_*.py")
        if "conformance_tests" in file.read_text(encoding="utf-8")
    }
    options = ["-q", "--collect-only", "--import-mode=importlib", "-p", "made_by_kit"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", os.devnull, *map(str, files)],
        env=environment(MODULES),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 5), done.stdout + done.stderr  # 5: no test at all
    found: Collected = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            made = json.loads(line)
            found.setdefault((files[Path(made["path"])], made["of"]), set()).add(made["case"])
    return found


def complaint(plugin: Path, collected: Collected) -> str | None:
    """What is missing for a folder to be a plugin that is held against the kit."""
    project = plugin / "pyproject.toml"
    if not project.is_file():
        return f"{plugin} has no pyproject.toml: add one, or remove the folder"
    name = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["name"]
    # The examples are not installed here: tests/testing/test_example.py does that.
    installed = discover().record(name) is not None
    wanted = {case.id for case in cases(name)} if installed else {"installed"}
    if missing := wanted - collected.get((plugin, normalize(name)), set()):
        return (
            f"{len(missing)} checks of {name} are no tests that run: "
            f"add {plugin.name}/tests/test_conformance.py with\n\n"
            f"    from kexue_core.testing import conformance_tests\n\n"
            f'    test_conformance = conformance_tests("{name}")'
        )
    return None


@pytest.fixture(scope="module")
def collected() -> Collected:
    return collect(PLUGINS)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_the_plugin_is_held_against_the_kit(plugin: Path, collected: Collected) -> None:
    assert (problem := complaint(plugin, collected)) is None, problem


PROJECT = '[project]\nname = "kexue"\n'
TEST = 'from kexue_core.testing import conformance_tests\n\ntest_it = conformance_tests("kexue")\n'

#: Folder -> its pyproject.toml, its test, and what is wrong with it.
FOLDERS: dict[str, tuple[str | None, str, str | None]] = {
    "good": (PROJECT, TEST, None),
    "bare": (None, TEST, "no pyproject.toml"),
    "comment": (PROJECT, f"# {TEST}".replace("\n", "\n# "), "no tests that run"),
    "private": (PROJECT, TEST.replace("test_it", "_it"), "no tests that run"),
    "other": (PROJECT, TEST.replace('"kexue"', '"kexue-zlpr"'), "no tests that run"),
    "skipped": (
        PROJECT,
        f'import pytest\n\n{TEST}\npytestmark = pytest.mark.skip(reason="later")\n',
        "no tests that run",
    ),
    "slow": (PROJECT, f"import pytest\n\n{TEST}\npytestmark = pytest.mark.slow\n", "no tests"),
    "installed": (
        '[project]\nname = "kexue-no-such-plugin"\n',
        TEST.replace('"kexue"', '"kexue-no-such-plugin"'),
        None,
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Collected]:
    root = tmp_path_factory.mktemp("folders")
    for name, (project, test, _) in FOLDERS.items():
        (root / name / "tests").mkdir(parents=True)
        (root / name / "tests" / "test_conformance.py").write_text(test)
        if project is not None:
            (root / name / "pyproject.toml").write_text(project)
    return root, collect(sorted(root.iterdir()))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_not_held_against_the_kit_is_found(
    name: str, folders: tuple[Path, Collected]
) -> None:
    root, collected = folders
    problem, said = complaint(root / name, collected), FOLDERS[name][2]
    assert problem is None if said is None else problem is not None and said in problem


def test_a_plugin_that_is_not_installed_fails_one_test_that_says_so() -> None:
    test = conformance_tests("kexue-no-such-plugin")
    (mark,) = (m for m in test.pytestmark if m.name == "parametrize")
    assert mark.kwargs["ids"] == ["installed"]
    with pytest.raises(pytest.fail.Exception, match="kexue-no-such-plugin is not installed"):
        test(None, lambda *_: None)
