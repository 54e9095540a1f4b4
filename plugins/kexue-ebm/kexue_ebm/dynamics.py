"""The four chains, each as its source writes it. They change ``x`` in place and return it.

Throughout, the target is exp(-U(x) / T) / Z with U in nats, and ``field(x)`` gives U and its
gradient. The callers are in :mod:`kexue_ebm.samplers`; a training loop calls these directly.

References:
    [1] Su Jianlin, https://kexue.fm/archives/6612
    [2] Du & Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019.
        https://arxiv.org/abs/1903.08689
    [3] Roberts & Tweedie, Exponential convergence of Langevin distributions and their discrete
        approximations, Bernoulli 2(4), 1996
    [4] Neal, MCMC using Hamiltonian dynamics, 2011. https://arxiv.org/abs/1206.1901
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from kexue_ebm.chains import DivergedChainError, Noise, Trace, Watch

__all__ = ["Gradient", "hmc_chain", "igebm_chain", "langevin_chain", "mala_chain"]

#: x (n, *shape) to its energy (n,) and gradient (n, *shape).
Gradient: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def langevin_chain(
    field: Gradient,
    x: Tensor,
    noise: Noise,
    *,
    steps: int,
    step_size: float,
    temperature: float = 1.0,
    clamp: bool = False,
    watch: Watch | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """x <- x - (eps / 2) grad U(x) + sqrt(eps T) alpha,  alpha ~ N(0, I)  [1].

    Its stationary law tends to exp(-U / T) / Z as eps = ``step_size`` tends to 0. On a Gaussian the
    variance lambda of a principal axis becomes lambda / (1 - eps / (4 lambda)) (for T = 1).
    ``clamp`` keeps x in [0, 1] after each step, which changes the law at the edges.
    """
    watch = watch or Watch()
    scale = (step_size * temperature) ** 0.5
    for step in range(steps):
        energy, gradient = field(x)
        if trace is not None and trace.wants(step):
            trace.record(step, x, energy)
        x.add_(gradient, alpha=-0.5 * step_size).add_(noise.normal(), alpha=scale)
        watch.look(_sums(x))
        if clamp:
            x.clamp_(0, 1)
    watch.check()
    if trace is not None:
        trace.record(steps, x, field(x)[0])
    return x


@torch.no_grad()
def igebm_chain(
    field: Gradient,
    x: Tensor,
    noise: Noise,
    *,
    steps: int,
    step_size: float = 10.0,
    noise_scale: float = 0.005,
    clip: float = 0.01,
    watch: Watch | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """The loop of [2]'s code: noise first, then a clipped gradient, then back into [0, 1].

    Step and noise are chosen apart, so that this is no sampler of exp(-U) but of something far
    cooler: at step 10 and noise 0.005 the temperature is about 0.005^2 / 20.
    """
    watch = watch or Watch()
    for step in range(steps):
        if trace is not None and trace.wants(step):
            trace.record(step, x, field(x)[0])
        x.add_(noise.normal(), alpha=noise_scale)
        _, gradient = field(x)
        x.add_(gradient.clamp_(-clip, clip), alpha=-step_size)
        watch.look(_sums(x))
        x.clamp_(0, 1)
    watch.check()
    if trace is not None:
        trace.record(steps, x, field(x)[0])
    return x


@torch.no_grad()
def mala_chain(
    field: Gradient,
    x: Tensor,
    noise: Noise,
    *,
    steps: int,
    step_size: float,
    temperature: float = 1.0,
    watch: Watch | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Langevin steps as proposals of Metropolis and Hastings: exact at any step size [3].

    x' ~ q(.|x) = N(x - (eps / 2) grad U(x), eps T) is accepted with probability

        min(1, exp((U(x) - U(x')) / T) q(x|x') / q(x'|x)).
    """
    watch = watch or Watch()
    variance = step_size * temperature
    energy, gradient = field(x)
    _check_start(energy, gradient, watch)
    accepted = torch.zeros_like(energy)
    for step in range(steps):
        if trace is not None and trace.wants(step):
            trace.record(step, x, energy)
        alpha = noise.normal()
        proposal = torch.add(x, gradient, alpha=-0.5 * step_size).add_(alpha, alpha=variance**0.5)
        new_energy, new_gradient = field(proposal)
        watch.look(_energy_or_zero(proposal, new_energy))
        back = torch.sub(x, proposal).add_(new_gradient, alpha=0.5 * step_size)
        log_ratio = (energy - new_energy) / temperature
        log_ratio += 0.5 * _sums(alpha.square()) - _sums(back.square()) / (2 * variance)
        # Where anything is NaN the comparison is false: x' is refused.
        accept = noise.uniform().log() < log_ratio
        accepted += accept
        where = _wide(accept, x)
        torch.where(where, proposal, x, out=x)
        torch.where(where, new_gradient, gradient, out=gradient)
        energy = torch.where(accept, new_energy, energy)
    watch.check()
    if trace is not None:
        trace.record(steps, x, energy)
        trace.record_accepted(accepted / max(1, steps))
    return x


@torch.no_grad()
def hmc_chain(
    field: Gradient,
    x: Tensor,
    noise: Noise,
    *,
    steps: int,
    step_size: float,
    leapfrog: int = 10,
    jitter: float = 0.2,
    temperature: float = 1.0,
    watch: Watch | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Hamiltonian Monte Carlo with unit mass [4, figure 2].

    Each of ``steps`` draws a momentum p ~ N(0, T), follows H = U(x) + |p|^2 / 2 for ``leapfrog``
    steps, and accepts where it ends with probability min(1, exp(-(H' - H) / T)). Each chain and
    trajectory has a step size of its own within ``jitter`` of ``step_size``, as [4, section 3.2]
    advises: a fixed length may be a period of the motion.
    """
    watch = watch or Watch()
    energy, gradient = field(x)
    _check_start(energy, gradient, watch)
    accepted = torch.zeros_like(energy)
    for step in range(steps):
        if trace is not None and trace.wants(step):
            trace.record(step, x, energy)
        momentum = noise.normal() * temperature**0.5
        uniform = noise.uniform()
        size = _wide(step_size * (1 + jitter * (2 * noise.uniform() - 1)), x)
        before = energy + 0.5 * _sums(momentum.square())
        position, new_energy, new_gradient = x.clone(), energy, gradient
        momentum = momentum - 0.5 * size * gradient
        for turn in range(leapfrog):
            position.addcmul_(size, momentum)
            new_energy, new_gradient = field(position)
            momentum.addcmul_(size, new_gradient, value=-1.0 if turn < leapfrog - 1 else -0.5)
        watch.look(_energy_or_zero(position, new_energy))
        after = new_energy + 0.5 * _sums(momentum.square())
        accept = uniform.log() < (before - after) / temperature
        accepted += accept
        where = _wide(accept, x)
        torch.where(where, position, x, out=x)
        gradient = torch.where(where, new_gradient, gradient)
        energy = torch.where(accept, new_energy, energy)
    watch.check()
    if trace is not None:
        trace.record(steps, x, energy)
        trace.record_accepted(accepted / max(1, steps))
    return x


def _sums(x: Tensor) -> Tensor:
    """Sum over all dimensions but the first, (n,); not finite where a number of it is not."""
    return x.flatten(1).sum(1)


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """(n,) as (n, 1, ...), to go with x."""
    return values.view(-1, *[1] * (x.ndim - 1))


def _energy_or_zero(x: Tensor, energy: Tensor) -> Tensor:
    """The energy where it has to be a number.

    A trajectory may fly apart, and a density may be zero: both mean a refused proposal. But a NaN,
    or minus infinity, at a finite x is no energy.
    """
    refused = ~_sums(x).isfinite() | (energy == torch.inf)
    return energy.masked_fill(refused, 0)


def _check_start(energy: Tensor, gradient: Tensor, watch: Watch) -> None:
    bad = ~(energy + _sums(gradient)).isfinite()
    if bad.any():
        raise DivergedChainError(
            watch.first + int(bad.nonzero()[0]), 0, hint="Start where the energy is finite"
        )
