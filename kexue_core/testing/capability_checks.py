"""Promises of what a model declares it can do: latents, energies, codes, labels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kexue_core.testing.outcomes import Check, CheckFailure
from kexue_core.testing.subjects import ModelSubject, generator
from kexue_core.testing.values import difference, length, rows, tensors

__all__ = ["CAPABILITY_CHECKS", "METHODS"]

#: Capability -> what a model that declares it must have.
METHODS = {
    "latent": ("prior", "decode", "to_latent"),
    "generator": ("prior", "decode"),
    "density": ("data_shape", "log_prob", "bits_per_dim"),
    "energy": ("data_shape", "energy"),
    "codes": ("to_codes", "from_codes"),
    "code-prior": ("code_shape", "log_prob", "sample_codes", "attach", "from_codes"),
    "text-encoder": ("embed",),
    "rewriter": ("rewrite",),
    "extractor": ("extract",),
    "classifier": ("classify",),
}

#: Relative difference between a derivative and its central difference in float64.
DERIVATIVE_TOLERANCE = 1e-4


def has_methods(subject: ModelSubject) -> None:
    """The model has the methods of every capability that it declares."""
    model = subject.build()
    for capability in subject.spec.capabilities:
        missing = [m for m in METHODS[capability] if not hasattr(model, m)]
        if missing:
            raise CheckFailure(
                f"{type(model).__name__} declares {capability!r} and has no {', '.join(missing)}",
                f"Write it (kexue_core.interfaces says how), or take {capability!r} "
                "out of the spec's capabilities",
            )


def prior_is_reproducible(subject: ModelSubject) -> None:
    """Latent *i* of a seed is the same however many are drawn, and no other seed's."""
    model: Any = subject.build()
    four = model.prior(4, generator=generator(1))
    for leaf in tensors(four):
        if not leaf.ndim or len(leaf) != 4:
            raise CheckFailure(
                f"prior(4) holds a tensor of shape {tuple(leaf.shape)}",
                "The first dimension of every tensor of a latent is the sample",
            )
    if difference(rows(four, 4, slice(0, 2)), model.prior(2, generator=generator(1))) > 0:
        raise CheckFailure(
            "The first two of prior(4) are not prior(2) of the same seed",
            "Draw one sample after the other: "
            "torch.stack([torch.randn(shape, generator=generator) for _ in range(n)])",
        )
    if difference(four, model.prior(4, generator=generator(2))) == 0:
        raise CheckFailure(
            "prior gives the same latents for two seeds", "Draw them from the generator argument"
        )
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        model.prior(2, generator=generator(1))
        if not torch.equal(before, torch.get_rng_state()):
            raise CheckFailure(
                "prior draws from torch's global generator",
                "Pass generator=generator to every torch.randn, torch.rand, torch.randint",
            )


def temperature_scales(subject: ModelSubject) -> None:
    """The spread of the prior goes down with ``temperature``."""
    model: Any = subject.build()
    spreads = []
    for temperature in (1.0, 0.5):
        drawn = model.prior(64, temperature=temperature, generator=generator(1))
        floats = [t.double() for t in tensors(drawn) if t.is_floating_point()]
        if not floats:
            return  # codes or categories: there is no deviation to scale
        spreads.append(sum(float((t - t.mean(0)).square().sum()) for t in floats) ** 0.5)
    if not spreads[1] < 0.9 * spreads[0]:
        raise CheckFailure(
            f"At temperature 0.5 the prior's deviation is {spreads[1] / spreads[0]:.2f} "
            "times that at 1",
            "Multiply the prior's standard deviation by temperature",
        )


def decodes_into_range(subject: ModelSubject) -> None:
    """``decode`` gives finite data of one shape in [0, 1], also far out in the prior."""
    model: Any = subject.build()
    for temperature in (1.0, 3.0):
        with torch.no_grad():
            data = model.decode(model.prior(4, temperature=temperature, generator=generator(1)))
        _require_data(subject, model, data, f"decode at temperature {temperature:g}")


def latent_fits_decoder(subject: ModelSubject) -> None:
    """``to_latent`` gives what ``prior`` gives and ``decode`` takes, in shape and type."""
    model: Any = subject.build()
    with torch.no_grad():
        latent = model.to_latent(subject.data(model, 3))
        drawn = model.prior(3, generator=generator(1))
        found = [(tuple(t.shape), t.dtype) for t in tensors(latent)]
        wanted = [(tuple(t.shape), t.dtype) for t in tensors(drawn)]
        if found != wanted:
            raise CheckFailure(
                f"to_latent gives {found} where prior gives {wanted}",
                "Both return latents as decode takes them",
            )
        _require_data(subject, model, model.decode(latent), "decode(to_latent(x))")


def energy_is_smooth(subject: ModelSubject) -> None:
    """``energy`` is (n,), and its input gradient is finite, not zero, and its derivative."""
    model: Any = subject.build().double()
    x = subject.data(model, 4, torch.float64).requires_grad_()
    energy = model.energy(x)
    if energy.shape != (4,):
        raise CheckFailure(
            f"energy of 4 samples has shape {tuple(energy.shape)}",
            "Sum or average over every dimension but the first",
        )
    if not energy.requires_grad:
        raise CheckFailure(
            "energy carries no gradient to its input", "Remove torch.no_grad or .detach()"
        )
    (slope,) = torch.autograd.grad(energy.sum(), x)
    if not slope.isfinite().all():
        raise CheckFailure(
            "The gradient of energy with respect to x is not finite",
            "Look for sqrt(0), a norm at zero, or a division",
        )
    if not slope.any():
        raise CheckFailure(
            "The gradient of energy with respect to x is zero everywhere",
            "Langevin sampling would not move: look for dead units or rounding of x",
        )
    direction = torch.randn(x.shape, generator=generator(5), dtype=torch.float64)
    expected = (slope * direction).flatten(1).sum(1)
    with torch.no_grad():
        found = (model.energy(x + 1e-6 * direction) - model.energy(x - 1e-6 * direction)) / 2e-6
    if (gap := difference(expected, found)) > DERIVATIVE_TOLERANCE:
        raise CheckFailure(
            f"The gradient of energy is off from its difference quotient by {gap:.2g}",
            "Let autograd differentiate energy; a straight-through estimate is no gradient of it",
        )


def codes_round_trip(subject: ModelSubject) -> str | None:
    """``to_codes`` gives integers, and ``from_codes`` of them the reconstruction in [0, 1]."""
    model: Any = subject.build()
    x = subject.data(model, 4)
    with torch.no_grad():
        codes = model.to_codes(x)
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise CheckFailure(f"to_codes gives {codes.dtype}", "Return integers (torch.long)")
        if codes.ndim < 1 or len(codes) != 4 or bool((codes < 0).any()):
            raise CheckFailure(
                f"to_codes of 4 samples gives shape {tuple(codes.shape)}, least {codes.min()}",
                "Return (n, *code_shape), counted from 0",
            )
        data = model.from_codes(codes)
        _require_data(subject, model, data, "from_codes")
        if data.shape != x.shape:
            raise CheckFailure(
                f"from_codes(to_codes(x)) has shape {tuple(data.shape)}, x {tuple(x.shape)}",
                "Decode to the shape of the data",
            )
        outputs = subject.probes(model)[0].run(x) if subject.spec.example_input is None else None
        same_shape = [t for t in tensors(outputs) if t.shape == x.shape and t.is_floating_point()]
        if not same_shape:
            return "forward returns no reconstruction to compare from_codes with"
        # A decoder may end in [0, 1], in [-1, 1] or in logits.
        ends: tuple[Callable[[Tensor], Tensor], ...] = (
            lambda t: t.clamp(0, 1),
            lambda t: ((t + 1) / 2).clamp(0, 1),
            torch.sigmoid,
        )
        if min(difference(end(t), data) for t in same_shape for end in ends) > 1e-4:
            raise CheckFailure(
                "from_codes(to_codes(x)) is not what forward(x) reconstructs",
                "Decode the same vectors: the projected codebook, not its raw rows",
            )
    return None


def code_prior_is_reproducible(subject: ModelSubject) -> None:
    """``sample_codes`` gives integers (n, *code_shape), the first of a seed whatever ``n``."""
    model: Any = subject.build()
    four = model.sample_codes(4, generator=generator(1))
    if four.dtype != torch.long or tuple(four.shape) != (4, *model.code_shape):
        raise CheckFailure(
            f"sample_codes(4) gives {four.dtype} of shape {tuple(four.shape)}",
            "Return torch.long of shape (n, *code_shape)",
        )
    if not torch.equal(four[:2], model.sample_codes(2, generator=generator(1))):
        raise CheckFailure(
            "The first two of sample_codes(4) are not sample_codes(2) of the same seed",
            "Draw all random numbers of a sample before those of the next",
        )
    if torch.equal(four, model.sample_codes(4, generator=generator(2))):
        raise CheckFailure(
            "sample_codes gives the same codes for two seeds", "Draw from the generator argument"
        )
    log_prob = model.log_prob(four)
    if log_prob.shape != (4,) or not log_prob.isfinite().all() or bool((log_prob > 0).any()):
        raise CheckFailure(
            f"log_prob of codes that were drawn is {log_prob.detach()}",
            "Return (n,) nats: the log of a probability, at most 0",
        )


def labels_are_ranked(subject: ModelSubject) -> None:
    """``classify`` gives (label, score) pairs, scores in [0, 1], best first."""
    model: Any = subject.build()
    results = model.classify(subject.forward_input(model, 3))
    if len(results) != 3:
        raise CheckFailure(f"classify of 3 inputs gives {len(results)} results", "One an input")
    for ranked in results:
        for pair in ranked:
            if len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], float):
                raise CheckFailure(
                    f"classify gives {pair!r:.60}", "Give pairs (label: str, score: float)"
                )
        scores = [score for _, score in ranked]
        if not all(0 <= s <= 1 for s in scores) or scores != sorted(scores, reverse=True):
            raise CheckFailure(
                f"classify gives the scores {scores!r:.80}",
                "Scores are in [0, 1], the best first",
            )


def _require_data(subject: ModelSubject, model: Any, data: Any, what: str) -> None:
    """Data must be finite, in [0, 1], and of the model's shape."""
    if not isinstance(data, Tensor) or not data.is_floating_point():
        raise CheckFailure(f"{what} gives {type(data).__name__}", "Return one float tensor")
    if not data.isfinite().all():
        raise CheckFailure(
            f"{what} gives values that are not finite", "Bound scales away from 0 and infinity"
        )
    if data.numel() and not (float(data.min()) >= 0 and float(data.max()) <= 1):
        raise CheckFailure(
            f"{what} gives values in [{float(data.min()):.3g}, {float(data.max()):.3g}]",
            "Data are in [0, 1]: end with sigmoid, or with clamp(0, 1)",
        )
    shape = subject.data_shape(model)
    if tuple(data.shape[1:]) != shape or length(data) is None:
        raise CheckFailure(
            f"{what} has shape {tuple(data.shape)}, data_shape is {shape}",
            "Return (n, *data_shape)",
        )


def _declares(*capabilities: str) -> Callable[[ModelSubject], bool]:
    return functools.partial(_can, capabilities=capabilities)


def _can(subject: ModelSubject, *, capabilities: tuple[str, ...]) -> bool:
    return subject.can(*capabilities)


CAPABILITY_CHECKS: tuple[Check[ModelSubject], ...] = (
    Check("methods", has_methods),
    Check("prior", prior_is_reproducible, _declares("latent", "generator")),
    Check("temperature", temperature_scales, _declares("latent", "generator")),
    Check("decode-range", decodes_into_range, _declares("latent", "generator")),
    Check("latent-shapes", latent_fits_decoder, _declares("latent")),
    Check("energy-gradient", energy_is_smooth, _declares("energy")),
    Check("codes", codes_round_trip, _declares("codes")),
    Check("code-prior", code_prior_is_reproducible, _declares("code-prior")),
    Check("labels", labels_are_ranked, _declares("classifier")),
)
