"""The toys' densities are normalised, their samples follow them, and the yardsticks are right."""

import pytest
import torch
from kexue_ebm.experiments import (
    GAUSSIAN,
    HALF,
    POINTS,
    TWO_MODES,
    biased_covariance,
    divergence,
    moment_match,
    on_grid,
)
from kexue_ebm.toys import TOYS, GaussianMixture, kolmogorov_distance, standard_errors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TOYS)
def test_densities_integrate_to_one(name: str) -> None:
    side = (torch.arange(POINTS) + 0.5) / POINTS * 2 * HALF - HALF
    x = torch.cartesian_prod(side, side)
    total = (-TOYS[name]().energy(x).double()).exp().sum() * (2 * HALF / POINTS) ** 2
    assert total.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_samples_follow_their_density(name: str) -> None:
    # A histogram of 16 cells against the mass of the density in them, by chi-squared.
    toy, n = TOYS[name](), 20_000
    x = toy.draw(n, generator())
    assert (x.abs() > HALF).any(1).double().mean() <= 1e-4
    cells = ((x + HALF) / (2 * HALF) * 4).long().clamp(0, 3)
    found = (cells[:, 0] * 4 + cells[:, 1]).bincount(minlength=16).double()
    mass = on_grid(toy).exp().view(4, POINTS // 4, 4, POINTS // 4).sum((1, 3)).flatten()
    full = mass * n > 5
    chi2 = ((found - n * mass).square() / (n * mass))[full].sum()
    # 99.9 % of the chi-squared distribution with 15 degrees of freedom is below 37.7.
    assert chi2 < 37.7


def test_the_distribution_function_is_that_of_the_samples() -> None:
    modes = GaussianMixture(*TWO_MODES)
    x = modes.draw(20_000, generator())[:, 0]
    assert kolmogorov_distance(x, modes.distribution) * 20_000**0.5 < 1.63
    assert kolmogorov_distance(x + 0.05, modes.distribution) * 20_000**0.5 > 1.63


def test_standard_errors_of_exact_samples_are_normal_deviates() -> None:
    target = GaussianMixture(*GAUSSIAN)
    z = torch.stack(
        [
            standard_errors(target.draw(2_000, generator(s)), target.means[0], target.covariance)
            for s in range(100)
        ]
    )
    # 500 deviates: mean square 1 within five standard errors of sqrt(2 / 500).
    assert z.square().mean().item() == pytest.approx(1, abs=0.32)


def test_the_bias_of_a_step_is_a_fixed_point_of_the_step() -> None:
    covariance = torch.tensor(GAUSSIAN[2][0], dtype=torch.float64)
    for step_size, temperature in ((0.5, 1.0), (0.1, 0.3)):
        biased = biased_covariance(covariance, step_size, temperature)
        move = torch.eye(2, dtype=torch.float64) - step_size / 2 * torch.linalg.inv(covariance)
        noise = step_size * temperature * torch.eye(2, dtype=torch.float64)
        torch.testing.assert_close(move @ biased @ move.T + noise, biased)
    torch.testing.assert_close(biased_covariance(covariance, 0.0), covariance)


def test_divergence_of_gaussians_is_the_closed_form() -> None:
    a = GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])
    b = GaussianMixture([1.0], [[0.5, 0.0]], [[[1.5, 0.0], [0.0, 0.7]]])
    ratio = torch.tensor([1 / 1.5, 1 / 0.7])
    expected = 0.5 * (ratio.sum() - 2 - ratio.log().sum() + 0.25 / 1.5)
    assert divergence(on_grid(a), on_grid(b)) == pytest.approx(expected.item(), abs=1e-3)
    assert divergence(on_grid(b), on_grid(moment_match(on_grid(b)))) == pytest.approx(0, abs=1e-6)
