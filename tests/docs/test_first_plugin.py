"""The page "Your first plugin in ten minutes", executed as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sandbox import Sandbox
from synthetic import REPOSITORY

PAGE = REPOSITORY / "docs" / "first-plugin.md"


def commands() -> list[str]:
    """What follows `$ ` in the page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.mark.timeout(900)  # half a minute of one core, which a busy machine stretches
def test_from_nothing_to_a_passing_plugin_by_the_page_alone(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "environment")
    cwd = tmp_path
    said = {}
    for command in commands():
        if command.startswith("cd "):
            cwd = cwd / command.removeprefix("cd ")
            assert cwd.is_dir()
        else:
            said[command] = sandbox.run(command, cwd)
    assert "toy\tkexue-toy" in said["kexue list --kind model"].stdout
    assert " 0 failed" in said["kexue check kexue-toy"].stderr
    assert re.search(r"\d+ passed", said["pytest"].stdout)


def test_the_page_needs_at_most_ten_commands() -> None:
    assert 1 <= len(commands()) <= 10
