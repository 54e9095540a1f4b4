"""Promises of every model about number types: float64 and bfloat16 give what float32 gives."""

from __future__ import annotations

from typing import Any

import torch

from kexue_core.testing.outcomes import CheckFailure
from kexue_core.testing.subjects import ModelSubject
from kexue_core.testing.values import cast, difference, leaves, some, tensors

__all__ = ["TOLERANCE_BFLOAT16", "TOLERANCE_FLOAT32", "bfloat16_is_close", "float64_is_kept"]

#: Relative tolerance of two float32 computations, as far as a few hundred chained operations
#: spread their rounding.
TOLERANCE_FLOAT32 = 1e-3

#: The same for bfloat16, whose eight bits a realnvp spreads to 0.025: it finds what is nonsense.
TOLERANCE_BFLOAT16 = 0.25


def float64_is_kept(subject: ModelSubject) -> None:
    """In float64 everything runs, stays float64 and agrees with float32."""
    single, double = subject.build(), subject.build().double()
    pairs = zip(subject.probes(single), subject.probes(double, torch.float64), strict=True)
    for probe, precise in pairs:
        expected = probe.run(probe.make(2))
        try:
            arguments = precise.make(2)
            result = precise.run(arguments)
        except RuntimeError as error:
            raise CheckFailure(
                f"{probe.name} fails in float64: {error}",
                "Make tensors with x.new_zeros(...) or dtype=x.dtype, not torch.zeros(...)",
            ) from error
        lost = [
            path or "its result"
            for path, leaf in leaves(result)
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float32
        ]
        if lost:
            raise CheckFailure(
                f"{probe.name} in float64 gives float32 ({some(lost)})",
                "Follow the input's dtype; do not call .float()",
            )
        _require_same_shapes(probe.name, "float64", expected, result)
        _require_finite(probe.name, "float64", expected, result)
        if precise.name == "from_codes" or precise.is_random(arguments):
            continue  # codes may flip at a tie, random numbers differ by type
        gap = difference(expected, result)
        # Infinite: a label or a code that flipped at a tie.
        if gap > TOLERANCE_FLOAT32 and gap != float("inf"):
            raise CheckFailure(
                f"{probe.name} differs by {gap:.2g} between float32 and float64",
                "Look for a sum that cancels, or a constant that only one of them gets",
            )


def bfloat16_is_close(subject: ModelSubject) -> None:
    """In bfloat16 everything runs, stays finite and agrees roughly with float32."""
    model = subject.build().bfloat16()
    # Rounded to bfloat16 as well, so that only the computation differs.
    reference = subject.build().bfloat16().float()
    pairs = zip(subject.probes(model, torch.bfloat16), subject.probes(reference), strict=True)
    for probe, single in pairs:
        arguments = probe.make(2)
        try:
            result = probe.run(arguments)
        except RuntimeError as error:
            raise CheckFailure(
                f"{probe.name} fails in bfloat16: {error}",
                "Follow the input's dtype, and put x.float() around what torch lacks in bfloat16 "
                "(linear algebra, FFT)",
            ) from error
        if not all(bool(t.isfinite().all()) for t in tensors(result) if t.is_floating_point()):
            raise CheckFailure(
                f"{probe.name} in bfloat16 gives values that are not finite",
                "Compute exponents, variances and their like in float32",
            )
        wider = cast(arguments, torch.float32)
        expected = single.run(wider)
        _require_same_shapes(probe.name, "bfloat16", expected, result)
        if single.is_random(wider):
            continue
        gap = difference(expected, result)
        if gap > TOLERANCE_BFLOAT16 and gap != float("inf"):
            raise CheckFailure(
                f"{probe.name} in bfloat16 is off by {gap:.2g} from float32 with the same weights",
                "Compute in float32 what bfloat16's eight bits do not hold: sums of many numbers, "
                "differences of close ones, log-determinants",
            )


def _require_same_shapes(name: str, dtype: str, expected: Any, result: Any) -> None:
    wanted, found = ([tuple(t.shape) for t in tensors(v)] for v in (expected, result))
    if wanted != found:
        raise CheckFailure(
            f"{name} in {dtype} gives shapes {found}, in float32 {wanted}",
            "Let no shape depend on the number type",
        )


def _require_finite(name: str, dtype: str, expected: Any, result: Any) -> None:
    """What is NaN, or infinite where float32 is not."""
    for single, precise in zip(tensors(expected), tensors(result), strict=True):
        bad = precise.isnan() | (precise.isinf() & single.isfinite())
        if bad.any():
            raise CheckFailure(
                f"{name} in {dtype} gives {float(precise[bad][0])}",
                "Look for a constant or an epsilon that is only right in float32",
            )
