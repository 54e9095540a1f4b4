"""The dense loss: its definition, its precision, its edges, its derivatives."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
import torch
import torch.nn.functional as F
from kexue_zlpr import zlpr
from kexue_zlpr.zlpr import (
    SoftZLPRLoss,
    SparseZLPRLoss,
    ZLPRLoss,
    soft_zlpr_loss,
    sparse_zlpr_loss,
    zlpr_loss,
    zlpr_predict,
    zlpr_prob,
)
from torch import Tensor


def definition(s: Tensor, t: Tensor) -> Tensor:
    """log(1 + sum_N e^s) + log(1 + sum_P e^-s) and nothing else; float64 holds e^+-700."""
    s, true = s.double(), t > 0
    false_sum = torch.where(true, 0.0, s.exp()).sum(-1)
    true_sum = torch.where(true, (-s).exp(), 0.0).sum(-1)
    return false_sum.log1p() + true_sum.log1p()


def slope(s: Tensor, t: Tensor) -> Tensor:
    """The gradient by its formula, in float64."""
    s, true = s.double(), t > 0
    false_terms = torch.where(true, 0.0, s.exp())
    true_terms = torch.where(true, (-s).exp(), 0.0)
    return false_terms / (1 + false_terms.sum(-1, keepdim=True)) - true_terms / (
        1 + true_terms.sum(-1, keepdim=True)
    )


def both(function: object, s: Tensor, *args: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    s = s.detach().clone().requires_grad_()
    loss = function(s, *args, **options)  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(loss.sum(), s)
    return loss.detach(), gradient


def labels(*shape: int, share: float = 0.2) -> Tensor:
    return (torch.rand(*shape) < share).float()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_float64_equals_the_definition() -> None:
    for classes in (1, 2, 17, 1000):
        for deviation in (0.1, 3.0, 30.0):
            s = deviation * torch.randn(8, classes, dtype=torch.float64)
            t = labels(8, classes)
            loss, gradient = both(zlpr_loss, s, t, reduction="none")
            torch.testing.assert_close(loss, definition(s, t), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(gradient, slope(s, t), rtol=1e-12, atol=1e-12)


def test_float64_equals_a_hundred_digits_beyond_the_range_of_exp() -> None:
    s = torch.tensor([[900.0, -1200.0, 3.0, -750.0, 20.0], [-5.0, 1000.0, 999.0, -600.0, 1e9]])
    t = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 0, 0, 1]])
    mpmath.mp.dps = 100
    for row, target in zip(s.tolist(), t.tolist(), strict=True):
        false = sum(mpmath.exp(x) for x, y in zip(row, target, strict=True) if not y)
        true = sum(mpmath.exp(-x) for x, y in zip(row, target, strict=True) if y)
        exact = float(mpmath.log(1 + false) + mpmath.log(1 + true))
        one = torch.tensor([row], dtype=torch.float64)
        found = zlpr_loss(one, torch.tensor([target]))
        assert found.item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("classes", [1, 3, 100, 5000, 50_000])
def test_float32_is_right_to_a_millionth_over_the_whole_range(classes: int) -> None:
    # Uniform, confident on both sides, and one extreme logit among small ones.
    rows = [
        torch.empty(4, classes).uniform_(-80, 80),
        torch.empty(4, classes).uniform_(-80, -70),
        torch.empty(4, classes).uniform_(70, 80),
        torch.empty(4, classes).uniform_(-12, 12),
        torch.empty(4, classes).uniform_(-80, -79).index_fill_(1, torch.tensor([0]), 80.0),
    ]
    for s in rows:
        for share in (0.0, 0.005, 0.5, 1.0):
            t = labels(4, classes, share=share)
            for run in (zlpr_loss, _by_autograd):
                loss, gradient = both(run, s, t, reduction="none")
                exact = definition(s, t)
                torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-30)
                exact = slope(s, t)
                torch.testing.assert_close(gradient.double(), exact, rtol=1e-6, atol=1e-30)


def _by_autograd(s: Tensor, t: Tensor, **_: object) -> Tensor:
    """What is compiled and differentiated twice."""
    return zlpr._dense(s, t)


def test_the_smallest_losses_do_not_vanish() -> None:
    # Appending a 0 to a logsumexp, the usual recipe, gives 0.0 here.
    loss, gradient = both(zlpr_loss, torch.tensor([[-80.0]]), torch.tensor([[0.0]]))
    assert loss.item() == pytest.approx(math.exp(-80), rel=1e-6, abs=0)
    assert gradient.item() == pytest.approx(math.exp(-80), rel=1e-6, abs=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    s = torch.empty(4, 3000).uniform_(-1, 1) * torch.finfo(torch.float16).max
    s, t = s.to(dtype), labels(4, 3000)
    loss, gradient = both(zlpr_loss, s, t, reduction="none")
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert loss.isfinite().all()
    assert loss.max() > 65_504
    assert gradient.isfinite().all()
    torch.testing.assert_close(loss, zlpr_loss(s.double(), t, reduction="none").float())


def test_one_class_is_binary_cross_entropy() -> None:
    s, t = torch.empty(500, 1, dtype=torch.float64).uniform_(-50, 50), labels(500, 1, share=0.5)
    loss, gradient = both(zlpr_loss, s, t, reduction="none")
    expected, slope_ = both(
        lambda x: F.binary_cross_entropy_with_logits(x, t.double(), reduction="none"), s
    )
    torch.testing.assert_close(loss, expected.squeeze(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, slope_, rtol=1e-12, atol=1e-12)


def test_it_is_cross_entropy_without_the_cross_terms() -> None:
    # BCE is log(prod_i (1 + e^s_i)); leaving out products of two and more exponentials gives ZLPR.
    s = torch.full((1, 2), -9.0, dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits(s, torch.zeros_like(s), reduction="sum")
    cross = math.log((1 + math.exp(-9)) ** 2 / (1 + 2 * math.exp(-9)))
    assert zlpr_loss(s, torch.zeros_like(s)).item() == pytest.approx(bce.item() - cross, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_no_and_only_true_classes(value: float) -> None:
    s, t = torch.randn(5, 7), torch.full((5, 7), value)
    loss, gradient = both(zlpr_loss, s, t, reduction="none")
    signed = s if value == 0 else -s
    torch.testing.assert_close(loss, F.softplus(signed.logsumexp(-1)))
    assert (gradient > 0).all() if value == 0 else (gradient < 0).all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (2, 0, 4)])
def test_empty_input_costs_nothing(shape: tuple[int, ...]) -> None:
    loss, gradient = both(zlpr_loss, torch.randn(shape), torch.zeros(shape))
    assert loss.item() == 0
    assert gradient.shape == shape
    assert zlpr_loss(torch.randn(shape), torch.zeros(shape), reduction="none").shape == shape[:-1]


@pytest.mark.parametrize("scale", [1.0, 60.0])  # within one block, with and without a shift
def test_a_mask_is_as_if_the_masked_were_not_there(scale: float) -> None:
    s, t = scale * torch.randn(6, 9), labels(6, 9)
    mask = torch.rand(6, 9) < 0.6
    mask[2] = False
    s = torch.where(mask, s, torch.tensor(math.nan))
    loss, gradient = both(zlpr_loss, s, t, mask=mask, reduction="none")
    for i in range(6):
        kept = mask[i]
        if not kept.any():
            assert loss[i] == 0
            assert (gradient[i] == 0).all()
            continue
        alone, its = both(zlpr_loss, s[i, kept], t[i, kept], reduction="none")
        torch.testing.assert_close(loss[i], alone)
        torch.testing.assert_close(gradient[i, kept], its)
        assert (gradient[i, ~kept] == 0).all()
    mean = zlpr_loss(s, t, mask=mask)
    torch.testing.assert_close(mean, loss.sum() / 5)  # the row without classes does not count
    rows = torch.tensor([True, False, True, True, True, True]).unsqueeze(-1)
    clean = torch.randn(6, 9)
    expected = zlpr_loss(clean[rows.squeeze(-1)], t[rows.squeeze(-1)])
    torch.testing.assert_close(zlpr_loss(clean, t, mask=rows), expected)
    assert zlpr_loss(clean, t, mask=torch.zeros(6, 1, dtype=torch.bool)) == 0


@pytest.mark.parametrize("fill", [-math.inf, -1e12])
def test_padding_below_all_logits_costs_nothing(fill: float) -> None:
    s, t = torch.randn(4, 6), labels(4, 6)
    padded = torch.cat([torch.full((4, 5), fill), s], -1)
    loss, gradient = both(zlpr_loss, padded, F.pad(t, (5, 0)), reduction="none")
    expected, its = both(zlpr_loss, s, t, reduction="none")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, F.pad(its, (5, 0)))
    assert (gradient[:, :5] == 0).all()
    empty, none = both(zlpr_loss, torch.full((2, 8), fill), torch.zeros(2, 8), reduction="none")
    assert (empty == 0).all()
    assert (none == 0).all()


def test_a_hopeless_true_class_costs_infinity() -> None:
    s = torch.tensor([[-math.inf, 0.0], [-1e12, 0.0]])
    loss, gradient = both(zlpr_loss, s, torch.tensor([[1.0, 0.0]] * 2), reduction="none")
    assert loss[0] == math.inf
    assert loss[1] == pytest.approx(1e12)
    assert gradient[:, 0].tolist() == [-1, -1]


def test_nan_is_not_hidden() -> None:
    s, t = torch.randn(2, 4), labels(2, 4)
    s[0, 1] = math.nan
    loss = zlpr_loss(s, t, reduction="none")
    assert loss[0].isnan()
    assert not loss[1].isnan()


def test_span_scores_by_two_dimensions() -> None:
    s, t = torch.randn(2, 3, 5, 5), labels(2, 3, 5, 5)
    loss = zlpr_loss(s, t, dim=(-2, -1), reduction="none")
    torch.testing.assert_close(loss, zlpr_loss(s.flatten(-2), t.flatten(-2), reduction="none"))
    first = zlpr_loss(s.movedim(-1, 1), t.movedim(-1, 1), dim=1, reduction="none")
    torch.testing.assert_close(first, zlpr_loss(s, t, reduction="none"))


def test_threshold_moves_the_logit_between_true_and_false() -> None:
    s, t = torch.randn(4, 6), labels(4, 6)
    torch.testing.assert_close(zlpr_loss(s + 2.5, t, threshold=2.5), zlpr_loss(s, t))
    assert torch.equal(zlpr_predict(s + 2.5, threshold=2.5), zlpr_predict(s))
    assert not zlpr_predict(torch.tensor([-math.inf, 0.0])).any()


def test_first_and_second_derivatives() -> None:
    for scale in (1.0, 60.0):
        s = (scale * torch.randn(3, 5, dtype=torch.float64)).requires_grad_()
        t, mask = labels(3, 5), torch.rand(3, 5) < 0.8
        index = torch.tensor([[0, 3], [2, -100], [-100, -100]])
        for call in (
            lambda x: zlpr_loss(x, t, mask=mask, reduction="none"),  # noqa: B023
            lambda x: sparse_zlpr_loss(x, index, reduction="none"),  # noqa: B023
        ):
            assert torch.autograd.gradcheck(call, (s,))
            assert torch.autograd.gradgradcheck(call, (s,))


def test_a_retained_graph_gives_its_gradient_again() -> None:
    s, t = torch.randn(4, 6, requires_grad=True), labels(4, 6)
    loss = zlpr_loss(s, t)
    (first,) = torch.autograd.grad(loss, s, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, s)
    torch.testing.assert_close(second, 3 * first)


def test_without_gradients_the_loss_is_the_same() -> None:
    s, t = 30 * torch.randn(4, 6, requires_grad=True), labels(4, 6)
    index = torch.tensor([[0], [1], [-100], [2]])
    for loss in (zlpr_loss(s, t), sparse_zlpr_loss(s, index)):
        assert loss.requires_grad
    with torch.no_grad():
        assert zlpr_loss(s, t) == zlpr_loss(s.detach(), t)
        assert sparse_zlpr_loss(s, index) == sparse_zlpr_loss(s.detach(), index)
    torch.testing.assert_close(zlpr_loss(s, t).detach(), zlpr_loss(s.detach(), t))


def test_block_size_and_layout_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    s, t = 20 * torch.randn(33, 40), labels(33, 40)
    expected = both(zlpr_loss, s, t, reduction="none")
    strided = both(zlpr_loss, s.T.contiguous().T, t, reduction="none")
    monkeypatch.setattr(zlpr, "BLOCK", 100)
    for found in (strided, both(zlpr_loss, s, t, reduction="none")):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "backend",
    # The first traces forward and backward in a second; the second also calls the C++ compiler.
    ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)],
)
def test_compiles_into_one_graph(backend: str) -> None:
    def total(s: Tensor, t: Tensor, index: Tensor) -> Tensor:
        return zlpr_loss(s, t) + sparse_zlpr_loss(s, index) + soft_zlpr_loss(s, t / 3)

    index = torch.tensor([[1, 4, 4], [0, -100, -100], [-100, -100, -100]])
    s, t = 40 * torch.randn(3, 11), labels(3, 11)
    expected = both(total, s, t, index)
    found = both(torch.compile(total, fullgraph=True, backend=backend), s, t, index)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_arguments_are_checked() -> None:
    s = torch.randn(2, 3)
    with pytest.raises(ValueError, match="differ"):
        zlpr_loss(s, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="reduction"):
        zlpr_loss(s, torch.zeros(2, 3), reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction"):
        ZLPRLoss(reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="soft"):
        zlpr_prob(s, loss="medium")  # type: ignore[arg-type]


def test_modules_are_the_functions() -> None:
    s, t = torch.randn(4, 3), labels(4, 3)
    mask = torch.rand(4, 3) < 0.7
    assert ZLPRLoss("sum", threshold=0.5)(s, t, mask) == zlpr_loss(
        s, t, mask=mask, reduction="sum", threshold=0.5
    )
    assert SoftZLPRLoss()(s, t) == zlpr_loss(s, t)
    index = torch.tensor([[0], [1], [-1], [2]])
    loss = SparseZLPRLoss(ignore_index=-1)
    assert loss(s, index) == sparse_zlpr_loss(s, index, ignore_index=-1)
    assert repr(loss) == "SparseZLPRLoss(reduction='mean', ignore_index=-1)"


def test_runs_copied_out_alone(tmp_path: Path) -> None:
    source = Path(zlpr.__file__).read_text(encoding="utf-8")
    (tmp_path / "zlpr.py").write_text(source, encoding="utf-8")
    code = (
        f"import sys; sys.path.append({str(Path(torch.__file__).parents[1])!r})\n"
        "import torch, zlpr\n"
        "s = torch.randn(2, 3, requires_grad=True)\n"
        "zlpr.ZLPRLoss()(s, torch.ones(2, 3)).backward()\n"
        "assert not [m for m in sys.modules if m.startswith('kexue')]\n"
    )
    subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        check=True,
        env={},
    )
