"""What ZLPR costs beside torch's binary cross-entropy, loss and backward."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from harness import Row, interleave
from kexue_zlpr.zlpr import zlpr_loss
from torch import Tensor

ROWS, CLASSES = 256, 10_000
#: Loss and backward cost at most this many times those of BCE.
BAR = 1.3


def textbook(s: Tensor, t: Tensor) -> Tensor:
    """The formula as post 7359 has it, by autograd."""
    s = (1 - 2 * t) * s
    zeros = torch.zeros_like(s[..., :1])
    false = torch.cat([s - t * 1e12, zeros], -1).logsumexp(-1)
    return (false + torch.cat([s - (1 - t) * 1e12, zeros], -1).logsumexp(-1)).mean()


def measure() -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for deviation in (1.0, 5.0, 40.0):
        for share in (0.005, 0.1, 0.3):
            s = (deviation * torch.randn(ROWS, CLASSES)).requires_grad_()
            t = (torch.rand(ROWS, CLASSES) < share).float()

            def run(loss: object, s: Tensor = s, t: Tensor = t) -> None:
                s.grad = None
                loss(s, t).backward()

            bce = {"bce": lambda run=run: run(F.binary_cross_entropy_with_logits)}
            # Apart: the pages that the textbook form gives back would be paid for by who is next.
            slower = interleave(
                {"textbook": lambda run=run: run(textbook), **bce}, clock=time.thread_time
            ).ratio("textbook", "bce")
            timing = interleave(
                {"zlpr": lambda run=run: run(zlpr_loss), **bce}, rounds=31, clock=time.thread_time
            )
            what = (
                f"ZLPR, loss and backward, ({ROWS}, {CLASSES:,}), deviation {deviation:g}, "
                f"{100 * share:g} % true: times BCE (the textbook form: {slower:.1f})"
            )
            rows.append(
                Row(
                    what=what,
                    ours=timing.ratio("zlpr", "bce"),
                    unit="x BCE",
                    peer="torch BCE",
                    theirs=1.0,
                    spread=None,
                    bar=BAR,
                    kind="at most",
                    judged="ours",
                )
            )
    return rows
