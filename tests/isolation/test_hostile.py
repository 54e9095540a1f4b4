"""One broken plugin breaks nothing but itself: committed hostile ones, in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from synthetic import environment

HOSTILE = Path(__file__).parents[1] / "fixtures" / "hostile"
HEALTHY = "hostile-healthy"

# Distribution -> what is said of it (cause, then fix), and the model that is listed all the same.
SAID: dict[str, tuple[str, str, str | None]] = {
    "hostile-import-error": ("cannot import no_such_package", "pip install", None),
    "hostile-system-exit": ("SystemExit: hostile-system-exit wants", "--upgrade", None),
    "hostile-hook-raises": ("ValueError: the hook itself is broken", "--debug", None),
    "hostile-half-way": ("RuntimeError: half-way through", "--debug", None),
    "hostile-rubbish": ("gave 42, which is no Spec", "yield Spec", None),
    "hostile-not-iterable": ("returned 7, not an iterable", "yield Spec", None),
    "hostile-odd-kind": ("FancySpec", "yield Spec", None),
    "hostile-misspelt-hook": ("unknown hook kexue_component", "kexue_components", None),
    "hostile-no-hookimpl": ("implements no hook", "hookimpl", None),
    "hostile-bad-import-string": ("must be an import string", "", None),
    "hostile-missing-module": ("hostile_missing_module.plugin, which does not", "Reinstall", None),
    "hostile-object-entry": ("names hostile_object_entry:plugin, and must", "Drop ':plugin'", None),
    "hostile-unprintable": ("UnprintableError: (its message cannot be read", "--debug", None),
    "hostile-interrupt": ("KeyboardInterrupt", "--debug", None),
    "hostile-future": ("needs kexue>=9.1,<10", "pip install", None),
    "hostile-heavy": ("imports numpy, torch while it is listed", "inside functions", "heavy"),
    "hostile-slow": ("takes 5.", "out of the module", "slow"),
}
REGISTRY = """format: 1
plugins: {}
weights:
  glow-celeba:
    plugin: kexue-flow
    model: glow
    status: unverified
    repo: its/own
    summary: the real one
"""


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    return path


def kexue(
    *args: str, plugins: list[str], **extra: str
) -> tuple[subprocess.CompletedProcess[str], float]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "kexue_core", *args],
        env=environment(*(HOSTILE / name for name in plugins), **extra),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, time.perf_counter() - started


def models(done: subprocess.CompletedProcess[str]) -> set[str]:
    found = json.loads(done.stdout)
    rows = found if isinstance(found, list) else found["model"]
    return {row["name"] for row in rows}


def test_every_hostile_plugin_is_tested() -> None:
    others = {HEALTHY, "hostile-prints", "hostile-takes-name", "hostile-twin-a", "hostile-twin-b"}
    assert {p.name for p in HOSTILE.iterdir()} == SAID.keys() | others


@pytest.mark.parametrize("name", SAID)
def test_list_goes_on_and_warns_in_one_line(name: str) -> None:
    cause, _, model = SAID[name]
    done, _ = kexue("list", "--kind", "model", "--json", plugins=[name, HEALTHY])
    assert done.returncode == 0, done.stderr
    assert "healthy" in models(done)
    assert (model in models(done)) if model else ("half" not in models(done))
    warnings = [line for line in done.stderr.splitlines() if "doctor" in line]
    assert len(warnings) == 1, done.stderr
    assert name in warnings[0]
    assert cause in warnings[0]


@pytest.fixture(scope="module")
def all_at_once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What doctor says where every hostile plugin is installed."""
    path = tmp_path_factory.mktemp("registry") / "registry.yaml"
    path.write_text(REGISTRY)
    done, _ = kexue(
        "doctor",
        "--json",
        plugins=sorted(p.name for p in HOSTILE.iterdir()),
        KEXUE_REGISTRY=str(path),
    )
    assert done.returncode == 1, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.mark.parametrize("name", SAID)
def test_doctor_names_distribution_cause_and_fix(
    name: str, all_at_once: dict[str, dict[str, str]]
) -> None:
    cause, fix, _ = SAID[name]
    row = all_at_once[name]
    assert row["state"] == "broken"
    assert cause in row["detail"]
    assert fix in row["fix"]
    assert row["detail"].count("\n") == 0


def test_the_healthy_are_in_order_among_all_the_broken(
    all_at_once: dict[str, dict[str, str]],
) -> None:
    for name in (HEALTHY, "hostile-twin-a", "hostile-twin-b", "hostile-prints", "kexue-flow"):
        assert all_at_once[name]["state"] == "ok", all_at_once[name]


def test_doctor_fails_for_one_heavy_plugin_among_none_broken() -> None:
    done, _ = kexue("doctor", "--quiet", "--json", plugins=["hostile-heavy"])
    assert done.returncode == 1
    assert [row["name"] for row in json.loads(done.stdout)] == ["hostile-heavy"]


def test_a_slow_import_is_named_after_two_seconds(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kexue_core", "list", "--kind", "model"],
        env=environment(HOSTILE / "hostile-slow"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()  # comes while the import is still asleep
    assert process.poll() is None
    assert "hostile-slow is still loading after 2 s" in first
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "slow" in out


def test_two_distributions_with_one_entry_point_name_both_load() -> None:
    done, _ = kexue(
        "list", "--kind", "model", "--json", plugins=["hostile-twin-a", "hostile-twin-b"]
    )
    assert {"twin-a", "twin-b"} <= models(done)
    assert not done.stderr


def test_a_print_at_import_does_not_reach_stdout() -> None:
    done, _ = kexue("list", "--kind", "model", "--json", plugins=["hostile-prints"])
    assert "prints" in models(done)
    assert "says hello" in done.stderr


def test_names_of_the_core_cannot_be_taken(registry: Path) -> None:
    done, _ = kexue("list", "--json", plugins=["hostile-takes-name"], KEXUE_REGISTRY=str(registry))
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    rows = rows if isinstance(rows, list) else rows["weights"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["glow-celeba"]["plugin"] == "kexue-flow"
    assert by_name["taker-toy"]["plugin"] == "hostile-takes-name"
    assert "hostile-takes-name takes the name 'glow-celeba'" in done.stderr


def test_doctor_names_the_taken_weights(all_at_once: dict[str, dict[str, str]]) -> None:
    row = all_at_once["glow-celeba"]
    assert row["state"] == "broken"
    assert "hostile-takes-name takes the name" in row["detail"]
    assert row["fix"] == "Rename the weights"


def test_strict_raises_the_first_problem() -> None:
    done, _ = kexue("list", plugins=["hostile-half-way"], KEXUE_STRICT_PLUGINS="1")
    assert done.returncode == 1
    assert "hostile-half-way: RuntimeError: half-way through" in done.stderr


def test_plugins_can_be_restricted() -> None:
    done, _ = kexue(
        "list",
        "--kind",
        "model",
        "--json",
        plugins=["hostile-half-way", HEALTHY],
        KEXUE_PLUGINS=HEALTHY,
    )
    assert models(done) == {"healthy"}
    assert not done.stderr


def test_a_command_on_the_weights_of_others_still_works(tmp_path: Path) -> None:
    done, _ = kexue(
        "show", "glow", plugins=["hostile-system-exit", "hostile-half-way"], NO_COLOR="1"
    )
    assert done.returncode == 0, done.stderr
    assert "kexue-flow" in done.stdout
