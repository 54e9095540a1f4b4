"""What a row of the benchmark table is, and how pairs are timed.

A row file is ``benchmarks/rows/<name>.py`` with a function ``measure() -> list[Row]``. To add one,
copy the shortest; ``make bench ARGS=<name>`` runs it alone. ``run.py`` calls each in a process of
its own with one thread, and merges what it returns into the table. Peers are built in ``peers.py``
and installed from ``requirements.txt``.

Times are CPU seconds of one thread: on a machine that others use, wall time measures the others.
Contenders take turns in one process, round by round, so that whatever slows the machine for a while
slows all of them; the ratio of a round is between neighbours in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

__all__ = ["Row", "Timing", "interleave", "timed_row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured, with its sizes.
        ours: Our figure, in ``unit``.
        unit: ``ms``, ``nats``, ...
        peer: Who it is held against, with its version; empty where there is none.
        theirs: The peer's figure.
        ratio: How many times better ours is (a time: theirs / ours); ``None`` where that is no
            question.
        spread: Lower and upper quartile of the ratio over the rounds.
        bar: What was demanded before, on ``judged``: ``at least`` or ``at most``.
        kind: Which of the two.
        judged: ``ratio`` or ``ours``.
    """

    what: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    bar: float | None = None
    kind: Literal["at least", "at most"] = "at least"
    judged: Literal["ratio", "ours"] = "ratio"

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; ``None`` without one."""
        value = self.ratio if self.judged == "ratio" else self.ours
        if self.bar is None or value is None:
            return None
        return value >= self.bar if self.kind == "at least" else value <= self.bar


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each contender, round by round."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of one contender."""
        return median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """Ratio of the medians."""
        return self.median(slow) / self.median(fast)

    def spread(self, slow: str, fast: str) -> tuple[float, float]:
        """Quartiles of the ratio within a round."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        low, _, high = quantiles([a / b for a, b in pairs], n=4)
        return low, high


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 9,
    warmup: int = 2,
    clock: Callable[[], float] = time.process_time,
) -> Timing:
    """Call the contenders in turn, ``rounds`` times after ``warmup`` rounds that do not count.

    Every other round runs backwards: nobody always follows the same neighbour's cache.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders.items())
    for number in range(-warmup, rounds):
        for name, call in order if number % 2 else reversed(order):
            began = clock()
            call()
            if number >= 0:
                seconds[name].append(clock() - began)
    return Timing(seconds)


def timed_row(
    timing: Timing, what: str, ours: str, theirs: str, *, peer: str, bar: float | None = None
) -> Row:
    """A row of two contenders: milliseconds, and how many times faster ours is."""
    return Row(
        what=what,
        ours=1e3 * timing.median(ours),
        unit="ms",
        peer=peer,
        theirs=1e3 * timing.median(theirs),
        ratio=timing.ratio(theirs, ours),
        spread=timing.spread(theirs, ours),
        bar=bar,
    )
