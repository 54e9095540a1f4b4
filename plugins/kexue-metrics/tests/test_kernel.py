"""The kernel distance against loops over pairs and torchmetrics."""

import kexue_metrics.kernel
import pytest
import torch
from kexue_metrics import kernel_distance


def by_loops(a: torch.Tensor, b: torch.Tensor) -> float:
    """Eq. 4 of Binkowski et al., pair by pair."""

    def k(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    n, m = len(a), len(b)
    aa = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j)
    bb = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j)
    ab = sum(k(x, y) for x in a for y in b)
    return aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (7, 11, 3), (20, 5, 8)])
@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_it_is_the_mean_over_pairs(n, m, d, chunk, monkeypatch):
    monkeypatch.setattr(kexue_metrics.kernel, "CHUNK", chunk)
    a, b = torch.randn(n, d, dtype=torch.float64), 2 * torch.randn(m, d, dtype=torch.float64) + 1
    assert kernel_distance(a, b) == pytest.approx(by_loops(a, b), rel=1e-12)


def test_it_is_unbiased():
    # Of 400 estimates from one distribution the mean is 0 up to four of its standard errors.
    torch.manual_seed(0)
    found = torch.tensor(
        [kernel_distance(torch.randn(20, 4), torch.randn(30, 4)) for _ in range(400)]
    )
    assert abs(float(found.mean())) < 4 * float(found.std()) / 20
    assert (found < 0).any()
    assert (found > 0).any()


def test_what_differs_is_told_from_what_does_not():
    torch.manual_seed(0)
    a, b, c = torch.randn(500, 8), torch.randn(500, 8), torch.randn(500, 8) * 1.3
    assert kernel_distance(a, c) > 10 * abs(kernel_distance(a, b))


def test_subsets_are_those_of_the_seed():
    torch.manual_seed(0)
    a, b = torch.randn(60, 4), torch.randn(50, 4) + 0.5
    drawn = kernel_distance(a, b, subsets=4, subset_size=20, seed=1)
    assert drawn == kernel_distance(a, b, subsets=4, subset_size=20, seed=1)
    assert drawn != kernel_distance(a, b, subsets=4, subset_size=20, seed=2)
    # The mean over many subsets tends to the estimate over all pairs.
    many = kernel_distance(a, b, subsets=2000, subset_size=20)
    assert many == pytest.approx(kernel_distance(a, b), rel=0.05)
    assert kernel_distance(a, b[:50], subsets=1, subset_size=50) != kernel_distance(a, b)
    same_size = kernel_distance(a[:50], b, subsets=1, subset_size=50)
    assert same_size == pytest.approx(kernel_distance(a[:50], b), rel=1e-10)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_torchmetrics_agrees():
    from torchmetrics.image.kid import KernelInceptionDistance

    class Flat(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)

    a, b = torch.rand(90, 3, 2, 2), torch.rand(90, 3, 2, 2) ** 2
    theirs = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=90, normalize=True)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    # Theirs sums 8,100 float32 numbers near 2, so about 1e-6 of them is rounding.
    ours = kernel_distance(a.flatten(1), b.flatten(1))
    assert ours == pytest.approx(float(theirs.compute()[0]), abs=2e-6)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="at least 2 samples"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    for subsets, size in ((0, 3), (1, 6), (1, 1)):
        with pytest.raises(ValueError, match=f"cannot draw {subsets} subsets of {size} from 5"):
            kernel_distance(torch.zeros(5, 3), torch.zeros(9, 3), subsets=subsets, subset_size=size)
