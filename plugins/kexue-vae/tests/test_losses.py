"""ELBO and IWAE as losses: reductions, beta, free bits."""

from __future__ import annotations

import math

import pytest
import torch
from kexue_vae import ELBO, IWAE


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_elbo_sums_dimensions_and_averages_samples_and_images() -> None:
    log_likelihood, kl = torch.randn(4, 3), torch.rand(4, 5)
    expected = [-sum(log_likelihood[i].tolist()) / 3 + 2 * sum(kl[i].tolist()) for i in range(4)]
    found = ELBO(beta=2, reduction="none")(log_likelihood, kl)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert float(ELBO(beta=2)(log_likelihood, kl)) == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_iwae_of_one_sample_is_minus_its_weight() -> None:
    weights = torch.randn(4, 1)
    torch.testing.assert_close(IWAE(reduction="none")(weights), -weights[:, 0])


def test_iwae_is_between_the_mean_and_the_best_weight() -> None:
    weights = 30 * torch.randn(50, 7)
    bound = -IWAE(reduction="none")(weights)
    assert (bound >= weights.mean(1)).all()
    assert (bound <= weights.amax(1)).all()
    assert (bound >= weights.amax(1) - math.log(7)).all()


def test_free_bits_cost_nothing_below_and_change_nothing_above() -> None:
    log_likelihood = torch.zeros(4, 1)
    kl = torch.stack([torch.full((4,), 0.1), torch.full((4,), 2.0)], dim=1).requires_grad_()
    loss = ELBO(free_bits=0.5)(log_likelihood, kl)
    assert float(loss.detach()) == pytest.approx(0.5 + 2.0)
    (slope,) = torch.autograd.grad(loss, kl)
    assert (slope[:, 0] == 0).all()
    torch.testing.assert_close(slope[:, 1], torch.full((4,), 0.25))
    # A dimension is judged by its mean over the batch, not image by image.
    uneven = torch.tensor([[0.0], [2.0]])
    assert ELBO(free_bits=0.5, reduction="none")(torch.zeros(2, 1), uneven).tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (ELBO, {"beta": -1.0}),
        (ELBO, {"beta": math.nan}),
        (ELBO, {"free_bits": -0.1}),
        (ELBO, {"reduction": "avg"}),
        (IWAE, {"reduction": "avg"}),
    ],
)
def test_options_out_of_range_are_refused(loss, options) -> None:
    with pytest.raises(ValueError, match=r"at least 0|reduction must be one of"):
        loss(**options)
