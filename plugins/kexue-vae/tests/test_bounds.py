"""The bounds against exact values: a linear-Gaussian model, closed forms, Monte Carlo, definitions.

A VAE with linear networks and a Gaussian decoder is probabilistic PCA: x = W z + b + sigma e, so
that log p(x) = log N(x; b, W W^T + sigma^2 I) is known.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from kexue_vae import CVAE, ELBO, IWAE, VAE, ClusterVAE, GumbelVAE
from kexue_vae.cluster import ClusterVAEConfig
from kexue_vae.cvae import CVAEConfig
from kexue_vae.gumbel import GumbelVAEConfig, gumbel
from kexue_vae.vae import VAEConfig
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

IMAGES = 300


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def linear() -> tuple[VAE, MultivariateNormal, Tensor]:
    """A linear VAE, its exact p(x), and images drawn from it."""
    config = VAEConfig(size=3, latent=4, widths=(), likelihood="gaussian-fixed", sigma=0.05)
    vae = VAE(config).double().eval()
    vae.likelihood.variance.fill_(0.05**2)  # it was made in float32
    last, first = vae.decoder[0], vae.encoder[-1]
    w = 0.06 * torch.randn(9, 4, dtype=torch.float64)
    precision = torch.eye(4, dtype=torch.float64) + w.T @ w / 0.05**2
    gain = precision.inverse() @ w.T / 0.05**2  # the exact posterior's mean is gain (x - b)
    with torch.no_grad():
        last.weight.copy_(w)
        last.bias.fill_(0.5)
        # Near the exact posterior, so that k = 500 can close the gap, and not on it.
        first.weight[:4].copy_(gain + 0.1 * torch.randn_like(gain))
        first.bias[:4].copy_(-first.weight[:4].sum(1) * 0.5)
        first.weight[4:].zero_()
        first.bias[4:].copy_(precision.inverse().diagonal().log() + 0.2)
    covariance = w @ w.T + 0.05**2 * torch.eye(9, dtype=torch.float64)
    exact = MultivariateNormal(torch.full((9,), 0.5, dtype=torch.float64), covariance)
    x = exact.sample((IMAGES,)).clamp(0, 1).view(-1, 1, 3, 3)
    return vae, exact, x


def elbo_of(vae: VAE, x: Tensor, samples: int, condition: Tensor | None = None) -> Tensor:
    noise = vae.noise(len(x), samples, torch.Generator().manual_seed(1))
    with torch.no_grad():
        terms = vae(x, condition, noise)
    return -ELBO(reduction="none")(terms.log_likelihood, terms.kl)


def test_elbo_iwae_and_exact_are_in_order_on_a_linear_gaussian_model(linear) -> None:
    vae, exact, x = linear
    truth = exact.log_prob(x.flatten(1))
    bounds = {1: elbo_of(vae, x, samples=64)}
    for k in (5, 500):
        bounds[k] = vae.log_prob(x, samples=k, generator=torch.Generator().manual_seed(k))
    # Each image's bound is one draw; means over images have a standard error.
    chain = [bounds[1], bounds[5], bounds[500], truth]
    gaps = []
    for lower, upper in itertools.pairwise(chain):
        gap = upper - lower
        gaps.append(float(gap.mean()))
        error = float(gap.std()) / math.sqrt(IMAGES)
        assert gap.mean() > -3 * error
    assert gaps[0] > 0.1  # the chain is no chain of equals:
    assert gaps[1] > 0.05  # ELBO and IWAE-5 are visibly below,
    assert 0 <= gaps[2] + 1e-3 < 0.02  # and k = 500 is all but exact


def test_the_elbo_is_exact_where_the_posterior_is(linear) -> None:
    vae, _, x = linear
    # A diagonal q is the posterior only where W^T W is diagonal.
    w = 0.1 * torch.linalg.qr(vae.decoder[0].weight.detach())[0]
    covariance = (torch.eye(4, dtype=torch.float64) + w.T @ w / 0.05**2).inverse()
    gain = covariance @ w.T / 0.05**2
    with torch.no_grad():
        vae.decoder[0].weight.copy_(w)
        vae.encoder[-1].weight[:4].copy_(gain)
        vae.encoder[-1].bias[:4].copy_(-gain.sum(1) * 0.5)
        vae.encoder[-1].bias[4:].copy_(covariance.diagonal().log())
    truth = MultivariateNormal(
        torch.full((9,), 0.5, dtype=torch.float64),
        w @ w.T + 0.05**2 * torch.eye(9, dtype=torch.float64),
    ).log_prob(x.flatten(1))
    # Every importance weight is p(x) then: no Monte-Carlo error is left, whatever k.
    for k in (1, 3):
        torch.testing.assert_close(vae.log_prob(x, samples=k), truth, rtol=1e-10, atol=1e-10)


def test_iwae_rises_with_k_on_the_same_samples(linear) -> None:
    vae, _, x = linear
    noise = vae.noise(len(x), 64, torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights = vae(x, None, noise).log_weights
    means = [-float(IWAE()(weights[:, :k])) for k in (1, 4, 16, 64)]
    assert means == sorted(means)
    # By its definition: the logarithm of a mean of ratios, the sum over images taken last.
    expected = weights.exp().mean(1).log()
    torch.testing.assert_close(-IWAE(reduction="none")(weights), expected)


def test_log_prob_is_the_definition_of_iwae(linear) -> None:
    vae, _, x = linear
    mean, log_var = vae.posterior(x[:7])
    generator = torch.Generator().manual_seed(3)
    found = vae.log_prob(x[:7], samples=11, generator=generator)
    noise = vae.noise(7, 11, torch.Generator().manual_seed(3)).double()
    q = Independent(Normal(mean[:, None], (0.5 * log_var).exp()[:, None]), 1)
    z = mean[:, None] + (0.5 * log_var).exp()[:, None] * noise
    means = vae.decoder(z.flatten(0, 1)).view(7, 11, 9)
    likelihood = Independent(Normal(means, 0.05), 1).log_prob(x[:7].flatten(1)[:, None])
    prior = Independent(Normal(torch.zeros_like(z), 1.0), 1).log_prob(z)
    ratios = likelihood + prior - q.log_prob(z)
    torch.testing.assert_close(found, ratios.logsumexp(1) - math.log(11))


@pytest.mark.parametrize("max_rows", [1, 7, 64, 10_000])
def test_max_rows_bounds_the_memory_and_changes_nothing(linear, max_rows: int) -> None:
    vae, _, x = linear
    expected = vae.log_prob(x[:9], samples=50, max_rows=450)
    seen = []
    hook = vae.decoder.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    found = vae.log_prob(x[:9], samples=50, max_rows=max_rows)
    hook.remove()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert max(seen) <= max_rows
    assert sum(seen) == 9 * 50


def test_without_a_generator_the_bound_is_a_function_of_the_image(linear) -> None:
    vae, _, x = linear
    whole = vae.log_prob(x[:8], samples=20)
    torch.testing.assert_close(vae.log_prob(x[5:8], samples=20), whole[5:8])
    torch.manual_seed(99)
    assert torch.equal(vae.log_prob(x[:8], samples=20), whole)


# Closed forms.


def test_the_kl_is_that_of_monte_carlo_and_of_torch() -> None:
    vae = VAE(VAEConfig(size=2, latent=3, widths=(8,), likelihood="gaussian-fixed")).double()
    mean, log_var = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    noise = torch.randn(4, 200_000, 3, dtype=torch.float64)
    z, log_q = vae.sample((mean, log_var), noise)
    found = vae.kl((mean, log_var), z)
    reference = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(found, reference.double())
    draws = log_q - vae.log_prior(z, None)
    error = draws.std(1) / math.sqrt(draws.shape[1])
    assert ((draws.mean(1) - found.sum(1)).abs() < 4 * error).all()
    # log q is also what torch says of z.
    q = Independent(Normal(mean[:, None], (0.5 * log_var).exp()[:, None]), 1)
    torch.testing.assert_close(log_q, q.log_prob(z))


@pytest.fixture
def conditional() -> CVAE:
    config = CVAEConfig(size=2, latent=3, widths=(8,), likelihood="gaussian-fixed", classes=4)
    return CVAE(config).double().eval()


def test_the_class_wise_kl_at_the_class_mean_is_the_standard_one(conditional: CVAE) -> None:
    labels = torch.tensor([0, 3, 1])
    log_var = torch.randn(3, 3).double()
    mean = conditional.prior_mean[labels]
    found = conditional.kl((mean, log_var), torch.empty(3, 1, 3), labels)
    standard = VAE.kl(conditional, (torch.zeros_like(mean), log_var), torch.empty(3, 1, 3))
    torch.testing.assert_close(found, standard)
    away = conditional.kl((mean + 2, log_var), torch.empty(3, 1, 3), labels)
    torch.testing.assert_close(away, standard + 2)  # (mean - mu_Y)^2 / 2


def test_the_class_wise_kl_is_that_of_monte_carlo(conditional: CVAE) -> None:
    labels = torch.tensor([2, 0])
    posterior = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    z, log_q = conditional.sample(posterior, torch.randn(2, 200_000, 3, dtype=torch.float64))
    draws = log_q - conditional.log_prior(z, labels)
    error = draws.std(1) / math.sqrt(draws.shape[1])
    closed = conditional.kl(posterior, z, labels).sum(1)
    assert ((draws.mean(1) - closed).abs() < 4 * error).all()


def test_without_a_label_the_prior_is_the_mixture_of_classes(conditional: CVAE) -> None:
    z = torch.randn(2, 5, 3).double()
    each = torch.stack([conditional.log_prior(z, torch.full((2,), y)) for y in range(4)])
    torch.testing.assert_close(conditional.log_prior(z, None), each.exp().mean(0).log())


@pytest.fixture
def cluster() -> ClusterVAE:
    config = ClusterVAEConfig(
        size=2, latent=3, widths=(8,), likelihood="gaussian-fixed", clusters=4, hidden=8
    )
    return ClusterVAE(config).double().eval()


def test_the_cluster_prior_is_a_bound_and_exact_for_the_exact_assignment(cluster) -> None:
    z = torch.randn(2, 5, 3).double()
    centres = cluster.centres
    mixture = torch.stack([Independent(Normal(c, 1.0), 1).log_prob(z) for c in centres]).logsumexp(
        0
    ) - math.log(4)
    assert (cluster.log_prior(z, None) < mixture).all()

    class Exact(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z @ centres.T - 0.5 * centres.square().sum(1)

    cluster.assign = Exact()
    torch.testing.assert_close(cluster.log_prior(z, None), mixture)


def test_the_cluster_kl_estimates_what_the_weights_say(cluster) -> None:
    posterior = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    z, log_q = cluster.sample(posterior, torch.randn(2, 200_000, 3, dtype=torch.float64))
    draws = log_q - cluster.log_prior(z, None)
    error = draws.std(1) / math.sqrt(draws.shape[1])
    parts = cluster.kl(posterior, z)
    assert parts.shape == (2, 4)
    assert ((draws.mean(1) - parts.sum(1)).abs() < 4 * error).all()


@pytest.fixture
def discrete() -> GumbelVAE:
    config = GumbelVAEConfig(
        size=2, latent=2, widths=(8,), likelihood="gaussian-fixed", categories=3
    )
    return GumbelVAE(config).double().eval()


def test_the_categorical_kl_is_exact(discrete: GumbelVAE) -> None:
    log_q = torch.randn(5, 2, 3).double().log_softmax(2)
    uniform = Categorical(probs=torch.full((5, 2, 3), 1 / 3, dtype=torch.float64))
    expected = kl_divergence(Categorical(logits=log_q), uniform)
    torch.testing.assert_close(discrete.kl((log_q,), torch.empty(0)), expected)


def test_gumbel_samples_have_the_probabilities_of_q(discrete: GumbelVAE) -> None:
    log_q = torch.randn(1, 2, 3).double().log_softmax(2)
    z, log_prob = discrete.sample((log_q,), discrete.noise(1, 100_000).double())
    assert set(z.unique().tolist()) == {0.0, 1.0}
    # Five standard errors of a frequency over 1e5 draws.
    assert (z.mean(1) - log_q.exp()).abs().max() < 5 * 0.5 / math.sqrt(1e5)
    chosen = z[0, :50].argmax(2)
    expected = Categorical(logits=log_q[0]).log_prob(chosen).sum(1)
    torch.testing.assert_close(log_prob[0, :50], expected)


def test_the_discrete_bound_goes_to_the_sum_over_all_categories(discrete: GumbelVAE) -> None:
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    one_hot = torch.nn.functional.one_hot(codes, 3).double()
    with torch.no_grad():
        joint = discrete.log_likelihood(x, one_hot.expand(3, -1, -1, -1)) - math.log(9)
    exact = joint.logsumexp(1)
    found = discrete.log_prob(x, samples=20_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05)


def test_the_relaxation_is_one_hot_in_the_limit(discrete: GumbelVAE) -> None:
    log_q = torch.randn(4, 2, 3).double().log_softmax(2)
    noise = discrete.noise(4, 6).double()
    hard, _ = discrete.sample((log_q,), noise)
    discrete.train()
    discrete.tau = 1.0
    soft, _ = discrete.sample((log_q,), noise)
    torch.testing.assert_close(soft.sum(3), torch.ones(4, 6, 2, dtype=torch.float64))
    assert (soft - hard).abs().max() > 0.1
    discrete.tau = 1e-5
    torch.testing.assert_close(discrete.sample((log_q,), noise)[0], hard)


def test_gumbel_noise_is_finite_at_the_edges() -> None:
    edges = torch.tensor([0.0, 1e-45, 0.5, 1 - 2**-24, 1.0])
    found = gumbel(edges)
    assert found.isfinite().all()
    assert (found.diff() >= 0).all()
    assert float(found[2]) == pytest.approx(-math.log(math.log(2)))
