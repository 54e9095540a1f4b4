"""The bars of loading, measured by the benchmark that fills the table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_loading_meets_its_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("KEXUE_PLUGINS", "kexue-bench")
    rows = importlib.import_module("rows.load").measure()
    monkeypatch.delitem(sys.modules, "rows.load")
    assert len([row for row in rows if row.bar is not None]) == 3
    missed = [(row.what, row.ours, row.ratio) for row in rows if row.met is False]
    assert not missed
