"""``pytest --kexue DIST``, as pytest finds it through its entry point."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROBE = "import sys; import kexue_core.pytest_plugin; print({'torch', 'numpy'} & set(sys.modules))"


@pytest.fixture
def run(tmp_path: Path):  # type: ignore[no-untyped-def]
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_distribution_is_checked_without_a_test_file(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("--kexue", "kexue", "-v", "-k", "plugin")
    assert done.returncode == 0, done.stdout
    assert "kexue::plugin-" in done.stdout
    assert "sampler" not in done.stdout  # -k chooses among these tests, too


def test_a_failing_check_says_what_to_change_and_no_more(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "conftest.py").write_text(
        "from kexue_core.testing import kit\n"
        "from kexue_core.testing.outcomes import Check, CheckFailure\n"
        "def wrong(subject):\n"
        "    raise CheckFailure('it is crooked', 'Make it straight')\n"
        "class Subject:\n"
        "    label = 'model:toy'\n"
        "kit.cases = lambda name: [kit.Case(Subject(), Check('bent', wrong))]\n"
    )
    done = run("--kexue", "kexue-toy")
    assert done.returncode == 1
    assert "it is crooked" in done.stdout
    assert "Make it straight" in done.stdout
    assert "Traceback" not in done.stdout
    assert "def wrong" not in done.stdout


def test_what_is_not_installed_is_said(run) -> None:  # type: ignore[no-untyped-def]
    done = run("--kexue", "kexue-nowhere")
    assert done.returncode == 4
    assert "ERROR: kexue-nowhere is not installed" in done.stderr
    assert "pip install" in done.stderr


def test_pytest_itself_pays_for_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
