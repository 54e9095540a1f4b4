"""One display for all files of a pull, on stderr and only where people read it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kexue_core.hub.download import Meter

if TYPE_CHECKING:
    from kexue_core.hub.planning import Plan

__all__ = ["Display", "terminal_meter"]


def terminal_meter(*, quiet: bool = False) -> Meter:
    """A display if stderr is a terminal, otherwise nobody."""
    return Display() if sys.stderr.isatty() and not quiet else Meter()


class Display(Meter):
    """Bytes, rate and time left over all files together."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None

    def start(self, plans: Sequence[Plan]) -> None:
        """Show the bar, if there is anything to transfer."""
        remote = [plan for plan in plans if plan.origin == "remote"]
        if not remote:
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        names = ", ".join(str(plan.reference) for plan in remote)
        total = sum(plan.size for plan in remote) or None
        self._task = self._bar.add_task(names, total=total)
        self._bar.start()

    def advance(self, count: int) -> None:
        """Move the bar, back if bytes were thrown away."""
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(f"kexue: {text}", markup=False, highlight=False)

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
