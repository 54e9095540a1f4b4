"""The losses that ZLPR is compared with, and span scores."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from kexue_zlpr import (
    asymmetric_loss,
    bce_loss,
    focal_loss,
    mask_spans,
    span_index,
    spans_above,
    sparse_zlpr_loss,
    zlpr_loss,
)

LOSSES = [bce_loss, focal_loss, asymmetric_loss, zlpr_loss]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_each_is_its_formula() -> None:
    s = torch.randn(6, 5, dtype=torch.float64)
    t = (torch.rand(6, 5) < 0.4).double()
    p = torch.sigmoid(s)
    true, false = t * -p.log(), (1 - t) * -(1 - p).log()
    weight = torch.rand(5, dtype=torch.float64)
    for found, expected in (
        (bce_loss(s, t, reduction="none"), true + false),
        (bce_loss(s, t, pos_weight=weight, reduction="none"), weight * true + false),
        (
            focal_loss(s, t, reduction="none"),
            0.25 * (1 - p) ** 2 * true + 0.75 * p**2 * false,
        ),
        (focal_loss(s, t, gamma=0, alpha=None, reduction="none"), true + false),
        (asymmetric_loss(s, t, gamma_neg=0, margin=0, reduction="none"), true + false),
        (
            asymmetric_loss(s, t, gamma_pos=1, reduction="none"),
            (1 - p) * true
            + (1 - t) * (p - 0.05).clamp(min=0) ** 4 * -(1 - (p - 0.05).clamp(min=0)).log(),
        ),
    ):
        torch.testing.assert_close(found, expected.sum(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_they_share_one_call(loss: object, dtype: torch.dtype) -> None:
    assert callable(loss)
    s = (40 * torch.randn(5, 2, 3)).to(dtype)
    t = (torch.rand(5, 2, 3) < 0.4).to(dtype)
    each = loss(s, t, reduction="none")
    assert each.shape == (5, 2)
    torch.testing.assert_close(loss(s, t), each.mean())
    torch.testing.assert_close(loss(s, t, reduction="sum"), each.sum())
    torch.testing.assert_close(loss(s, t, dim=(1, 2), reduction="none").shape, torch.Size([5]))
    mask = torch.ones(5, 2, 3, dtype=torch.bool)
    mask[0, 0] = False
    x = s.clone()
    x[0, 0] = math.nan
    x = x.requires_grad_()
    masked = loss(x, t, mask=mask)
    torch.testing.assert_close(masked, (each.sum() - each[0, 0]) / 9)
    masked.backward()
    assert x.grad.isfinite().all()
    padded = F.pad(s, (0, 2), value=-math.inf).requires_grad_()
    loss(padded, F.pad(t, (0, 2))).backward()
    torch.testing.assert_close(loss(padded, F.pad(t, (0, 2))), each.mean())
    assert padded.grad.isfinite().all()
    assert loss(s[:0], t[:0]) == 0
    with pytest.raises(ValueError, match="reduction"):
        loss(s, t, reduction="avg")
    with pytest.raises(ValueError, match="differ"):
        loss(s, t[:1])


def test_span_scores_dense_and_sparse() -> None:
    spans = [(0, 0, 0, 2), (0, 1, 1, 1), (1, 0, 3, 3)]  # sample, type, start, end
    scores = torch.randn(2, 2, 5, 5).requires_grad_()
    tokens = torch.tensor([[True] * 5, [True] * 4 + [False]])
    labels = torch.zeros(2, 2, 5, 5)
    start, end = (torch.full((2, 2, 3), -100) for _ in range(2))
    for sample, kind, first, last in spans:
        labels[sample, kind, first, last] = 1
        start[sample, kind, 0], end[sample, kind, 0] = first, last
    masked = mask_spans(scores, tokens)
    dense = zlpr_loss(masked, labels, dim=(-2, -1))
    sparse = sparse_zlpr_loss(masked.flatten(-2), span_index(start, end, 5))
    torch.testing.assert_close(sparse, dense)
    (gradient,) = torch.autograd.grad(dense, scores)
    assert gradient.isfinite().all()
    assert (gradient[masked == -math.inf] == 0).all()
    perfect = mask_spans(2 * labels - 1, tokens)
    assert spans_above(perfect) == spans
    assert (mask_spans(scores)[..., 3, 2] == -math.inf).all()
