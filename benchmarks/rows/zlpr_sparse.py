"""The sparse form beside the formula that the peers use: how right, and how much memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from harness import Row
from kexue_zlpr.zlpr import sparse_zlpr_loss
from torch import Tensor

PEER = "all - true"
BENCHMARKS = Path(__file__).parents[1]
MEMORY = """
import sys, torch
from pathlib import Path
from kexue_zlpr.zlpr import sparse_zlpr_loss
sys.path.insert(0, sys.argv[2])
from rows.zlpr_speed import textbook
def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def dense(s, index):
    return textbook(s, torch.zeros_like(s).scatter_(-1, index, 1.0))
torch.set_num_threads(1)
loss = {"ours": sparse_zlpr_loss, "textbook": dense}[sys.argv[1]]
small, index = torch.randn(2, 4, requires_grad=True), torch.randint(4, (2, 3))
loss(small, index).backward()
s, index = torch.randn(8, 1_000_000, requires_grad=True), torch.randint(1_000_000, (8, 20))
before = high_water()
loss(s, index).backward()
print(high_water() - before)
"""


def peers(s: Tensor, index: Tensor) -> Tensor:
    """The sum over the false classes as the sum over all less that over the true."""
    zeros = torch.zeros_like(s[..., :1])
    s = torch.cat([s, zeros], -1)
    true = s.gather(-1, index)
    everything = s.logsumexp(-1)
    rest = torch.clamp(1 - (true.logsumexp(-1) - everything).exp(), 1e-7, 1)
    return everything + rest.log() + torch.cat([-true, zeros[..., :1]], -1).logsumexp(-1)


def measure() -> list[Row]:
    rows = []
    for logit in (5.0, 20.0, 30.0):
        s = torch.zeros(1, 50)
        s[0, 7] = logit
        index = torch.tensor([[7]])
        exact = s.double().requires_grad_()
        (right,) = torch.autograd.grad(sparse_zlpr_loss(exact, index), exact)
        errors = []
        for loss in (sparse_zlpr_loss, peers):
            x = s.clone().requires_grad_()
            (found,) = torch.autograd.grad(loss(x, index).sum(), x)
            errors.append(float((found - right).abs().max()))
        rows.append(
            Row(
                what=f"Sparse ZLPR, 50 classes, one true logit of {logit:g}: "
                "largest error of the gradient, float32",
                ours=errors[0],
                unit="of 1",
                peer=PEER,
                theirs=errors[1],
                bar=1e-6,
                kind="at most",
                judged="ours",
            )
        )
    peak = {
        form: int(
            subprocess.run(
                [sys.executable, "-c", MEMORY, form, str(BENCHMARKS)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for form in ("ours", "textbook")
    }
    rows.append(
        Row(
            what="Sparse ZLPR, (8, 1,000,000), 20 true: memory of loss and backward",
            ours=peak["ours"] / 1e3,
            unit="MB",
            peer="textbook dense form",
            theirs=peak["textbook"] / 1e3,
            ratio=peak["textbook"] / peak["ours"],
            bar=2.0,
        )
    )
    return rows
