"""Contrastive divergence is its formula, and its gradient is that of the likelihood."""

import pytest
import torch
from kexue_ebm.losses import ContrastiveDivergence


@pytest.mark.parametrize("l2", [0.0, 0.1, 1.0])
def test_the_formula(l2: float) -> None:
    data, samples = torch.randn(2, 8, dtype=torch.float64)
    expected = sum(data) / 8 - sum(samples) / 8
    expected += l2 * (sum(e * e for e in data) / 8 + sum(e * e for e in samples) / 8)
    torch.testing.assert_close(ContrastiveDivergence(l2)(data, samples), expected)


def test_the_squared_energies_are_added_on_both_sides() -> None:
    # The post prints a minus between them: it would push the samples' energies away without end.
    loss = ContrastiveDivergence(1.0)
    zero = torch.zeros(4)
    assert loss(zero + 3, zero) == pytest.approx(3 + 9)
    assert loss(zero, zero + 3) == pytest.approx(-3 + 9)


def test_its_gradient_is_that_of_the_likelihood() -> None:
    # Of N(m, 1), U = (x - m)^2 / 2, the log-likelihood's gradient in m is mean(data) - m; the
    # difference of the two expectations gives it where samples are the model's own.
    torch.manual_seed(0)
    m = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    data = torch.randn(50, dtype=torch.float64) + 2
    samples = torch.randn(400_000, dtype=torch.float64) + m.detach()

    def energy(x: torch.Tensor) -> torch.Tensor:
        return (x - m).square() / 2

    (gradient,) = torch.autograd.grad(ContrastiveDivergence(0.0)(energy(data), energy(samples)), m)
    expected = -(data.mean() - m.detach())
    assert gradient.item() == pytest.approx(expected.item(), abs=5 / 400_000**0.5)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="l2"):
        ContrastiveDivergence(-1.0)
