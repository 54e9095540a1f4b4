from __future__ import annotations

from pathlib import Path

import pytest

from kexue_core.training import progress
from kexue_core.training.progress import RECENT, Progress, trim_log


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, to be put forward by hand."""
    now = [1_000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_follows_the_stage(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(tmp_path, "two-stages", 0, 2_000) as shown:
        for step in range(1, 1_001):  # 20 steps a second
            clock[0] += 0.05
            shown.step(step, 1.0)
        assert "20.00 steps/s, 1:09 left" in capsys.readouterr().err
        for step in range(1_001, 1_201):  # 4 seconds a step
            clock[0] += 4.0
            shown.step(step, 1.0)
        last = capsys.readouterr().err.splitlines()[-1]
    assert last == "two-stages: step 1,195/2,000 loss 1 0.25 steps/s, 53:40 left"
    assert len(shown._marks) <= RECENT + 2


def test_steps_that_were_done_before_do_not_count(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(tmp_path, "resumed", 500, 600) as shown:
        clock[0] += 40.0
        shown.step(520, 2.5)
    assert "resumed: step 520/600 loss 2.5 0.50 steps/s, 2:40 left" in capsys.readouterr().err


def test_a_log_is_trimmed_to_the_step_whatever_else_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b'{"step": 1, "loss": 2.0}\n\xff\xfe\x00\n[1]\n{"loss": 1.0}\n\n'
        b'{"step": 2, "loss": 1.5}\n{"step": 3, "loss": 1.0}\n{"step": 2, "lo'
    )
    trim_log(tmp_path, 2)
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n'
    trim_log(tmp_path / "elsewhere", 2)
    assert [x.name for x in tmp_path.iterdir()] == ["log.jsonl"]
