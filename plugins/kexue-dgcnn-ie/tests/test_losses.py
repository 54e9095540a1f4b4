"""The loss against torch's binary cross-entropy in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from kexue_dgcnn_ie.losses import pointer_loss
from torch import Tensor


def parts(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    logits = (4 * torch.randn(50, 6, 2, dtype=torch.float64)).to(dtype).requires_grad_()
    positive = torch.randperm(600)[:40].sort().values
    return logits, positive


def reference(logits: Tensor, positive: Tensor) -> Tensor:
    target = torch.zeros(logits.numel(), dtype=torch.float64)
    target[positive] = 1
    p = torch.sigmoid(logits.double()).clamp(max=1 - 1e-7).flatten()
    return F.binary_cross_entropy(p, target, reduction="sum")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_value_and_gradient(dtype: torch.dtype, tolerance: float) -> None:
    """float32: log(1 - p) of a p that was rounded near 1 is off by some 1e-6."""
    logits, positive = parts(dtype)
    loss = pointer_loss(F.logsigmoid(logits), positive)
    wanted = reference(logits, positive)
    assert loss.item() == pytest.approx(wanted.item(), rel=tolerance)
    (found,) = torch.autograd.grad(loss, logits)
    (slope,) = torch.autograd.grad(wanted, logits)
    assert torch.allclose(found.double(), slope.double(), rtol=100 * tolerance, atol=0)


def test_no_positive_and_nothing_at_all() -> None:
    logits, positive = parts(torch.float64)
    none = positive[:0]
    loss = pointer_loss(F.logsigmoid(logits), none)
    assert float(loss) == pytest.approx(float(reference(logits, none)), rel=1e-9)
    empty = torch.zeros(0, 6, 2, requires_grad=True)
    loss = pointer_loss(empty, none)
    assert float(loss) == 0
    loss.backward()


def test_certainty_costs_no_infinity() -> None:
    log_p = torch.tensor([0.0, 0.0, -200.0, -200.0], requires_grad=True)
    loss = pointer_loss(log_p, torch.tensor([1, 2]))
    # Between 1 - 1e-7 and 1 float32 has but one number.
    assert float(loss) == pytest.approx(-math.log(1e-7) + 200, abs=0.7)
    loss.backward()
    assert log_p.grad is not None
    assert log_p.grad.isfinite().all()


def test_likely_places_are_forgiven_and_positives_are_not() -> None:
    log_p = torch.tensor([0.9, 0.9, 0.2, 0.2]).log().requires_grad_()
    loss = pointer_loss(log_p, torch.tensor([0, 2]), forgive=0.8)
    assert float(loss) == pytest.approx(-math.log(0.9) - math.log(0.2) - math.log(0.8), rel=1e-5)
    (slope,) = torch.autograd.grad(loss, log_p)
    assert slope[1] == 0
    assert slope[0] < 0
