"""What ``kexue list`` costs, as a multiple of starting Python."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata

from harness import Row, interleave


def measure() -> list[Row]:
    timing = interleave(
        {"python": _call("-c", "pass"), "list": _call("-m", "kexue_core", "list")},
        rounds=15,
        clock=_children,
    )
    plugins = len(metadata.entry_points(group="kexue"))
    return [
        Row(
            what=f"`kexue list` with {plugins} plugins, as a multiple of `python -c pass`",
            ours=timing.ratio("list", "python"),
            unit="x",
            bar=10,
            kind="at most",
            judged="ours",
        )
    ]


def _call(*args: str) -> Callable[[], object]:
    command = [sys.executable, *args]
    return lambda: subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
