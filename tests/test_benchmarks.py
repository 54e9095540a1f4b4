"""The benchmark's arithmetic: pairs, ratios, bars, and the table. `make bench` measures."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("harness")


def test_contenders_take_turns_and_warm_up_is_not_counted(harness: ModuleType) -> None:
    calls: list[str] = []
    now = 0.0

    def contender(name: str, cost: float) -> object:
        def call() -> None:
            nonlocal now
            calls.append(name)
            # The machine gets slower all the time: the ratio of neighbours does not.
            now += cost * (1 + len(calls) / 10)

        return call

    timing = harness.interleave(
        {"ours": contender("ours", 1.0), "theirs": contender("theirs", 3.0)},
        rounds=6,
        warmup=1,
        clock=lambda: now,
    )
    assert len(timing.seconds["ours"]) == len(timing.seconds["theirs"]) == 6
    pairs = [set(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert pairs == [{"ours", "theirs"}] * 7
    assert timing.ratio("theirs", "ours") == pytest.approx(3.0, rel=0.05)
    low, high = timing.spread("theirs", "ours")
    assert 2.7 < low <= 3.0 <= high < 3.3


def test_bars(harness: ModuleType) -> None:
    fast = harness.Row(what="", ours=1, unit="ms", theirs=2, ratio=2.0, bar=1.8)
    slow = harness.Row(what="", ours=1, unit="ms", theirs=1.7, ratio=1.7, bar=1.8)
    exact = harness.Row(what="", ours=1e-6, unit="", bar=1e-4, kind="at most", judged="ours")
    assert (fast.met, slow.met, exact.met) == (True, False, True)
    assert harness.Row(what="", ours=1, unit="ms", ratio=2.0).met is None


def test_results_in_the_repository_are_those_of_the_table() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json, run; print(run.table(json.loads(run.RESULTS.read_text())), end='')",
        ],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (FOLDER / "results" / "table.md").read_text()


def test_no_result_names_a_path() -> None:
    text = (FOLDER / "results" / "results.json").read_text()
    assert "/home" not in text
    assert "/work" not in text
    names = {path.stem for path in (FOLDER / "rows").glob("*.py")}
    assert set(json.loads(text)) <= names
