"""The Frechet distance against closed forms, a slow reference and torchmetrics."""

import numpy as np
import pytest
import torch
from kexue_metrics import frechet_distance

RNG = np.random.default_rng(0)


def gaussian(n: int, mean: np.ndarray, factor: np.ndarray) -> torch.Tensor:
    """A sample whose mean and unbiased covariance ARE ``mean`` and ``factor^T factor``."""
    x = RNG.standard_normal((n, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (n - 1)).T)
    return torch.from_numpy(white @ factor + mean)


def by_eigenvalues(a: torch.Tensor, b: torch.Tensor) -> float:
    """Eq. 6 of Heusel et al. term by term: tr (Ca Cb)^1/2 is a sum of roots of eigenvalues."""
    x, y = a.double().numpy(), b.double().numpy()
    ca, cb = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(ca @ cb).astype(complex)).real
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(mean + np.trace(ca) + np.trace(cb) - 2 * roots.sum())


@pytest.mark.parametrize("d", [1, 3, 16])
def test_covariances_that_commute_have_a_closed_form(d):
    # |m|^2 + sum (s - t)^2 with the standard deviations s, t along the common axes.
    s, t, m = RNG.uniform(0.2, 2, d), RNG.uniform(0.2, 2, d), RNG.standard_normal(d)
    axes = np.linalg.qr(RNG.standard_normal((d, d)))[0]
    a = gaussian(50, np.zeros(d), np.diag(s) @ axes)
    b = gaussian(80, m, np.diag(t) @ axes)
    expected = (m**2).sum() + ((s - t) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_any_covariances_agree_with_the_eigenvalues_of_their_product():
    for _ in range(5):
        a = torch.from_numpy(RNG.standard_normal((60, 8)) @ RNG.standard_normal((8, 8)))
        b = torch.from_numpy(RNG.standard_normal((40, 8)) @ RNG.standard_normal((8, 8)) + 1)
        assert frechet_distance(a, b) == pytest.approx(by_eigenvalues(a, b), rel=1e-8)


def test_it_is_a_squared_metric_of_gaussians():
    a = torch.from_numpy(RNG.standard_normal((40, 6)))
    b = torch.from_numpy(RNG.standard_normal((30, 6)) * 2 + 1)
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-12)
    # Of terms of size 36 that cancel, 1e-12 is what float64 leaves.
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-12)
    turn = torch.linalg.qr(torch.from_numpy(RNG.standard_normal((6, 6))))[0]
    assert frechet_distance(a @ turn + 3, b @ turn + 3) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-12)
    assert frechet_distance(a, a + 2) == pytest.approx(6 * 4, rel=1e-12)


def test_fewer_samples_than_dimensions_are_no_special_case():
    a = torch.from_numpy(RNG.standard_normal((5, 12)))
    b = torch.from_numpy(RNG.standard_normal((7, 12)))
    # The reference takes roots of eigenvalues that are 0 up to rounding: good to 1e-6 only.
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues(a, b), abs=1e-5)
    dead = torch.cat([a, torch.zeros(5, 3)], 1), torch.cat([b, torch.zeros(7, 3)], 1)
    assert frechet_distance(*dead) == pytest.approx(frechet_distance(a, b), rel=1e-12)


def test_float32_features_far_from_zero_keep_their_digits():
    a = torch.from_numpy(RNG.standard_normal((200, 4))).float()
    b = torch.from_numpy(RNG.standard_normal((200, 4))).float()
    far = frechet_distance(a.double() + 1e6, b.double() + 1e6)
    assert far == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_torchmetrics_agrees():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1)

    a, b = torch.rand(200, 3, 2, 2), torch.rand(150, 3, 2, 2) ** 2
    theirs = FrechetInceptionDistance(feature=Flat(), normalize=True)
    theirs.set_dtype(torch.float64)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    # They accumulate raw second moments and take eigenvalues of a product.
    ours = frechet_distance(a.flatten(1), b.flatten(1))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (torch.zeros(3), torch.zeros(3, 2), r"shape \(n, D\)"),
        (torch.zeros(1, 2), torch.zeros(3, 2), "at least 2 samples, not 1"),
        (torch.zeros(3, 2), torch.zeros(3, 4), "2 dimensions here and 4 there"),
        (torch.zeros(3, 2), torch.full((3, 2), torch.nan), "NaN or infinity"),
        (torch.zeros(3, 0), torch.zeros(3, 0), r"shape \(n, D\)"),
    ],
)
def test_what_does_not_fit_is_said(a, b, said):
    with pytest.raises(ValueError, match=said):
        frechet_distance(a, b)
