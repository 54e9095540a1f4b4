"""Samplers of energy-based models, as verbs and recipes call them.

All take ``sampler(model, n, *, generator, **options)`` and beside the options of their specs

    initial   where the chains start, (n, *shape), instead of ``start``
    replay    a :class:`~kexue_ebm.replay.ReplayBuffer` to start from and to leave the ends in
    trace     a :class:`~kexue_ebm.chains.Trace` that records the way

A chain starts, by ``start``, from ``"uniform"`` noise in [0, 1], from ``"normal"`` noise, or from
the small ``"replay"`` buffer that was published with the weights: the second kind of picture is
what training saw, the first what the model can do by itself, and they differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kexue_core.errors import ConfigError
from kexue_ebm.chains import ChainNoise, Field, Trace, Watch, frozen, placed_as
from kexue_ebm.dynamics import hmc_chain, igebm_chain, langevin_chain, mala_chain
from kexue_ebm.replay import ReplayBuffer, dequantize

__all__ = ["STARTS", "hmc", "igebm_langevin", "langevin", "mala"]

STARTS = ("uniform", "normal", "replay")

#: ``chain(field, x, noise, watch=, trace=)``, with everything else settled.
_Chain = Callable[..., Tensor]


def langevin(
    model: Any,
    n: int,
    *,
    generator: torch.Generator,
    steps: int = 1_000,
    step_size: float = 1e-4,
    temperature: float = 1.0,
    clamp: bool = False,
    start: str = "uniform",
    batch_size: int = 256,
    initial: Tensor | None = None,
    replay: ReplayBuffer | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Langevin dynamics at a temperature; see :func:`~kexue_ebm.dynamics.langevin_chain`.

    Args:
        model: Anything with ``energy`` and ``data_shape``.
        n: Number of samples, >= 0.
        generator: Source of all randomness, on the CPU.
        steps: Length of the chains.
        step_size: eps; drift eps / 2, noise sqrt(eps T).
        temperature: T >= 0; 0 is descent.
        clamp: Keep chains in [0, 1].
        start: ``uniform``, ``normal`` or ``replay``.
        batch_size: Chains run at once. It does not change them but for rounding.
        initial, replay, trace: See the top of this module.

    Returns:
        The ends of the chains, (n, *data_shape).

    Raises:
        ConfigError: An option is out of range.
        DivergedChainError: A chain became NaN or infinite.
    """
    _check(steps=steps, step_size=step_size, temperature=temperature)
    chain = partial(
        langevin_chain, steps=steps, step_size=step_size, temperature=temperature, clamp=clamp
    )
    return _run(
        chain,
        model,
        n,
        generator=generator,
        start=start,
        batch_size=batch_size,
        initial=initial,
        replay=replay,
        trace=trace,
    )


def igebm_langevin(
    model: Any,
    n: int,
    *,
    generator: torch.Generator,
    steps: int = 60,
    step_size: float = 10.0,
    noise_scale: float = 0.005,
    clip: float = 0.01,
    start: str = "uniform",
    batch_size: int = 256,
    initial: Tensor | None = None,
    replay: ReplayBuffer | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """The chains of Du & Mordatch; see :func:`~kexue_ebm.dynamics.igebm_chain`.

    Args:
        model: Anything with ``energy`` and ``data_shape``; data in [0, 1].
        n: Number of samples, >= 0.
        generator: Source of all randomness, on the CPU.
        steps: Length of the chains; training's 60 continue earlier chains, noise takes more.
        step_size: Factor on the gradient.
        noise_scale: Deviation of the noise of a step.
        clip: Bound on each number of the gradient.
        start, batch_size, initial, replay, trace: As in :func:`langevin`.

    Returns:
        The ends of the chains, (n, *data_shape), in [0, 1].

    Raises:
        ConfigError: An option is out of range.
        DivergedChainError: A chain became NaN or infinite.
    """
    _check(steps=steps, step_size=step_size, noise_scale=noise_scale, clip=clip)
    chain = partial(
        igebm_chain, steps=steps, step_size=step_size, noise_scale=noise_scale, clip=clip
    )
    return _run(
        chain,
        model,
        n,
        generator=generator,
        start=start,
        batch_size=batch_size,
        initial=initial,
        replay=replay,
        trace=trace,
    )


def mala(
    model: Any,
    n: int,
    *,
    generator: torch.Generator,
    steps: int = 1_000,
    step_size: float = 1e-4,
    temperature: float = 1.0,
    start: str = "uniform",
    batch_size: int = 256,
    initial: Tensor | None = None,
    replay: ReplayBuffer | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Metropolis-adjusted Langevin; see :func:`~kexue_ebm.dynamics.mala_chain`.

    Args:
        model: Anything with ``energy`` and ``data_shape``.
        n: Number of samples, >= 0.
        generator: Source of all randomness, on the CPU.
        steps: Length of the chains.
        step_size: eps of the proposal; about 0.57 accepted is best in high dimension.
        temperature: T > 0.
        start, batch_size, initial, replay, trace: As in :func:`langevin`.

    Returns:
        The ends of the chains, (n, *data_shape).

    Raises:
        ConfigError: An option is out of range.
        DivergedChainError: An energy was NaN.
    """
    _check(steps=steps, step_size=step_size, positive_temperature=temperature)
    chain = partial(mala_chain, steps=steps, step_size=step_size, temperature=temperature)
    return _run(
        chain,
        model,
        n,
        generator=generator,
        start=start,
        batch_size=batch_size,
        initial=initial,
        replay=replay,
        trace=trace,
        uniforms=1,
    )


def hmc(
    model: Any,
    n: int,
    *,
    generator: torch.Generator,
    steps: int = 100,
    step_size: float = 0.01,
    leapfrog: int = 10,
    jitter: float = 0.2,
    temperature: float = 1.0,
    start: str = "uniform",
    batch_size: int = 256,
    initial: Tensor | None = None,
    replay: ReplayBuffer | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Hamiltonian Monte Carlo; see :func:`~kexue_ebm.dynamics.hmc_chain`.

    Args:
        model: Anything with ``energy`` and ``data_shape``.
        n: Number of samples, >= 0.
        generator: Source of all randomness, on the CPU.
        steps: Trajectories.
        step_size: Of a leapfrog step; about 0.65 accepted is best in high dimension.
        leapfrog: Steps a trajectory, each one gradient.
        jitter: Share in [0, 1) by which step sizes vary.
        temperature: T > 0.
        start, batch_size, initial, replay, trace: As in :func:`langevin`.

    Returns:
        The ends of the chains, (n, *data_shape).

    Raises:
        ConfigError: An option is out of range.
        DivergedChainError: An energy was NaN.
    """
    _check(steps=steps, step_size=step_size, positive_temperature=temperature)
    if leapfrog < 1 or not 0 <= jitter < 1:
        raise ConfigError(
            f"leapfrog={leapfrog} and jitter={jitter} make no trajectory",
            hint="leapfrog must be at least 1, jitter in [0, 1)",
        )
    chain = partial(
        hmc_chain,
        steps=steps,
        step_size=step_size,
        leapfrog=leapfrog,
        jitter=jitter,
        temperature=temperature,
    )
    return _run(
        chain,
        model,
        n,
        generator=generator,
        start=start,
        batch_size=batch_size,
        initial=initial,
        replay=replay,
        trace=trace,
        uniforms=2,
    )


def _check(**values: float) -> None:
    """Refuse what no chain can run with."""
    for name, value in values.items():
        zero_is_fine = name in ("steps", "temperature", "noise_scale")
        if not (0 < value < float("inf") or (zero_is_fine and value == 0)):
            raise ConfigError(
                f"{name.removeprefix('positive_')} cannot be {value}",
                hint=f"It must be finite and {'at least' if zero_is_fine else 'above'} 0",
            )


def _run(
    chain: _Chain,
    model: Any,
    n: int,
    *,
    generator: torch.Generator,
    start: str,
    batch_size: int,
    initial: Tensor | None,
    replay: ReplayBuffer | None,
    trace: Trace | None,
    uniforms: int = 0,
) -> Tensor:
    """Run ``n`` chains, ``batch_size`` at a time, each on random numbers of its own."""
    shape, like = tuple(model.data_shape), placed_as(model)
    if n < 0 or batch_size < 1:
        raise ConfigError(
            f"Cannot draw n={n} in batches of {batch_size}",
            hint="n must be >= 0, batch_size >= 1",
        )
    if initial is not None and tuple(initial.shape) != (n, *shape):
        raise ConfigError(
            f"initial has shape {tuple(initial.shape)}, the chains {(n, *shape)}",
            hint="Give one state a chain",
        )
    source = _source(model, start, initial, replay)
    batches = []
    with frozen(model):
        field = Field(model)
        for first in range(0, n, batch_size):
            # A chain's seed is the next number of the caller's generator, whatever the batch.
            generators = [
                torch.Generator().manual_seed(_seed(generator))
                for _ in range(min(batch_size, n - first))
            ]
            noise = ChainNoise(generators, shape, like, uniforms=uniforms)
            entries = None
            if initial is not None:
                # Cloned, for chains change their state in place.
                x = initial[first : first + batch_size].to(like, copy=True).contiguous()
            else:
                x, entries = source(generators, shape, like)
            if trace is not None:
                trace.begin()
            x = chain(field, x, noise, watch=Watch(first), trace=trace)
            if replay is not None and entries is not None:
                replay.put(entries, x)
            batches.append(x)
    return torch.cat(batches) if batches else like.new_empty((0, *shape))


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


#: (generators, shape, like) to states (n, *shape) and the entries of the buffer they come from.
_Source = Callable[[list[torch.Generator], tuple[int, ...], Tensor], tuple[Tensor, Tensor | None]]


def _source(model: Any, start: str, initial: Tensor | None, replay: ReplayBuffer | None) -> _Source:
    """Where chains start from."""
    if replay is not None:
        if initial is not None:
            raise ConfigError("initial and replay are two starts", hint="Give one of them")
        return partial(_from_replay, replay)
    if start not in STARTS:
        raise ConfigError(f"start cannot be {start!r}", hint=f"Choose from {', '.join(STARTS)}")
    if start != "replay":
        return partial(_from_noise, torch.rand if start == "uniform" else torch.randn)
    kept = getattr(model, "replay", None)
    if not isinstance(kept, Tensor) or not len(kept):
        raise ConfigError("These weights keep no replay buffer", hint="Choose start=uniform")
    return partial(_from_kept, kept)


def _from_noise(
    draw: Callable[..., Tensor],
    generators: list[torch.Generator],
    shape: tuple[int, ...],
    like: Tensor,
) -> tuple[Tensor, None]:
    drawn = [draw(shape, generator=g, dtype=like.dtype) for g in generators]
    return torch.stack(drawn).to(like.device), None


def _from_kept(
    kept: Tensor, generators: list[torch.Generator], shape: tuple[int, ...], like: Tensor
) -> tuple[Tensor, None]:
    """A state of the published buffer each, its 8 bits filled up."""
    chosen = [int(torch.randint(len(kept), (), generator=g)) for g in generators]
    noise, _ = _from_noise(torch.rand, generators, shape, like)
    return dequantize(kept[chosen], noise), None


def _from_replay(
    replay: ReplayBuffer, generators: list[torch.Generator], shape: tuple[int, ...], like: Tensor
) -> tuple[Tensor, Tensor]:
    choice, _ = _from_noise(torch.rand, generators, (2,), like)
    uniform, _ = _from_noise(torch.rand, generators, shape, like)
    return replay.start(choice, uniform)
