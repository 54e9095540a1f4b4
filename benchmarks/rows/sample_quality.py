"""Frechet and kernel distance of given features, beside torchmetrics."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import torch
from harness import Row, interleave, timed_row
from kexue_metrics import frechet_distance, kernel_distance
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

PEER = f"torchmetrics {metadata.version('torchmetrics')}"
ROWS = 5_000
MEMORY = """
import sys, torch, warnings
from pathlib import Path
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[2])
from rows.sample_quality import kernel_distance, peers_kernel
def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
torch.set_num_threads(1)
n = int(sys.argv[3])
distance = {
    "ours": kernel_distance, "theirs": lambda a, b: peers_kernel(a, b, subsets=1, size=len(a))
}[sys.argv[1]]
distance(torch.randn(4, 128), torch.randn(4, 128))
a, b = torch.randn(n, 128), torch.randn(n, 128)
before = high_water()
distance(a, b)
print(high_water() - before)
"""


class Given(nn.Module):
    """Features that are given as images of one pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def peers_frechet(a: Tensor, b: Tensor) -> float:
    metric = FrechetInceptionDistance(feature=Given(a.shape[1]), normalize=True)
    metric.update(a[:, :, None, None], real=True)
    metric.update(b[:, :, None, None], real=False)
    return float(metric.compute())


def peers_kernel(a: Tensor, b: Tensor, *, subsets: int, size: int) -> float:
    metric = KernelInceptionDistance(
        feature=Given(a.shape[1]), subsets=subsets, subset_size=size, normalize=True
    )
    metric.update(a[:, :, None, None], real=True)
    metric.update(b[:, :, None, None], real=False)
    return float(metric.compute()[0])


def measure() -> list[Row]:
    torch.manual_seed(0)
    rows = []
    for n, width, rounds in ((10_000, 128, 9), (2_000, 1_024, 5)):
        a, b = torch.randn(n, width), torch.randn(n, width) * 1.1
        timing = interleave(
            {
                "ours": lambda a=a, b=b: frechet_distance(a, b),
                "theirs": lambda a=a, b=b: peers_frechet(a, b),
            },
            rounds=rounds,
            warmup=1,
        )
        what = f"Frechet distance, {n:,} against {n:,} features of {width:,}"
        rows.append(timed_row(timing, what, "ours", "theirs", peer=PEER))
    a, b = torch.randn(10_000, 128), torch.randn(10_000, 128) * 1.1
    timing = interleave(
        {
            "ours": lambda: kernel_distance(a, b, subsets=10),
            "theirs": lambda: peers_kernel(a, b, subsets=10, size=1_000),
        },
        rounds=5,
        warmup=1,
    )
    what = "Kernel distance, 10 subsets of 1,000 features of 128 (ours in float64)"
    rows.append(timed_row(timing, what, "ours", "theirs", peer=PEER))
    peak = {
        who: int(
            subprocess.run(
                [sys.executable, "-c", MEMORY, who, sys.path[0], str(ROWS)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()[-1]
        )
        for who in ("ours", "theirs")
    }
    rows.append(
        Row(
            what=f"Kernel distance over all pairs of {ROWS:,} and {ROWS:,} features of 128: memory",
            ours=peak["ours"] / 1e3,
            unit="MB",
            peer=PEER,
            theirs=peak["theirs"] / 1e3,
            ratio=peak["theirs"] / peak["ours"],
        )
    )
    return rows
