"""The samplers draw from exp(-U / T), chain by chain, and leave the model alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from kexue_ebm.chains import DivergedChainError, Field, SharedNoise, Trace, frozen
from kexue_ebm.dynamics import hmc_chain, igebm_chain, langevin_chain, mala_chain
from kexue_ebm.energy import EBM, EBMConfig, EnergyMLP, EnergyMLPConfig
from kexue_ebm.experiments import TWO_MODES, biased_covariance
from kexue_ebm.replay import ReplayBuffer
from kexue_ebm.samplers import hmc, igebm_langevin, langevin, mala
from kexue_ebm.toys import GaussianMixture, kolmogorov_distance, standard_errors
from torch import Tensor, nn

from kexue_core.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parent))

from targets import CorrelatedGaussian, Images

#: Chains of the moment tests; their ends are independent, so that standard errors are known.
N = 4_000

SAMPLERS = {
    "langevin": (langevin, {"steps": 5, "step_size": 1e-3}),
    "igebm-langevin": (igebm_langevin, {"steps": 5, "step_size": 1.0}),
    "mala": (mala, {"steps": 5, "step_size": 1e-3}),
    "hmc": (hmc, {"steps": 3, "step_size": 1e-2, "leapfrog": 3}),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_langevin_moments_on_a_correlated_gaussian(temperature: float) -> None:
    # At step 0.02 the bias of the smallest principal variance, 0.53, is 0.9 % (eps / 4 lambda):
    # less than half of its standard error of sqrt(2 / 4,000) = 2.2 %.
    target = CorrelatedGaussian()
    x = langevin(
        target,
        N,
        generator=generator(),
        steps=1_200,  # 4.4 relaxation times 2 lambda / eps of the larger variance, 2.72
        step_size=0.02,
        temperature=temperature,
        batch_size=N,
        initial=target.mean + 1.2 * torch.randn(N, 2, generator=generator(9)),
    )
    assert (standard_errors(x, target.mean, temperature * target.covariance) < 3).all()


def test_langevin_has_the_bias_that_theory_says() -> None:
    # A step fifty times as long: the variance along the short axis is 1.3 times the true one.
    target, step_size = CorrelatedGaussian(), 0.5
    x = langevin(
        target,
        N,
        generator=generator(1),
        steps=80,
        step_size=step_size,
        batch_size=N,
        start="normal",
    )
    expected = biased_covariance(target.covariance, step_size)
    assert (standard_errors(x, target.mean, expected) < 3).all()
    assert standard_errors(x, target.mean, target.covariance).max() > 6


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (mala, {"steps": 150, "step_size": 0.8}),
        (hmc, {"steps": 25, "step_size": 0.5, "leapfrog": 4}),
    ],
)
def test_exact_moments_on_a_correlated_gaussian(sampler, options, temperature) -> None:
    target, trace = CorrelatedGaussian(), Trace(every=1_000)
    x = sampler(
        target,
        N,
        generator=generator(),
        temperature=temperature,
        start="normal",
        batch_size=N,
        trace=trace,
        **options,
    )
    assert (standard_errors(x, target.mean, temperature * target.covariance) < 3).all()
    assert 0.4 < trace.acceptance.mean() < 0.99  # proposals are refused, so refusing is tested


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (mala, {"steps": 400, "step_size": 1.5}),
        (hmc, {"steps": 150, "step_size": 0.6, "leapfrog": 4}),
    ],
)
def test_a_mixture_passes_the_kolmogorov_smirnov_test(sampler, options) -> None:
    # Two modes with a barrier that chains do cross.
    target, n = GaussianMixture(*TWO_MODES), 4_000
    x = sampler(target, n, generator=generator(3), start="normal", batch_size=n, **options)
    # 1.63 / sqrt(n) is the critical value at 1 %.
    assert kolmogorov_distance(x[:, 0], target.distribution) < 1.63 / n**0.5


def test_mala_accepts_with_the_probability_of_metropolis_and_hastings() -> None:
    # One step in float64, its probability written out from the densities of the proposals.
    target, step_size, temperature = CorrelatedGaussian().double(), 1.3, 0.7
    x = torch.randn(200, 2, generator=generator(), dtype=torch.float64)
    source = SharedNoise(generator(5), x.shape, torch.float64)
    alpha, uniform = source.normal(), source.uniform()

    def drift(y: Tensor) -> Tensor:
        return y - 0.5 * step_size * (y - target.mean) @ target.precision

    deviation = (step_size * temperature) ** 0.5
    proposal = drift(x) + deviation * alpha

    def log_q(to: Tensor, at: Tensor) -> Tensor:
        return torch.distributions.Normal(drift(at), deviation).log_prob(to).sum(1)

    ratio = (target.energy(x) - target.energy(proposal)) / temperature
    ratio = (ratio + log_q(x, proposal) - log_q(proposal, x)).exp()
    expected = torch.where((uniform < ratio)[:, None], proposal, x)
    assert 0.2 < (uniform < ratio).double().mean() < 0.95
    found = mala_chain(
        Field(target),
        x.clone(),
        SharedNoise(generator(5), x.shape, torch.float64),
        steps=1,
        step_size=step_size,
        temperature=temperature,
    )
    torch.testing.assert_close(found, expected)


def test_the_leapfrog_conserves_energy_to_second_order() -> None:
    # Halving the step of one trajectory of fixed length divides |H' - H| by about four, and that
    # decides how many proposals are accepted: 1 - acceptance falls as the error does.
    target, n = CorrelatedGaussian(), 20_000
    refused = []
    for step_size, leapfrog in ((0.8, 4), (0.4, 8)):
        trace = Trace(every=10)
        x = torch.randn(n, 2, generator=generator())
        noise = SharedNoise(generator(1), x.shape)
        hmc_chain(
            Field(target),
            x @ torch.linalg.cholesky(target.covariance).T + target.mean,
            noise,
            steps=1,
            step_size=step_size,
            leapfrog=leapfrog,
            jitter=0.0,
            trace=trace,
        )
        refused.append(1 - trace.acceptance.mean().item())
    assert 3 < refused[0] / refused[1] < 6


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_chain_does_not_depend_on_its_neighbours(name: str) -> None:
    sampler, options = SAMPLERS[name]
    model = Images().eval()
    five = sampler(model, 5, generator=generator(), **options)
    again = sampler(model, 5, generator=generator(), **options)
    assert torch.equal(five, again)
    for n, batch_size in ((1, 256), (3, 256), (5, 2), (5, 1)):
        some = sampler(model, n, generator=generator(), batch_size=batch_size, **options)
        # Kernels sum in another order for another batch.
        torch.testing.assert_close(some, five[:n], atol=1e-5, rtol=1e-5)
    assert not torch.equal(five, sampler(model, 5, generator=generator(1), **options))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_longer_run_begins_as_the_shorter(name: str) -> None:
    sampler, options = SAMPLERS[name]
    options = options | {"steps": 60}  # more than what is drawn ahead
    model, trace = Images().eval(), Trace()
    sampler(model, 2, generator=generator(), trace=trace, **options)
    short = sampler(model, 2, generator=generator(), **(options | {"steps": 55}))
    torch.testing.assert_close(short, trace.x[55])


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_gradient_reaches_the_parameters(name: str) -> None:
    sampler, options = SAMPLERS[name]
    model = Images().train()
    seen: list[bool] = []
    forward = model.conv.forward

    def spy(x: Tensor) -> Tensor:
        out = forward(x)
        seen.append(any(p.requires_grad for p in model.parameters()) or model.training)
        # The graph of the energy ends in x alone.
        leaves = _leaves(out)
        assert all(leaf.shape == x.shape for leaf in leaves)
        return out

    model.conv.forward = spy  # type: ignore[method-assign]
    x = sampler(model, 3, generator=generator(), **options)
    assert seen
    assert not any(seen)
    assert not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training


def _leaves(out: Tensor) -> list[Tensor]:
    """The leaf tensors that a graph would give gradients to."""
    found, todo, done = [], [out.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in done:
            continue
        done.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [before for before, _ in node.next_functions]
    return found


def test_frozen_puts_everything_back_and_advances_no_power_iteration() -> None:
    model = EBM(EBMConfig(size=8, width=4, spectral_norm=True)).train()
    model.net[-1].bias.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    places = [p.data_ptr() for p in model.parameters()]

    def fail_inside() -> None:
        with frozen(model):
            assert not model.training
            assert not any(p.requires_grad for p in model.parameters())
            Field(model)(torch.rand(2, 1, 8, 8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert all(module.training for module in model.modules())
    asking = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert asking == {f"net.{len(model.net) - 1}.bias"}
    assert places == [p.data_ptr() for p in model.parameters()]
    for key, value in model.state_dict().items():
        assert torch.equal(before[key], value), key


class Cliff(nn.Module):
    """An energy that is NaN beyond x = 2, gradient and all, and slopes that way."""

    data_shape = (1,)

    def energy(self, x: Tensor) -> Tensor:
        """Downhill to the cliff."""
        return (1e-6 * (2 - x).sqrt() - x).sum(1)


def test_a_chain_that_leaves_the_finite_is_reported_with_its_step() -> None:
    # Chain 1 of three starts nearer to the cliff: with eps / 2 = 0.1 a step and no noise it is
    # beyond 2 after the fourth step, and the gradient there sets x to NaN in the fifth.
    initial = torch.tensor([[0.0], [1.65], [-5.0]])
    for batch_size in (256, 1):
        with pytest.raises(DivergedChainError, match=r"Chain 1 .* at step 5") as caught:
            langevin(
                Cliff(),
                3,
                generator=generator(),
                steps=8,
                step_size=0.2,
                temperature=0.0,
                initial=initial,
                batch_size=batch_size,
            )
        assert (caught.value.chain, caught.value.step) == (1, 5)
        assert "step_size" in (caught.value.hint or "")


@pytest.mark.parametrize("sampler", [mala, hmc])
def test_an_energy_that_is_nan_is_no_refused_proposal(sampler) -> None:
    options = {"steps": 50, "step_size": 0.5}
    with pytest.raises(DivergedChainError, match="at step"):
        sampler(Cliff(), 2, generator=generator(), **options)
    with pytest.raises(DivergedChainError, match=r"Chain 1 .* at step 0"):
        sampler(Cliff(), 2, generator=generator(), initial=torch.tensor([[0.0], [3.0]]), **options)


class Wall(nn.Module):
    """Uniform on |x| < 1: infinite energy outside."""

    data_shape = (1,)

    def energy(self, x: Tensor) -> Tensor:
        """0 inside, infinity outside."""
        return torch.where(x.abs() < 1, 0 * x, torch.inf).sum(1)


def test_infinite_energy_is_a_refused_proposal() -> None:
    x = mala(Wall(), 500, generator=generator(), steps=60, step_size=0.5)
    assert (x.abs() < 1).all()
    assert x.var() == pytest.approx(1 / 3, rel=0.2)  # that of the uniform; 3 standard errors


def test_the_trace_records_states_and_their_energies() -> None:
    model, trace = CorrelatedGaussian(), Trace(every=4)
    x = langevin(
        model, 5, generator=generator(), steps=10, step_size=0.1, batch_size=2, trace=trace
    )
    assert trace.steps == [0, 4, 8, 10]
    assert trace.x.shape == (4, 5, 2)
    assert torch.equal(trace.x[-1], x)
    torch.testing.assert_close(trace.energy, model.energy(trace.x.flatten(0, 1)).view(4, 5))
    assert (trace.acceptance == 1).all()
    # Looking on changes nothing.
    unseen = langevin(model, 5, generator=generator(), steps=10, step_size=0.1, batch_size=2)
    assert torch.equal(unseen, x)


def test_igebm_follows_the_order_of_the_paper() -> None:
    # Noise first, the gradient at the noisy point, clipped; then the interval.
    model, x = Images().double().eval(), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    noise = SharedNoise(generator(), x.shape, torch.float64)
    noisy = (x + 0.005 * noise.normal()).requires_grad_()
    (gradient,) = torch.autograd.grad(model.energy(noisy).sum(), noisy)
    expected = (noisy - 10 * gradient.clamp(-0.01, 0.01)).clamp(0, 1)
    assert (gradient.abs() > 0.01).any()
    found = igebm_chain(
        Field(model), x.clone(), SharedNoise(generator(), x.shape, torch.float64), steps=1
    )
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("activation", ["swish", "leaky-relu"])
@pytest.mark.parametrize("base_scale", [None, 1.5])
def test_the_gradient_by_hand_is_autograds(activation, base_scale) -> None:
    config = EnergyMLPConfig(hidden=16, layers=3, activation=activation, base_scale=base_scale)
    model = EnergyMLP(config).double()
    x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    energy = model.energy(x)
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    found_energy, found = model.energy_and_gradient(x)
    torch.testing.assert_close(found_energy, energy.detach())
    torch.testing.assert_close(found, gradient)
    assert not found.requires_grad


def test_chains_start_where_they_are_told() -> None:
    model = EBM(EBMConfig(size=8, width=4, replay=3)).eval()
    model.replay.copy_(torch.tensor([10, 20, 30])[:, None, None, None])
    still = {"steps": 0, "step_size": 1e-3}
    kept = langevin(model, 40, generator=generator(), start="replay", **still)
    levels = (256 * kept).floor().flatten(1)
    assert set(levels[:, 0].tolist()) == {10.0, 20.0, 30.0}
    assert (levels == levels[:, :1]).all()
    uniform = langevin(model, 40, generator=generator(), **still)
    assert 0 <= uniform.min() < 0.01
    assert 0.99 < uniform.max() <= 1
    given = torch.rand(4, 1, 8, 8)
    x = langevin(model, 4, generator=generator(), initial=given, steps=1, step_size=1e-4)
    assert 0 < (x - given).abs().max() < 0.1
    with pytest.raises(ConfigError, match="no replay buffer"):
        langevin(EnergyMLP(), 1, generator=generator(), start="replay")


def test_samplers_go_on_from_a_buffer_and_leave_their_ends_in_it() -> None:
    model = CorrelatedGaussian()
    torch.manual_seed(0)
    replay = ReplayBuffer(64, (2,), restart=0.0, quantized=False, low=-8.0, high=8.0)
    before = model.energy(replay.data).mean()
    for seed in range(6):
        x = langevin(model, 64, generator=generator(seed), steps=20, step_size=0.2, replay=replay)
        assert (replay.data[:, None] == x[None, -1:]).all(-1).any()  # the last chain's end is kept
    assert model.energy(replay.data).mean() < before / 4


@pytest.mark.parametrize(
    ("sampler", "options", "said"),
    [
        (langevin, {"step_size": 0.0}, "step_size"),
        (langevin, {"step_size": float("nan")}, "step_size"),
        (langevin, {"temperature": -1.0}, "temperature"),
        (langevin, {"steps": -1}, "steps"),
        (langevin, {"batch_size": 0}, "batches"),
        (langevin, {"start": "here"}, "start"),
        (langevin, {"initial": torch.zeros(1, 3)}, "initial"),
        (mala, {"temperature": 0.0}, "temperature"),
        (hmc, {"leapfrog": 0}, "leapfrog"),
        (hmc, {"jitter": 1.0}, "jitter"),
        (igebm_langevin, {"clip": 0.0}, "clip"),
    ],
)
def test_options_out_of_range_are_refused(sampler, options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        sampler(CorrelatedGaussian(), 1, generator=generator(), **options)


def test_bfloat16_chains_stay_near_those_in_float32() -> None:
    torch.manual_seed(0)
    model = EBM(EBMConfig(size=8, width=4)).eval()
    with frozen(model):
        x = torch.rand(4, 1, 8, 8)
        energy, gradient = Field(model)(x)
        low_energy, low_gradient = Field(model, torch.bfloat16)(x)
        # bfloat16 has eight bits.
        torch.testing.assert_close(low_energy.float(), energy, atol=0.02, rtol=0.02)
        assert (low_gradient - gradient).norm() < 0.03 * gradient.norm()
    moved = langevin_chain(
        Field(model), x.clone(), SharedNoise(generator(), x.shape), steps=2, step_size=1e-3
    )
    assert moved.dtype == torch.float32
