"""Every test has a home of its own, and none reaches the network."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# What an example may take says nothing on a machine that has more to do than these tests.
settings.register_profile("kexue", deadline=None)
settings.load_profile("kexue")

# A shell starts background jobs with SIGINT ignored, and children inherit that: what is to be
# interrupted by a test would go on.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("KEXUE_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KEXUE_HOME", str(tmp_path / "kexue-home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
