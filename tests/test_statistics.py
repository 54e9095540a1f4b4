"""Statistics shared by the plugins, compared with their definitions."""

import pytest
import torch

from kexue_core.statistics import area_under_curve, frechet_distance


def test_the_distance_of_known_gaussians() -> None:
    torch.manual_seed(0)
    a = torch.randn(4000, 5, dtype=torch.float64)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(5 * 4, rel=1e-9)
    # A scaled copy: (s_a - s_b)^2 a dimension, and the mean moves too.
    expected = 4 * (a.var(0).sum() + a.mean(0).square().sum())
    assert frechet_distance(a, 3 * a) == pytest.approx(expected.item(), rel=1e-9)


def test_the_distance_equals_the_formula_with_the_square_root_taken() -> None:
    torch.manual_seed(1)
    a, b = torch.randn(60, 4), torch.randn(50, 4) @ torch.randn(4, 4) + 1
    product = torch.cov(a.double().mT) @ torch.cov(b.double().mT)
    root = torch.linalg.eigvals(product).sqrt().real.sum()
    expected = (a.double().mean(0) - b.double().mean(0)).square().sum()
    expected = expected + a.double().var(0).sum() + b.double().var(0).sum() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-10)


def test_area_under_curve_counts_pairs() -> None:
    torch.manual_seed(0)
    positive, negative = torch.randint(6, (40,)).float(), torch.randint(5, (30,)).float()
    pairs = positive[:, None] - negative[None]
    expected = (pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean()
    assert area_under_curve(positive, negative) == pytest.approx(expected.item())
    assert area_under_curve(torch.tensor([2.0]), torch.tensor([1.0])) == 1
    assert area_under_curve(torch.ones(3), torch.ones(4)) == 0.5
    apart = torch.arange(20_000.0)  # a sum of ranks beyond float32
    assert area_under_curve(apart[10_000:], apart[:10_000]) == 1
    assert area_under_curve(apart[:10_000], apart[10_000:]) == 0
