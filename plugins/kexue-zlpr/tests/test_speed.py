"""The bars of speed, measured beside BCE: interleaved, one thread, CPU time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from kexue_zlpr.zlpr import zlpr_loss

pytestmark = pytest.mark.slow

#: Loss and backward, times that of torch's binary_cross_entropy_with_logits.
BAR = 1.3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("share", [0.005, 0.1, 0.3])
@pytest.mark.parametrize("deviation", [1.0, 5.0, 40.0])
def test_loss_and_backward_cost_at_most_a_third_more_than_bce(
    deviation: float, share: float
) -> None:
    s = (deviation * torch.randn(256, 10_000)).requires_grad_()
    t = (torch.rand(256, 10_000) < share).float()
    seconds: dict[str, list[float]] = {"zlpr": [], "bce": []}
    losses = {"zlpr": zlpr_loss, "bce": F.binary_cross_entropy_with_logits}
    for round_ in range(-3, 25):
        for name, loss in losses.items():
            s.grad = None
            began = time.thread_time()
            loss(s, t).backward()  # type: ignore[no-untyped-call, operator]
            if round_ >= 0:
                seconds[name].append(time.thread_time() - began)
    assert median(seconds["zlpr"]) <= BAR * median(seconds["bce"])
