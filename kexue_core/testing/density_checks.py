"""Promises of a density: that ``log_prob`` is the logarithm of one, exact or a bound.

Two formulations, of which at least one fits every model that claims to be exact:

*Change of variables.* Where the latent has as many numbers as the datum, ``x -> z`` is a bijection
and log p(x) = log N(z; 0, I) + log |det dz/dx|. The Jacobian is measured by central differences in
float64, which needs no autograd through the model and trusts nothing that the model says of itself.
This finds a wrong sign, a forgotten layer, a missing dequantisation constant, at any size.

*Quadrature.* Where the datum has one to three numbers, exp(log p) is summed over a grid and must
give 1 (at most 1 for a bound, and for a density that is only defined on [0, 1]). This fits what is
no bijection: mixtures, autoregressive models, linear-Gaussian ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kexue_core.testing.outcomes import Check, CheckFailure
from kexue_core.testing.subjects import ModelSubject, generator
from kexue_core.testing.values import difference, tensors

__all__ = ["DENSITY_CHECKS"]

#: Largest datum whose Jacobian is measured: its cost is two evaluations a number.
LARGEST_JACOBIAN = 1024

#: Nats a number by which log_prob may differ from the change of variables: central differences
#: leave about 1e-8, and the solver of a continuous flow is allowed an error of its own.
NATS = 1e-4

#: Decoding what was encoded, in float64 and float32. Glow is off by 1e-14 and 1e-6; the looser
#: figures leave room for a continuous flow's solver.
INVERSE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}

#: Relative error of the integral on the grids below.
MASS_TOLERANCE = 0.02

#: Grid points a number for 1, 2 and 3 numbers.
GRID = {1: 20001, 2: 401, 3: 81}

#: How far the grid reaches from the middle of [0, 1]. Where two neighbours agree to AGREEMENT, the
#: narrower has missed no mass and the wider is not too coarse.
REACH = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
AGREEMENT = 5e-3

#: bits_per_dim is taken at data filled with noise within a bin, log_prob at the data themselves:
#: what the noise changes is small beside how log_prob differs between a flat datum and a random
#: one. A slope of 1 may be off by so much, and the rest by so much of that difference; nats in
#: place of bits would be off by 0.31, a wrong sign by 2.
SLOPE, REST = 0.15, 0.25

#: Data and seeds that bits_per_dim is averaged over.
BITS_DATA, BITS_SEEDS = 16, 4


def log_prob_is_sane(subject: ModelSubject) -> None:
    """``log_prob`` and ``bits_per_dim`` are finite, one a sample, of a stated data shape."""
    model: Any = subject.build()
    x = subject.data(model, 4)
    with torch.no_grad():
        values = {
            "log_prob": model.log_prob(x),
            "bits_per_dim": model.bits_per_dim(x, generator=generator()),
        }
    for name, value in values.items():
        if value.shape != (4,):
            raise CheckFailure(
                f"{name} of 4 samples has shape {tuple(value.shape)}",
                "Sum over every dimension but the first",
            )
        if not value.isfinite().all():
            raise CheckFailure(
                f"{name} of data inside (0, 1) is not finite",
                "Look for log(0): clamp what a logit or a logarithm is taken of",
            )
    if float(values["log_prob"].std()) == 0:
        raise CheckFailure(
            "log_prob is the same for different data", "It must depend on its argument"
        )


def bits_follow_log_prob(subject: ModelSubject) -> None:
    """``bits_per_dim`` is -log_prob / (numbers ln 2) plus a constant of the model."""
    model: Any = subject.build().double()
    drawn = subject.data(model, BITS_DATA, torch.float64)
    # From flat data to random ones, so that log_prob spreads over nats whatever the model.
    depth = torch.linspace(0, 1, BITS_DATA, dtype=torch.float64)
    x = 0.5 + depth.reshape(-1, *[1] * (drawn.ndim - 1)) * (drawn - 0.5)
    size = x[0].numel()
    with torch.no_grad():
        expected = -model.log_prob(x) / (size * math.log(2))
        found = torch.stack(
            [model.bits_per_dim(x, generator=generator(seed)) for seed in range(BITS_SEEDS)]
        ).mean(0)
    wide, found = expected - expected.mean(), found - found.mean()
    if not wide.any():
        return  # log-prob says what is wrong
    slope = float((wide * found).sum() / wide.square().sum())
    rest = float((found - slope * wide).abs().max() / wide.abs().max())
    if abs(slope - 1) <= SLOPE and rest <= REST:
        return
    if rest > REST:
        reason = "Add the same constant for all data, and take log_prob of the data given"
    elif slope < 0:
        reason = "It has the wrong sign: few bits are likely data"
    elif abs(slope - math.log(2)) <= SLOPE:
        reason = "It is in nats: divide by ln 2"
    else:
        reason = f"Divide by the {size} numbers of a datum and by ln 2"
    raise CheckFailure(
        f"Between data bits_per_dim changes by {slope:.3g} times -log_prob / ({size} ln 2), "
        f"with a rest of {rest:.2g}",
        f"{reason}: bits = -log_prob / ({size} ln 2) + constant, 8 for a density of 8-bit data",
    )


def density_is_exact(subject: ModelSubject) -> str | None:
    """``log_prob`` is a normalised density: by its Jacobian, or by its integral."""
    model: Any = subject.build().double()
    size = math.prod(subject.data_shape(model))
    if subject.spec.bound:
        if size > 3:
            return f"a bound on {size} numbers: not integrated (a tiny of 1 to 3 would be)"
        _integrate(subject, model)
        return None
    if _is_bijection(subject, model) and size <= LARGEST_JACOBIAN:
        _compare_jacobian(subject, model)
    elif size <= 3:
        _integrate(subject, model)
    else:
        raise CheckFailure(
            f"That log_prob is exact cannot be seen: a datum has {size} numbers, and the latent is "
            "no bijection of it",
            "Choose a tiny whose data have 1 to 3 numbers, declare ModelSpec(bound=True) if it is "
            "a bound, or offer transform(x) -> (latents, log_det)",
        )
    return None


def inverse_is_exact(subject: ModelSubject) -> str | None:
    """``decode(to_latent(x))`` is x where the latent is a bijection of the datum."""
    for dtype, tolerance in INVERSE_TOLERANCE.items():
        model: Any = subject.build().to(dtype)
        if not _is_bijection(subject, model):
            return "the latent is no bijection of the datum: there is no exact inverse to expect"
        x = subject.data(model, 4, dtype)
        with torch.no_grad():
            gap = difference(x, model.decode(model.to_latent(x)))
        if gap > tolerance:
            raise CheckFailure(
                f"decode(to_latent(x)) is off from x by {gap:.2g} in {dtype}",
                "Undo every layer in the opposite order; a solver needs more or smaller steps",
            )
    return None


def _compare_jacobian(subject: ModelSubject, model: Any) -> None:
    """Hold log_prob against the prior of the latents and the measured Jacobian."""
    x = subject.data(model, 2, torch.float64)
    size = x[0].numel()
    with torch.no_grad():
        latents = _latents(model, x)
        log_det = torch.stack([_log_det(model, row) for row in x])
        base = -0.5 * (latents.square() + math.log(2 * math.pi)).sum(1)
        found = model.log_prob(x)
    gap = float((found - base - log_det).abs().max())
    if gap > NATS * size:
        sign = float((found - base + log_det).abs().max())
        reason = (
            "Its log-determinant has the wrong sign"
            if sign <= NATS * size
            else "Compare every layer's log-determinant with log |det| of its Jacobian, "
            "and let the latents be N(0, I) under the model"
        )
        raise CheckFailure(
            f"log_prob is off by {gap:.3g} nats from log N(z; 0, I) + log |det dz/dx|, "
            f"log |det dz/dx| = {float(log_det[0]):.4g}",
            reason,
        )
    if hasattr(model, "transform"):
        with torch.no_grad():
            _, claimed = model.transform(x)
        if float((claimed - log_det).abs().max()) > NATS * size:
            raise CheckFailure(
                "transform(x) gives another log-determinant than log_prob uses",
                "Return log |d latents / dx| in nats, (n,)",
            )


def _log_det(model: Any, x: Tensor) -> Tensor:
    """log |det dz/dx| at one datum, by central differences."""
    size = x.numel()
    step = 1e-5
    offsets = step * torch.eye(size, dtype=torch.float64).reshape(size, *x.shape)
    columns = []
    for chunk in torch.split(offsets, 64):
        above, below = _latents(model, x + chunk), _latents(model, x - chunk)
        columns.append((above - below) / (2 * step))
    log_det: Tensor = torch.linalg.slogdet(torch.cat(columns))[1]
    return log_det


def _latents(model: Any, x: Tensor) -> Tensor:
    """All numbers of the latents, (n, size)."""
    latent = model.transform(x)[0] if hasattr(model, "transform") else model.to_latent(x)
    return torch.cat([t.flatten(1) for t in tensors(latent)], dim=1)


def _is_bijection(subject: ModelSubject, model: Any) -> bool:
    """Whether the latents are as many real numbers as the datum."""
    if not subject.can("latent") and not hasattr(model, "transform"):
        return False
    x = subject.data(model, 1, next(iter(model.parameters()), torch.zeros(())).dtype)
    with torch.no_grad():
        latent = model.transform(x)[0] if hasattr(model, "transform") else model.to_latent(x)
    found = tensors(latent)
    return all(t.is_floating_point() for t in found) and (
        sum(t[0].numel() for t in found) == x[0].numel()
    )


def _integrate(subject: ModelSubject, model: Any) -> None:
    """Sum exp(log_prob) over grids that grow until the sum stays."""
    shape = subject.data_shape(model)
    masses = [_mass(model, shape, REACH[0])]
    if subject.spec.bound or not _accepts(model, shape):
        # What lies outside [0, 1], or between the bound and the density, is not seen.
        if masses[0] > 1 + MASS_TOLERANCE:
            raise CheckFailure(
                f"exp(log_prob) integrates to {masses[0]:.4g} over [0, 1], more than 1", _NORMALISE
            )
        return
    settled = []
    for reach in REACH[1:]:
        masses.append(_mass(model, shape, reach))
        if abs(masses[-1] - masses[-2]) < AGREEMENT * masses[-1]:
            settled.append(masses[-1])
            if abs(masses[-1] - 1) <= MASS_TOLERANCE:
                return
    figures = ", ".join(f"{mass:.4g}" for mass in settled or masses)
    raise CheckFailure(f"exp(log_prob) integrates to {figures}, not to 1", _NORMALISE)


_NORMALISE = (
    "Check the normalising constants, the natural logarithm and the sign of log-determinants; "
    "let tiny have a spread of 0.02 to 10"
)


def _mass(model: Any, shape: tuple[int, ...], reach: float) -> float:
    size = math.prod(shape)
    points = GRID[size]
    width = 2 * reach / points
    axis = 0.5 - reach + width * (torch.arange(points, dtype=torch.float64) + 0.5)
    total = 0.0
    grid = torch.cartesian_prod(*[axis] * size).reshape(-1, *shape)
    with torch.no_grad():
        for chunk in torch.split(grid, 50_000):
            total += float(model.log_prob(chunk).exp().sum())
    return total * width**size


def _accepts(model: Any, shape: tuple[int, ...]) -> bool:
    """Whether log_prob is defined outside [0, 1]."""
    try:
        with torch.no_grad():
            outside = model.log_prob(torch.full((1, *shape), -0.5, dtype=torch.float64))
    except (ValueError, RuntimeError):
        return False
    return not bool(outside.isnan().any())


def _density(subject: ModelSubject) -> bool:
    return subject.can("density")


def _exact(subject: ModelSubject) -> bool:
    return subject.can("density") and subject.can("latent") and not subject.spec.bound


DENSITY_CHECKS: tuple[Check[ModelSubject], ...] = (
    Check("log-prob", log_prob_is_sane, _density),
    Check("bits", bits_follow_log_prob, _density),
    Check("density", density_is_exact, _density),
    Check("inverse", inverse_is_exact, _exact),
)
