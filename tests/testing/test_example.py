"""The third-party example is installed, listed, checked and used like anyone's plugin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sandbox import Sandbox
from synthetic import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "flowmatch-toy"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """An environment in which the example is installed from a copy, as a user would."""
    folder = tmp_path_factory.mktemp("example")
    sandbox = Sandbox(folder / "environment")
    # A copy: building in the repository would leave folders in it.
    sandbox.run(f"cp -r {EXAMPLE} {folder / 'copy'}", folder)
    sandbox.run(f"kexue install {folder / 'copy'}", folder)
    return sandbox


@pytest.mark.timeout(600)
def test_it_passes_the_kit(sandbox: Sandbox, tmp_path: Path) -> None:
    done = sandbox.run("kexue check flowmatch-toy --json", tmp_path)
    outcomes = json.loads(done.stdout)
    assert {o["subject"] for o in outcomes} >= {"plugin", "model:flow-matching"}
    assert not [o for o in outcomes if o["status"] == "failed"]


def test_its_weights_are_listed_and_verified(sandbox: Sandbox, tmp_path: Path) -> None:
    listed = sandbox.run("kexue list moons-flow", tmp_path).stdout
    assert "moons-flow\tflowmatch-toy\tflow-matching" in listed
    sandbox.run("kexue verify moons-flow", tmp_path)


def test_its_verb_draws_its_weights(sandbox: Sandbox, tmp_path: Path) -> None:
    assert "scatter" in sandbox.run("kexue --help", tmp_path).stdout
    drawn = sandbox.run("kexue scatter moons-flow -n 400", tmp_path).stdout
    assert len(drawn.splitlines()) == 24
    # The upper moon is in the upper left, the lower one in the lower right; corners are empty.
    rows = [line.ljust(60) for line in drawn.splitlines()]
    left_top = sum(c != " " for row in rows[:12] for c in row[:30])
    right_top = sum(c != " " for row in rows[:12] for c in row[30:])
    assert left_top > right_top
    assert not rows[0].strip()


def test_it_is_removed_without_a_trace(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.run("kexue uninstall flowmatch-toy --yes", tmp_path)
    assert "flowmatch" not in sandbox.run("kexue plugins", tmp_path).stdout
    again = sandbox.run("kexue uninstall flowmatch-toy --yes", tmp_path, check=False)
    assert again.returncode == 1
    assert "No installed plugin is named 'flowmatch-toy'" in again.stderr
