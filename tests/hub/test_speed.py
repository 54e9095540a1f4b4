"""Verification costs no more than the hash itself."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_as_fast_as_huggingface_hub_and_one_hash(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    speed = importlib.import_module("measure_pulls").measure_speed(tmp_path, rounds=5)
    print(speed)
    assert speed.ratio <= 1.1
    assert speed.memory <= 100e6
