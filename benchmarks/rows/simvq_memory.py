"""Peak memory of a forward and backward of SimVQ, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from harness import Row

BENCHMARKS = Path(__file__).parents[1]
PROGRAM = """
import gc, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from rows.simvq_speed import DIM, ROWS, pair, step
def kilobytes(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))
torch.set_num_threads(1)
chosen = 0 if sys.argv[1] == "ours" else 1
step(pair(64)[chosen], torch.randn(1, 1024, DIM))  # kernels are made ready outside of the count
quantizer = pair(int(sys.argv[2]))[chosen]
z = torch.randn(1, ROWS, DIM)
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = kilobytes("VmRSS")
step(quantizer, z)
print(kilobytes("VmHWM") - before, kilobytes("VmHWM"))
"""


def peak(who: str, size: int) -> tuple[float, float]:
    """MB that a step adds to the process, and MB of the whole process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, who, str(size), str(BENCHMARKS)],
        capture_output=True,
        text=True,
        check=True,
    )
    extra, total = (int(figure) / 1e3 for figure in done.stdout.split())
    return extra, total


def measure() -> list[Row]:
    version = f"vector-quantize-pytorch {metadata.version('vector-quantize-pytorch')}"
    ours, theirs = peak("ours", 65_536)[0], peak("peer", 65_536)[0]
    return [
        Row(
            what="SimVQ, memory of forward and backward, d 128, n 4,096, K 65,536",
            ours=ours,
            unit="MB",
            peer=version,
            theirs=theirs,
            ratio=theirs / ours,
            bar=16.0,
        ),
        Row(
            what="SimVQ, whole process, forward and backward, d 128, n 4,096, K 262,144",
            ours=peak("ours", 262_144)[1],
            unit="MB",
            bar=2_000.0,
            kind="at most",
            judged="ours",
        ),
    ]
