"""What a person sees of a run: log.jsonl, TensorBoard, and a bar or lines on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

__all__ = ["Progress", "trim_log"]

#: Seconds between lines where stderr is no terminal.
LINE_EVERY = 30.0

#: The rate, and with it the time that is left, is that of the last seconds: stages of a run may
#: differ in speed. Marks in time are so many seconds apart.
RECENT, MARK_EVERY = 120.0, 1.0


class Progress:
    """Write what happens; only the first process has one.

    Args:
        folder: The run's folder.
        name: The recipe's name, for the bar.
        start: Steps that were done before.
        steps: Steps in all.
    """

    def __init__(self, folder: Path, name: str, start: int, steps: int) -> None:
        self.name = name
        self.steps = steps
        self._said = time.monotonic()
        self._marks = deque([(self._said, start)])
        self._log: IO[str] = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._board = _board(folder / "tb", start)
        self._bar, self._task = _bar(name, start, steps)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        for closing in (self._log.close, *([self._board.close] if self._board else [])):
            try:
                closing()
            except OSError:
                if error is None:  # else the disk is full, and that is being reported already
                    raise

    def step(self, step: int, loss: float | None) -> None:
        """Show that ``step`` steps are done; ``loss`` where it is known."""
        now = time.monotonic()
        rate = self._rate(step, now)
        if self._bar is not None:
            fields = {} if loss is None else {"loss": f"{loss:.4g}"}
            self._bar.update(self._task, completed=step, rate=f"{rate:.2f}/s", **fields)
        elif loss is not None and now - self._said >= LINE_EVERY:
            self._said = now
            left = (self.steps - step) / rate if rate else float("inf")
            self.say(
                f"{self.name}: step {step:,}/{self.steps:,} loss {loss:.4g} "
                f"{rate:.2f} steps/s, {_duration(left)} left"
            )

    def _rate(self, step: int, now: float) -> float:
        """Steps a second of late."""
        while len(self._marks) > 1 and now - self._marks[1][0] >= RECENT:
            self._marks.popleft()
        then, before = self._marks[0]
        if now - self._marks[-1][0] >= MARK_EVERY:
            self._marks.append((now, step))
        return (step - before) / max(now - then, 1e-9)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Keep scalars of the state after ``step`` steps in log.jsonl and TensorBoard."""
        self._log.write(json.dumps({"step": step, **values}) + "\n")
        self._log.flush()
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, step)

    def say(self, line: str) -> None:
        """One line on stderr, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)


def trim_log(folder: Path, step: int) -> None:
    """Drop the lines of log.jsonl after ``step``: a killed run went further than its checkpoint."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError):
            continue  # the line that was being written when the process was killed
    partial = path.with_suffix(".partial")
    partial.write_bytes(b"".join(kept))
    partial.replace(path)


def _board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # a view of log.jsonl; nobody has to have it
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)


def _bar(name: str, start: int, steps: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        return None, None
    bar = Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=120,
    )
    task = bar.add_task(name, total=steps, completed=start, loss="-", rate="")
    bar.start()
    return bar, task


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
