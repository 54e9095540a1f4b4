"""The games say what their papers say, and the gradients of the penalties are derivatives."""

import pytest
import torch
from kexue_sngan.losses import (
    GAMES,
    GradientPenalty,
    HingeGAN,
    NonSaturatingGAN,
    RelativisticGAN,
    WassersteinDivergence,
    WassersteinGAN,
)
from kexue_sngan.penalty import SpectralNormPenalty
from torch import nn

REAL = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
FAKE = torch.tensor([-0.5, 1.5, -3.0], dtype=torch.float64)


def log_sigmoid(x):
    return -(1 + (-x).exp()).log()


def test_the_games_are_their_formulas():
    hinge = (1 - REAL).clamp(min=0).mean() + (1 + FAKE).clamp(min=0).mean()
    saturating = -log_sigmoid(REAL).mean() - log_sigmoid(-FAKE).mean()
    for game, expected, generator in (
        (HingeGAN(), hinge, -FAKE.mean()),
        (NonSaturatingGAN(), saturating, -log_sigmoid(FAKE).mean()),
        (WassersteinGAN(), FAKE.mean() - REAL.mean(), -FAKE.mean()),
        (
            RelativisticGAN(),
            -log_sigmoid(REAL - FAKE).mean(),
            -log_sigmoid(FAKE - REAL).mean(),
        ),
        (
            RelativisticGAN(average=True),
            -(log_sigmoid(REAL - FAKE.mean()) + log_sigmoid(REAL.mean() - FAKE)).mean() / 2,
            -(log_sigmoid(FAKE - REAL.mean()) + log_sigmoid(FAKE.mean() - REAL)).mean() / 2,
        ),
    ):
        torch.testing.assert_close(game(REAL, FAKE), expected)
        torch.testing.assert_close(game.generator(FAKE, REAL), generator)
    with pytest.raises(ValueError, match="real"):
        RelativisticGAN().generator(FAKE)
    assert set(GAMES) == {"hinge", "nonsaturating", "wgan", "relativistic"}


def test_the_penalty_of_a_linear_critic_is_known():
    critic = nn.Linear(4, 1).double()
    norm = critic.weight.detach().norm()
    real, fake = torch.randn(2, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(
        GradientPenalty(10.0)(critic, real, fake).detach(), 10 * (norm - 1) ** 2
    )
    for factor, expected in ((0.5, 0.0), (3.0, 40.0)):
        with torch.no_grad():
            critic.weight.mul_(factor / critic.weight.norm())
        found = GradientPenalty(10.0, one_sided=True)(critic, real, fake)
        assert float(found) == pytest.approx(expected, abs=1e-9)
        divergence = 2 * factor**6
        for at in ("ends", "between"):
            found = WassersteinDivergence(at=at)(critic, real, fake)
            assert float(found) == pytest.approx(divergence, rel=1e-9)


@pytest.mark.parametrize(
    "penalty",
    [
        GradientPenalty(),
        GradientPenalty(one_sided=True),
        WassersteinDivergence(),
        WassersteinDivergence(at="between"),
    ],
)
def test_gradients_of_the_penalties_equal_finite_differences(penalty):
    torch.manual_seed(0)
    critic = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 1)
    ).double()
    real, fake = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
    mix = torch.rand(5, dtype=torch.float64)
    penalty(critic, real, fake, mix).backward()
    step = 1e-6
    for name, parameter in critic.named_parameters():
        for i in range(0, parameter.numel(), 7):
            entry = parameter.data.view(-1)
            values = []
            for sign in (1, -1):
                entry[i] += sign * step
                values.append(float(penalty(critic, real, fake, mix)))
                entry[i] -= sign * step
            difference = (values[0] - values[1]) / (2 * step)
            found = 0.0 if parameter.grad is None else float(parameter.grad.view(-1)[i])
            # central differences: an error of step^2, and rounding of 1e-16 / step
            assert found == pytest.approx(difference, rel=1e-5, abs=1e-7), name


def test_a_flat_critic_has_a_finite_gradient():
    critic = nn.Linear(3, 1)
    nn.init.zeros_(critic.weight)
    loss = GradientPenalty()(critic, torch.randn(4, 3), torch.randn(4, 3))
    loss.backward()
    assert float(loss) == pytest.approx(10.0)
    assert critic.weight.grad.isfinite().all()


def test_the_spectral_penalty_is_the_sum_of_squared_norms():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.Flatten(), nn.Linear(75, 5)
    )
    penalty = SpectralNormPenalty(0.5, warmup=300)
    matrices = [
        model[0].weight.flatten(1),
        model[2].weight.transpose(0, 1).flatten(1),
        model[4].weight,
    ]
    exact = 0.5 * sum(torch.linalg.matrix_norm(m, 2) ** 2 for m in matrices)
    found = penalty(model)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=0)
    gradients = torch.autograd.grad(found, [p for p in model.parameters() if p.ndim > 1])
    wanted = torch.autograd.grad(exact, [p for p in model.parameters() if p.ndim > 1])
    for a, b in zip(gradients, wanted, strict=True):
        # the singular vectors converge as the square root of the singular values' error
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_the_spectral_penalty_keeps_its_vectors_and_no_weight_alive():
    import gc

    torch.manual_seed(0)
    penalty, model = SpectralNormPenalty(1.0, warmup=0), nn.Linear(30, 30)
    exact = float(torch.linalg.matrix_norm(model.weight.detach(), 2) ** 2)
    values = [float(penalty(model)) for _ in range(200)]
    assert values[0] < 0.9 * exact
    assert values[-1] == pytest.approx(exact, rel=1e-4)
    assert len(penalty._vectors) == 1
    before = torch.get_rng_state()
    SpectralNormPenalty()(nn.Linear(3, 3).requires_grad_(False))
    del model
    gc.collect()
    assert len(penalty._vectors) == 0
    assert before.shape == torch.get_rng_state().shape


def test_the_spectral_penalty_works_under_autocast_and_names_what_it_cannot():
    model = nn.Linear(8, 8)
    exact = SpectralNormPenalty(1.0)(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = SpectralNormPenalty(1.0)(model)
    assert torch.equal(found, exact)
    with pytest.raises(ValueError, match="no layer"):
        SpectralNormPenalty()(nn.ReLU())
    with pytest.raises(ValueError, match="at least"):
        SpectralNormPenalty(-1.0)
