"""Fifty plugins cost little, and third parties' verbs and weights are listed without an import."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from synthetic import LIGHT_PLUGIN, environment, write_distribution

VERB = """
import sys
print("imported", file=sys.stderr)
import click

@click.command("greet")
def command():
    \"\"\"Say hello.\"\"\"
    click.echo("hello")
"""


def site(folder: Path, count: int) -> Path:
    for index in range(count):
        name = f"synthetic-{index}"
        module = name.replace("-", "_")
        write_distribution(folder, name, LIGHT_PLUGIN.format(name=name, module=module))
    return folder


def seconds(folder: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "kexue_core", "list"],
        env={**environment(folder), "PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "problem" not in done.stderr
    return time.perf_counter() - started


def test_fifty_plugins_cost_at_most_three_times_eight(tmp_path: Path) -> None:
    few, many = site(tmp_path / "few", 8), site(tmp_path / "many", 50)
    for folder in (few, many):
        seconds(folder)  # writes the bytecode, as an installation does
    # Interleaved, and the medians compared: the machine is shared.
    times = [(seconds(few), seconds(many)) for _ in range(5)]
    eight, fifty = (statistics.median(column) for column in zip(*times, strict=True))
    assert fifty <= 3 * eight, f"{fifty:.2f} s with 50 plugins, {eight:.2f} s with 8"


def test_a_third_partys_verb_is_listed_without_an_import(tmp_path: Path) -> None:
    write_distribution(tmp_path, "their-verb", VERB, group="kexue.commands", entry="greet")

    def kexue(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kexue_core", *args],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=True,
        )

    helped = kexue("--help")
    assert "greet" in helped.stdout
    assert "imported" not in helped.stderr
    assert kexue("greet").stdout == "hello\n"


def test_a_verb_of_the_core_cannot_be_taken(tmp_path: Path) -> None:
    write_distribution(tmp_path, "their-verb", VERB, group="kexue.commands", entry="list")
    done = subprocess.run(
        [sys.executable, "-m", "kexue_core", "list", "--kind", "sampler", "--json"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hello" not in done.stdout
    assert json.loads(done.stdout)
