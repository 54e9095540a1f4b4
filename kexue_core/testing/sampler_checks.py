"""Promises of a sampler: shape, range, seeds, and the moments of what it claims to draw from."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from kexue_core.testing.gaussian import Gaussian
from kexue_core.testing.outcomes import Check, CheckFailure
from kexue_core.testing.subjects import SamplerSubject
from kexue_core.testing.values import difference

__all__ = ["SAMPLER_CHECKS"]

#: Samples for the moments: a standard error of 2 % of a deviation.
SAMPLES = 2_500

#: What the moments may be off by, as parts of a deviation: five standard errors and a bias of 5 %,
#: which an unadjusted Langevin step of a sensible size has.
MEAN_TOLERANCE = 0.15
COVARIANCE_TOLERANCE = 0.25


def signature_fits(subject: SamplerSubject) -> None:
    """The function is ``(model, n, *, generator, **options)``, with the spec's defaults."""
    parameters = inspect.signature(subject.function).parameters
    names = list(parameters)
    if names[:2] != ["model", "n"] or "generator" not in parameters:
        raise CheckFailure(
            f"{subject.spec.factory} takes ({', '.join(names)})",
            "Write def sampler(model, n, *, generator, option=default)",
        )
    for name, option in subject.spec.options.items():
        if name not in parameters:
            raise CheckFailure(
                f"The spec's option {name!r} is none of the function's",
                "Correct SamplerSpec.options or the signature",
            )
        default = parameters[name].default
        if default is parameters[name].empty or default != option.default:
            raise CheckFailure(
                f"{name} defaults to {default!r} in the function, to {option.default!r} in the "
                "spec",
                "Give both one default",
            )
    undeclared = [
        name
        for name, p in list(parameters.items())[2:]
        if name != "generator" and p.default is p.empty and p.kind is p.KEYWORD_ONLY
    ]
    if undeclared:
        raise CheckFailure(
            f"{', '.join(undeclared)} must be given and is no option of the spec",
            "Give it a default and declare it in SamplerSpec.options",
        )


def shape_and_range(subject: SamplerSubject) -> None:
    """``n`` samples are (n, *data_shape), finite and, if decoded, in [0, 1]; n may be 0."""
    shape: Any = None
    for n in (3, 1, 0):
        drawn = subject.draw(n)
        shape = shape or tuple(drawn.shape[1:])
        if tuple(drawn.shape) != (n, *shape):
            raise CheckFailure(
                f"n={n} gives the shape {tuple(drawn.shape)}", "Return (n, *data_shape)"
            )
        if drawn.requires_grad:
            raise CheckFailure("The samples require a gradient", "Detach them")
        if not drawn.isfinite().all():
            raise CheckFailure("Samples are not finite", "Lower the step size, or clip gradients")
        if (
            not subject.spec.targets_density
            and drawn.numel()
            and not (float(drawn.min()) >= 0 and float(drawn.max()) <= 1)
        ):
            raise CheckFailure(
                f"Samples lie in [{float(drawn.min()):.3g}, {float(drawn.max()):.3g}]",
                "Data are in [0, 1]: clamp, or declare targets_density=True",
            )


def seeds_decide(subject: SamplerSubject) -> None:
    """Sample *i* of a seed is the same however many are drawn, and torch's own seed is idle."""
    three = subject.draw(3)
    if difference(three, subject.draw(3)) > 0:
        raise CheckFailure("One seed gives two results", "Draw everything from generator")
    if difference(three, subject.draw(3, seed=1)) == 0:
        raise CheckFailure("Two seeds give one result", "Draw everything from generator")
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        subject.draw(2)
        if not torch.equal(before, torch.get_rng_state()):
            raise CheckFailure(
                "The sampler draws from torch's global generator",
                "Pass generator=generator to every torch.randn, torch.rand, torch.randint",
            )
    # One seed a sample keeps chains apart, and lets batches be of any size.
    per_sample = (
        "Give every sample a generator of its own, seeded from the one passed in, "
        "or draw all of a sample before the next"
    )
    if difference(three[:2], subject.draw(2)) > 1e-5:
        raise CheckFailure("The first two of 3 samples are not the 2 of the same seed", per_sample)
    if "batch_size" in subject.spec.options and (
        difference(three, subject.draw(3, batch_size=2)) > 1e-5
    ):
        raise CheckFailure("batch_size changes the samples", per_sample)


def model_is_left_alone(subject: SamplerSubject) -> None:
    """The model keeps its tensors, their requires_grad and its mode."""
    model = subject.model
    if not isinstance(model, torch.nn.Module):
        return

    def state() -> list[Any]:
        return [
            *(t.detach().clone() for t in model.state_dict().values()),
            *(p.requires_grad for p in model.parameters()),
            *(p.grad is None for p in model.parameters()),
            model.training,
        ]

    before = state()
    subject.draw(2)
    if difference(before, state()) > 0:
        raise CheckFailure(
            "Sampling changes the model",
            "Differentiate with torch.autograd.grad with respect to x alone, and restore flags",
        )


def moments_agree(subject: SamplerSubject) -> None:
    """On a known Gaussian the samples have its mean and covariance."""
    model = subject.model
    if not isinstance(model, Gaussian):
        raise CheckFailure(
            "targets_density is declared, and example replaces the Gaussian it is checked on",
            "Leave example out, or targets_density",
        )
    drawn = subject.draw(SAMPLES)
    deviation = model.covariance.diagonal().sqrt()
    mean_gap = ((drawn.mean(0) - model.mean) / deviation).abs().max()
    if mean_gap > MEAN_TOLERANCE:
        raise CheckFailure(
            f"The mean is off by {float(mean_gap):.2f} deviations on a Gaussian",
            "Run longer in SamplerSpec.tiny, and check the sign of the gradient",
        )
    scale = deviation[:, None] * deviation[None, :]
    covariance_gap = ((drawn.T.cov() - model.covariance) / scale).abs().max()
    if covariance_gap > COVARIANCE_TOLERANCE:
        ratio = float((drawn.std(0) / deviation).mean())
        raise CheckFailure(
            f"The covariance is off by {float(covariance_gap):.2f} of the variance on a Gaussian, "
            f"deviations are {ratio:.2f} times the true ones",
            "Langevin noise is sqrt(2 * step) for a step along -energy; choose a step in "
            "SamplerSpec.tiny that suits deviations of 0.08 and 0.12, and enough steps",
        )


SAMPLER_CHECKS: tuple[Check[SamplerSubject], ...] = (
    Check("signature", signature_fits),
    Check("shape-and-range", shape_and_range),
    Check("seeds", seeds_decide),
    Check("model-untouched", model_is_left_alone),
    Check("moments", moments_agree, lambda s: s.spec.targets_density),
)
