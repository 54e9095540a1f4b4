"""Soft labels: the definition, the optimum sigmoid(2 s), exact 0 and 1."""

from __future__ import annotations

import math

import pytest
import torch
from kexue_zlpr.zlpr import soft_zlpr_loss, zlpr_loss, zlpr_prob
from torch import Tensor


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def definition(s: Tensor, t: Tensor) -> Tensor:
    s, t = s.double(), t.double()
    return ((1 - t) * s.exp()).sum(-1).log1p() + (t * (-s).exp()).sum(-1).log1p()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_definition(dtype: torch.dtype) -> None:
    rtol = 1e-12 if dtype == torch.float64 else 1e-6
    for span in (1.0, 30.0, 80.0):
        s = torch.empty(8, 300, dtype=dtype).uniform_(-span, span).requires_grad_()
        t = torch.rand(8, 300, dtype=dtype)
        t[0], t[1], t[2, :5], t[3, 5:] = 0, 1, 1e-12, 0
        loss = soft_zlpr_loss(s, t, reduction="none")
        torch.testing.assert_close(loss.double(), definition(s, t), rtol=rtol, atol=1e-30)
        exact = s.detach().double().requires_grad_()
        (expected,) = torch.autograd.grad(definition(exact, t).sum(), exact)
        (found,) = torch.autograd.grad(loss.sum(), s)
        torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=2 * rtol)


def test_hard_labels_give_the_hard_loss_exactly() -> None:
    s = 30 * torch.randn(6, 40, dtype=torch.float64)
    t = (torch.rand(6, 40) < 0.2).double()
    torch.testing.assert_close(soft_zlpr_loss(s, t), zlpr_loss(s, t), rtol=1e-14, atol=0)
    # No clipping: certainty about a certain label costs nothing at all.
    s = torch.tensor([[-math.inf, 5.0]], requires_grad=True)
    loss = soft_zlpr_loss(s, torch.tensor([[0.0, 1.0]]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-5)), rel=1e-6)
    loss.backward()
    assert s.grad is not None
    assert s.grad[0, 0] == 0
    assert s.grad.isfinite().all()


@pytest.mark.parametrize("classes", [1, 5, 40])
def test_the_optimum_is_sigmoid_of_twice_the_logit(classes: int) -> None:
    t = torch.empty(3, classes, dtype=torch.float64).uniform_(0.02, 0.98)
    s = torch.zeros_like(t).requires_grad_()
    optimizer = torch.optim.LBFGS([s], max_iter=500, tolerance_grad=1e-12, tolerance_change=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = soft_zlpr_loss(s, t, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call, arg-type]
    torch.testing.assert_close(zlpr_prob(s.detach()), t, rtol=0, atol=1e-6)
    # Exactly there the gradient is zero.
    s = (torch.logit(t) / 2).requires_grad_()
    (gradient,) = torch.autograd.grad(soft_zlpr_loss(s, t, reduction="sum"), s)
    assert gradient.abs().max() < 1e-14


def test_probabilities_name_the_loss_they_invert() -> None:
    s = torch.randn(7)
    assert torch.equal(zlpr_prob(s), torch.sigmoid(2 * s))
    assert torch.equal(zlpr_prob(s, loss="hard"), torch.sigmoid(s))


def test_label_smoothing_masks_and_dimensions() -> None:
    s, t = torch.randn(3, 4, 4), torch.rand(3, 4, 4)
    smooth = soft_zlpr_loss(s, t, label_smoothing=0.1, dim=(-2, -1))
    torch.testing.assert_close(smooth, soft_zlpr_loss(s.flatten(1), 0.9 * t.flatten(1) + 0.05))
    mask = torch.rand(3, 4, 4) < 0.5
    mask[1] = False
    broken = torch.where(mask, s, math.nan).requires_grad_()
    loss = soft_zlpr_loss(broken, t, mask=mask, dim=(1, 2), label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(loss, broken)
    alone = [
        soft_zlpr_loss(s[i][mask[i]], t[i][mask[i]], label_smoothing=0.1, reduction="none")
        for i in (0, 2)
    ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    assert (gradient[~mask] == 0).all()
    with pytest.raises(ValueError, match="label_smoothing"):
        soft_zlpr_loss(s, t, label_smoothing=2.0)


def test_teachers_get_a_gradient_too() -> None:
    s = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    t = torch.rand(2, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(soft_zlpr_loss, (s, t))
    assert torch.autograd.gradgradcheck(soft_zlpr_loss, (s, t))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    s = (60_000 * torch.randn(4, 50).clamp(-1, 1)).to(dtype).requires_grad_()
    loss = soft_zlpr_loss(s, torch.rand(4, 50).to(dtype))
    loss.backward()
    assert s.grad is not None
    assert loss.isfinite()
    assert s.grad.isfinite().all()
