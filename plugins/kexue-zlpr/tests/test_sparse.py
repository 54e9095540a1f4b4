"""The sparse loss is the dense one, where the widely used formula is not."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kexue_zlpr import zlpr
from kexue_zlpr.zlpr import sparse_zlpr_loss, zlpr_loss
from torch import Tensor


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def multi_hot(index: Tensor, classes: int, ignore_index: int = -100) -> Tensor:
    target = torch.zeros(*index.shape[:-1], classes + 1)
    target.scatter_(-1, index.masked_fill(index == ignore_index, classes), 1.0)
    return target[..., :-1]


def compare(s: Tensor, index: Tensor, **options: object) -> None:
    """Loss and gradient to a millionth of the dense loss's in float64."""
    found, exact = s.clone().requires_grad_(), s.double().requires_grad_()
    loss = sparse_zlpr_loss(found, index, reduction="none", **options)  # type: ignore[arg-type]
    dense = zlpr_loss(exact, multi_hot(index, s.shape[-1]), reduction="none", **options)  # type: ignore[arg-type]
    torch.testing.assert_close(loss.double(), dense, rtol=1e-6, atol=1e-30)
    (gradient,) = torch.autograd.grad(loss.sum(), found)
    (expected,) = torch.autograd.grad(dense.sum(), exact)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("classes", [1, 2, 50, 1000, 30_000, 1_000_000])
@pytest.mark.parametrize("span", [1.0, 20.0, 80.0])
def test_equals_dense(classes: int, span: float) -> None:
    rows = 2 if classes == 1_000_000 else 5
    s = torch.empty(rows, classes).uniform_(-span, span)
    index = torch.randint(classes, (rows, 6))
    index[0] = -100
    index[1, 3:] = -100
    s[0, 0] = span
    compare(s, index)


@pytest.mark.parametrize("true", [1.0, 20.0, 30.0, 80.0])
def test_one_high_true_logit_among_zeros(true: float) -> None:
    s = torch.zeros(1, 50)
    s[0, 7] = true
    compare(s, torch.tensor([[7]]))


def peers_loss(s: Tensor, index: Tensor) -> Tensor:
    """What is widely used: the sum over the false classes as all - true, from post 8888."""
    zeros = torch.zeros_like(s[..., :1])
    s = torch.cat([s, zeros], -1)
    true = torch.cat([s.gather(-1, index), zeros], -1)
    everything, positive = s.logsumexp(-1), true[..., :-1].logsumexp(-1)
    rest = torch.clamp(1 - (positive - everything).exp(), 1e-7, 1)
    return everything + rest.log() + (-true).logsumexp(-1)


def test_the_peers_formula_fails_where_ours_is_right() -> None:
    for true, exact in ((20.0, math.log(50)), (30.0, math.log(50))):
        s = torch.zeros(1, 50)
        s[0, 7] = true
        index = torch.tensor([[7]])
        x = s.clone().requires_grad_()
        theirs = peers_loss(x, index)
        (gradient,) = torch.autograd.grad(theirs.sum(), x)
        y = s.clone().requires_grad_()
        ours = sparse_zlpr_loss(y, index)
        (right,) = torch.autograd.grad(ours, y)
        assert ours.item() == pytest.approx(exact, rel=1e-6)
        assert right[0, 0].item() == pytest.approx(1 / 50, rel=1e-6)
        assert -1e-8 < right[0, 7].item() < 0
        # Theirs pushes the true class down with full force, and the false ones not at all.
        assert gradient[0, 7].item() > 0.5
        assert abs(gradient[0, 0].item()) < 1e-3
    assert theirs.item() == pytest.approx(13.88, abs=0.01)  # at 30; exact 3.91


def test_padding_and_repetition() -> None:
    s = torch.randn(3, 8)
    index = torch.tensor([[2, 5, 2, -100], [-100, 0, -100, 0], [-100, -100, -100, -100]])
    compare(s, index)
    expected = sparse_zlpr_loss(s, index)
    torch.testing.assert_close(sparse_zlpr_loss(s, index.flip(-1)), expected)
    # The padding may be the number of a class: that class then stays a false one.
    zero = torch.tensor([[2, 5, 0], [0, 0, 0], [0, 0, 0]])
    ignored = torch.tensor([[2, 5, -100], [-100] * 3, [-100] * 3])
    found = sparse_zlpr_loss(s, zero, ignore_index=0)
    torch.testing.assert_close(found, sparse_zlpr_loss(s, ignored))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (3, 5), (2, 2, 5)])
def test_no_labels_at_all(shape: tuple[int, ...]) -> None:
    s = torch.randn(shape, requires_grad=True)
    loss = sparse_zlpr_loss(s, torch.empty(*shape[:-1], 0, dtype=torch.int64))
    loss.backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    torch.testing.assert_close(loss, zlpr_loss(s, torch.zeros(shape)))


def test_masked_and_padded_classes() -> None:
    s = 10 * torch.randn(4, 9)
    index = torch.tensor([[1, 2], [3, -100], [-100, -100], [8, 0]])
    mask = torch.rand(4, 9) < 0.6
    mask[3, 8] = False  # a true class that is masked
    compare(s, index, mask=mask)
    compare(s, index, mask=torch.tensor([[True], [False], [True], [False]]))
    s[:, 4:7] = -math.inf
    s[2] = -math.inf
    compare(s, index)


def test_an_index_out_of_range_is_an_error() -> None:
    for wrong in (5, -1):
        with pytest.raises(IndexError, match="there are 5"):
            sparse_zlpr_loss(torch.zeros(1, 5), torch.tensor([[wrong, -100]]))
    with pytest.raises(ValueError, match="differ"):
        sparse_zlpr_loss(torch.zeros(2, 5), torch.tensor([[0]]))


MEMORY = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {path!r})
from kexue_zlpr.zlpr import sparse_zlpr_loss
torch.set_num_threads(1)
def high_water():  # kB; getrusage would tell the peak of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def textbook(s, index):  # the dense form of post 7359
    y = torch.zeros_like(s).scatter_(-1, index, 1.0)
    s = (1 - 2 * y) * s
    zeros = torch.zeros_like(s[..., :1])
    false = torch.cat([s - y * 1e12, zeros], -1).logsumexp(-1)
    return (false + torch.cat([s - (1 - y) * 1e12, zeros], -1).logsumexp(-1)).mean()
small, index = torch.randn(2, 4, requires_grad=True), torch.randint(4, (2, 3))
for loss in (sparse_zlpr_loss, textbook):
    loss(small, index).backward()  # whatever is allocated once
s, index = torch.randn(8, 1_000_000, requires_grad=True), torch.randint(1_000_000, (8, 20))
peak = [high_water()]
for loss in (sparse_zlpr_loss, textbook):  # a peak never falls: the smaller one comes first
    loss(s, index).backward()
    s.grad = None
    peak.append(high_water() - peak[0])
print(*peak[1:])
"""


def test_a_million_classes_in_half_the_textbook_memory() -> None:
    code = MEMORY.format(path=str(Path(zlpr.__file__).parents[1]))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    ours, textbook = map(int, run.stdout.split())
    assert 0 < ours <= 0.5 * textbook, run.stdout
