"""Precision, recall, density and coverage against loops, known cases and an exact expectation."""

import math

import kexue_metrics.neighbours
import pytest
import torch
from kexue_metrics import density_coverage, precision_recall


def radius(x: torch.Tensor, i: int, k: int) -> float:
    """Distance of x[i] to its k-th nearest other row."""
    return sorted(math.dist(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]


def by_loops(real: torch.Tensor, fake: torch.Tensor, k: int) -> tuple[float, float, float, float]:
    """Eqs. 1-2 of Kynkaanniemi et al. and eqs. 3-4 of Naeem et al., ball by ball."""
    a, b = real.tolist(), fake.tolist()
    n, m = len(a), len(b)
    ra = [radius(real, i, k) for i in range(n)]
    rb = [radius(fake, j, k) for j in range(m)]
    inside = [[math.dist(a[i], b[j]) <= ra[i] for j in range(m)] for i in range(n)]
    precision = sum(any(inside[i][j] for i in range(n)) for j in range(m)) / m
    recall = sum(any(math.dist(a[i], b[j]) <= rb[j] for j in range(m)) for i in range(n)) / n
    density = sum(map(sum, inside)) / (k * m)
    coverage = sum(any(row) for row in inside) / n
    return precision, recall, density, coverage


@pytest.mark.parametrize("shape", [(12, 9, 2), (30, 40, 5), (25, 25, 1)])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("chunk", [4, 1024])
def test_they_are_what_the_papers_say(shape, k, chunk, monkeypatch):
    n, m, d = shape
    monkeypatch.setattr(kexue_metrics.neighbours, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(n + k)
    real = torch.randn(n, d, generator=generator, dtype=torch.float64)
    fake = torch.randn(m, d, generator=generator, dtype=torch.float64) * 1.5 + 0.3
    found = (*precision_recall(real, fake, k=k), *density_coverage(real, fake, k=k))
    assert found == pytest.approx(by_loops(real, fake, k), abs=1e-12)


def test_copies_and_strangers():
    torch.manual_seed(0)
    real = torch.randn(50, 4)
    copy = real[torch.randperm(50)]
    assert precision_recall(real, copy) == (1.0, 1.0)
    assert density_coverage(real, copy).coverage == 1.0
    far = real + 100
    assert precision_recall(real, far) == (0.0, 0.0)
    assert density_coverage(real, far) == (0.0, 0.0)
    # Far from the origin the distances are as good: they are taken from the mean.
    assert precision_recall(real.double() + 1e6, copy.double() + 1e6) == (1.0, 1.0)


def test_a_ball_is_closed_even_where_its_radius_is_zero():
    real = torch.rand(3, 7).repeat_interleave(6, 0)  # six copies of each: every radius is 0
    assert precision_recall(real, real.flip(0)) == (1.0, 1.0)
    # Every fake sample lies in the six balls of its copies.
    assert density_coverage(real, real.flip(0), k=5) == (6 / 5, 1.0)
    assert precision_recall(real, real + 1e-3) == (0.0, 0.0)


def test_what_is_left_out_costs_recall_and_what_is_made_up_precision():
    torch.manual_seed(0)
    left, right = torch.randn(200, 3), torch.randn(200, 3) + 50
    both = torch.cat([left, right])
    other = torch.cat([torch.randn(200, 3), torch.randn(200, 3) + 50])
    dropped = precision_recall(both, other[:200])
    assert dropped.precision > 0.9
    assert dropped.recall <= 0.5
    assert density_coverage(both, other[:200]).coverage <= 0.5
    invented = precision_recall(left, other)
    assert invented.precision <= 0.5
    assert invented.recall > 0.9


def test_density_is_not_moved_by_an_outlier_that_precision_trusts():
    # Naeem et al., figure 1: the ball of one far real sample takes in all fake ones.
    torch.manual_seed(0)
    real = torch.cat([torch.randn(99, 2), torch.tensor([[100.0, 0.0]])])
    fake = torch.randn(100, 2) + torch.tensor([50.0, 0.0])
    assert precision_recall(real, fake, k=5).precision == 1.0
    assert density_coverage(real, fake, k=5).density == pytest.approx(0.2)  # one ball over k


def test_expectations_for_equal_distributions():
    # Naeem et al., appendix: E density = 1, E coverage = 1 - prod (N - i) / (2N - i), i = 1..k
    # with M = N samples of any one continuous distribution (there: (N-1)...(N-k) over
    # (2N-1)...(2N-k)). 300 draws give their means to about 0.003.
    torch.manual_seed(0)
    n, k = 40, 3
    found = [density_coverage(torch.randn(n, 5), torch.randn(n, 5), k=k) for _ in range(300)]
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert sum(f.coverage for f in found) / 300 == pytest.approx(expected, abs=0.012)
    assert sum(f.density for f in found) / 300 == pytest.approx(1, abs=0.04)


def test_what_does_not_fit_is_said():
    x = torch.rand(4, 2)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        precision_recall(x, x, k=0)
    with pytest.raises(ValueError, match="k=4 needs at least 5 real samples, not 4"):
        density_coverage(x, x, k=4)
    with pytest.raises(ValueError, match="k=3 needs at least 4 fake samples, not 3"):
        precision_recall(x, x[:3], k=3)
    assert density_coverage(x, x[:1], k=3).coverage > 0  # of fake samples one is enough
