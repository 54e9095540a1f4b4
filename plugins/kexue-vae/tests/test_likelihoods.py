"""The four decoders are the distributions they say, to torch and to their sums."""

from __future__ import annotations

import math

import pytest
import torch
from kexue_vae.likelihoods import (
    LIKELIHOODS,
    MIN_SIGMA,
    Bernoulli,
    DiscretizedLogistic,
    Gaussian,
    make_likelihood,
)
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Independent, Normal

SHAPE = (3, 5, 2, 4, 4)  # images, samples, channels, height, width


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_bernoulli_is_torch_s() -> None:
    x = (torch.rand(3, 2, 4, 4) < 0.5).double()
    logits = 4 * torch.randn(SHAPE, dtype=torch.float64)
    expected = Independent(TorchBernoulli(logits=logits), 3).log_prob(x[:, None])
    torch.testing.assert_close(Bernoulli().log_prob(x, logits), expected)
    torch.testing.assert_close(Bernoulli().mean(logits), logits.sigmoid())


def test_bernoulli_of_certain_pixels_neither_overflows_nor_rounds_to_zero() -> None:
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    right = torch.tensor([-80.0, 80.0]).view(1, 1, 1, 1, 2)
    wrong = -1e4 * right / 80
    assert 0 <= -float(Bernoulli().log_prob(x, right)) < 1e-5
    assert float(Bernoulli().log_prob(x, wrong)) == -2e4


def test_grey_values_are_no_binary_image() -> None:
    Bernoulli().check(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="binarize"):
        Bernoulli().check(torch.tensor([0.0, 0.5]))


@pytest.mark.parametrize("kind", ["fixed", "learned", "optimal"])
def test_gaussian_is_torch_s(kind: str) -> None:
    likelihood = Gaussian(kind, 0.2).double().eval()
    x, mean = torch.rand(3, 2, 4, 4).double(), torch.rand(SHAPE).double()
    expected = Independent(Normal(mean, likelihood.sigma), 3).log_prob(x[:, None])
    torch.testing.assert_close(likelihood.log_prob(x, mean), expected)
    assert float(likelihood.sigma.detach()) == pytest.approx(0.2)


def test_a_learned_sigma_goes_to_the_optimal_one() -> None:
    x = torch.rand(64, 1, 4, 4)
    mean = (x + 0.3 * torch.randn_like(x))[:, None]
    likelihood = Gaussian("learned", 1.0)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-likelihood.log_prob(x, mean).mean()).backward()
        optimizer.step()
    best = (x[:, None] - mean).square().mean().sqrt()
    assert float(likelihood.sigma.detach()) == pytest.approx(float(best), rel=1e-2)


def test_the_optimal_sigma_maximises_and_needs_no_gradient() -> None:
    x = torch.rand(8, 1, 4, 4).double()
    mean = torch.rand(8, 1, 1, 4, 4).double().requires_grad_()
    likelihood = Gaussian("optimal", 0.5).double().train()
    best = likelihood.log_prob(x, mean).sum()
    for sigma in (0.9, 1.1):
        other = Gaussian(
            "fixed", sigma * float((x[:, None] - mean.detach()).square().mean().sqrt())
        )
        assert other.double().log_prob(x, mean).sum() < best
    # sigma-VAE, eq 7: the loss is D/2 log MSE. Its gradient is ours, where sigma is detached.
    (ours,) = torch.autograd.grad(best, mean)
    size = x[0].numel()
    error = (x[:, None] - mean).square().mean()
    (theirs,) = torch.autograd.grad(-len(x) * size / 2 * error.log(), mean)
    torch.testing.assert_close(ours, theirs)


def test_the_optimal_sigma_is_kept_for_the_time_after_training() -> None:
    x, mean = torch.rand(8, 1, 4, 4), torch.rand(8, 1, 1, 4, 4)
    likelihood = Gaussian("optimal", 0.9).train()
    for _ in range(400):
        likelihood.log_prob(x, mean)
    likelihood.eval()
    error = (x[:, None] - mean).square().mean().sqrt()
    assert float(likelihood.sigma.detach()) == pytest.approx(float(error), rel=1e-3)
    alone = likelihood.log_prob(x[:1], mean[:1])
    torch.testing.assert_close(alone, likelihood.log_prob(x, mean)[:1])


def test_no_sigma_goes_below_the_rounding_of_eight_bits() -> None:
    x = torch.rand(4, 1, 2, 2)
    for kind in ("fixed", "learned", "optimal"):
        likelihood = Gaussian(kind, 1e-9).train()
        assert likelihood.log_prob(x, x[:, None].clone()).isfinite().all()
        assert float(likelihood.sigma.detach()) >= MIN_SIGMA * (1 - 1e-6)


@pytest.mark.parametrize("scale", [1e-4, 0.02, 3.0])
@pytest.mark.parametrize("mean", [-1.0, 0.003, 0.5, 2.0])
def test_the_discretised_logistic_is_a_distribution_over_256_values(scale, mean) -> None:
    likelihood = DiscretizedLogistic(1, scale).double()
    x = (torch.arange(256, dtype=torch.float64) / 255).view(256, 1, 1, 1)
    log_mass = likelihood.log_prob(x, torch.full((256, 1, 1, 1, 1), mean, dtype=torch.float64))
    assert float(log_mass.detach().exp().sum()) == pytest.approx(1, abs=1e-9)
    assert (log_mass <= 0).all()


def test_the_discretised_logistic_by_its_definition() -> None:
    likelihood = DiscretizedLogistic(1, 0.05).double()
    s = float(likelihood.log_scale.exp())
    assert s == pytest.approx(0.05 * math.sqrt(3) / math.pi)
    for value, mean in ((100 / 255, 0.35), (0.0, 0.1), (1.0, 0.8)):
        x = torch.full((1, 1, 1, 1), value, dtype=torch.float64)

        def below(y: float, mean: float = mean) -> float:
            return 1 / (1 + math.exp(-(y - mean) / s))

        upper = 1.0 if value == 1 else below(value + 1 / 510)
        lower = 0.0 if value == 0 else below(value - 1 / 510)
        found = likelihood.log_prob(x, torch.full((1, 1, 1, 1, 1), mean, dtype=torch.float64))
        assert float(found) == pytest.approx(math.log(upper - lower), rel=1e-9)


def test_the_discretised_logistic_far_off_is_finite_with_its_gradient() -> None:
    likelihood = DiscretizedLogistic(2, 0.05)
    output = torch.tensor([-300.0, 300.0]).view(1, 1, 2, 1, 1).requires_grad_()
    x = torch.full((1, 2, 1, 1), 0.5)
    log_mass = likelihood.log_prob(x, output)
    gradients = torch.autograd.grad(log_mass.sum(), [output, likelihood.log_scale])
    assert log_mass.isfinite().all()
    assert all(g.isfinite().all() and (g != 0).all() for g in gradients)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_quantised_images_are_what_the_likelihood_is_of(name: str) -> None:
    likelihood = make_likelihood(name, 1, 0.1)
    x = torch.randint(256, (5000, 1, 1, 1)) / 255
    noise = torch.rand_like(x)
    found = likelihood.quantize(x, noise)
    likelihood.check(found)
    if name == "bernoulli":
        # Five standard errors of a mean of 5,000 values in {0, 1}.
        assert float(found.mean()) == pytest.approx(float(x.mean()), abs=5 * 0.5 / 5000**0.5)
        assert torch.equal(likelihood.quantize(found, noise), found)  # binary stays binary
    elif name == "logistic":
        torch.testing.assert_close(found, x)
    else:
        torch.testing.assert_close((found * 256).floor() / 255, x)
        assert found.min() >= 0
        assert found.max() < 1


def test_means_are_images() -> None:
    for name in LIKELIHOODS:
        mean = make_likelihood(name, 1, 0.1).mean(torch.tensor([-9.0, 0.3, 9.0]))
        assert 0 <= mean.min() <= mean.max() <= 1
