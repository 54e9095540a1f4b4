"""Promises of every model, whatever it can do: config, size, gradients, seeds, batches, types."""

from __future__ import annotations

import dataclasses
import inspect
import json
import time
from typing import Any

import torch
from torch import nn

from kexue_core.configs import build_config
from kexue_core.errors import ConfigError
from kexue_core.specs import import_object
from kexue_core.testing.outcomes import Check, CheckFailure
from kexue_core.testing.subjects import ModelSubject, Probe, plain
from kexue_core.testing.values import difference, leaves, length, rows, sparse_strides, tensors

__all__ = ["MODEL_CHECKS"]

#: CPU seconds in which a tiny model must be built and run once.
TINY_SECONDS = 1.0

#: Relative tolerance of two float64 computations that differ only in the order of sums.
TOLERANCE = 1e-8

#: The same for float32, as far as a few hundred chained operations spread it.
TOLERANCE_FLOAT32 = 1e-3


def config_round_trip(subject: ModelSubject) -> None:
    """The config is a frozen dataclass that survives JSON, and the model keeps it."""
    config_class = import_object(subject.spec.config)
    if not dataclasses.is_dataclass(config_class) or not isinstance(config_class, type):
        raise CheckFailure(f"{subject.spec.config} is no dataclass", "Make it a frozen dataclass")
    if not config_class.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise CheckFailure(
            f"{config_class.__name__} can be changed after a model was built from it",
            "Write @dataclass(frozen=True)",
        )
    model: Any = subject.build()
    kept = getattr(model, "config", None)
    if kept != subject.config or type(kept) is not config_class:
        raise CheckFailure(
            f"model.config is {kept!r:.80}, not the {config_class.__name__} it was built from",
            "Write self.config = config in __init__",
        )
    before = plain(subject.config)
    try:
        after = build_config(config_class, json.loads(json.dumps(before)))
    except (TypeError, ConfigError) as error:
        raise CheckFailure(
            f"The config does not survive JSON: {error}",
            "Use numbers, strings, booleans, None and tuples of them",
        ) from None
    if after != subject.config:
        lost = [k for k, v in before.items() if getattr(after, k) != v]
        raise CheckFailure(
            f"{', '.join(lost) or 'a field'} differs after JSON",
            "Use numbers, strings, booleans, None and tuples of them, and compare every field",
        )
    for key, value in subject.spec.tiny.items():
        if key in before and _listed(before[key]) != _listed(value):
            raise CheckFailure(
                f"tiny says {key}={value!r} and the config holds {before[key]!r}",
                "Let __post_init__ refuse values instead of replacing them",
            )


def unknown_keys_refused(subject: ModelSubject) -> None:
    """A config with an unknown key is refused."""
    config_class = import_object(subject.spec.config)
    values = {**plain(subject.config), "no_such_setting": 1}
    try:
        config_class(**values)
    except TypeError:
        return
    raise CheckFailure(
        f"{config_class.__name__}(no_such_setting=1) is accepted, so a typing error goes unnoticed",
        "Let the dataclass write __init__; take no **kwargs",
    )


def tiny_is_fast(subject: ModelSubject) -> None:
    """``tiny`` builds and runs in less than a second of CPU time."""
    best = float("inf")
    for _ in range(2):  # the first run pays for lazy imports inside torch
        started = time.process_time()
        model = subject.build(perturbed=False)
        with torch.no_grad():
            probe = subject.probes(model)[0]
            probe.call(probe.make(2))
        best = min(best, time.process_time() - started)
        if best < TINY_SECONDS:
            return
    parameters = sum(p.numel() for p in model.parameters())
    raise CheckFailure(
        f"tiny takes {best:.1f} s of CPU time to build and run ({parameters:,} parameters)",
        "Make ModelSpec.tiny smaller: fewer layers, channels and pixels",
    )


def gradients_reach_parameters(subject: ModelSubject) -> None:
    """Every parameter that asks for a gradient gets a finite one from ``forward``."""
    model = subject.build().train()
    probe = subject.probes(model)[0]
    outputs = [t for t in tensors(probe.call(probe.make(2))) if t.requires_grad]
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not wanted:
        return
    if not outputs:
        raise CheckFailure(
            "Nothing that forward returns carries a gradient",
            "Remove torch.no_grad, .detach() or .data from the path of forward",
        )
    loss = sum((t.float().square().mean() for t in outputs), start=torch.zeros(()))
    loss.backward()  # type: ignore[no-untyped-call]
    missing = [name for name, p in wanted.items() if p.grad is None]
    if missing:
        raise CheckFailure(
            f"{_some(missing)} gets no gradient from forward",
            "Use it in forward, remove it, or make it a buffer or requires_grad_(False)",
        )
    odd = [n for n, p in wanted.items() if p.grad is not None and not p.grad.isfinite().all()]
    if odd:
        raise CheckFailure(
            f"The gradient of {_some(odd)} is not finite",
            "Look for a division by zero, sqrt(0), log(0) or exp of something large",
        )


def seeds_decide(subject: ModelSubject) -> None:
    """One seed gives one model, and one seed one output, whatever the global seed is."""
    first = subject.build(perturbed=False).state_dict()
    second = subject.build(perturbed=False).state_dict()
    changed = [k for k in first if not torch.equal(first[k], second[k])]
    if changed:
        raise CheckFailure(
            f"Two models built under one torch.manual_seed differ in {_some(changed)}",
            "Initialise with torch's random numbers only, not numpy's or random's",
        )
    model = subject.build()
    for probe in subject.probes(model):
        if difference(_output(probe, 2), _output(probe, 2)) > 0:
            raise CheckFailure(
                f"{probe.name} gives two results for one input and seed",
                "Take all randomness from torch, or from the generator that is passed in",
            )
        # `forward` has no generator to draw from: that of a VAE may use torch's own.
        if probe.name != "forward" and probe.is_random(probe.make(2)):
            raise CheckFailure(
                f"{probe.name} draws from torch's global generator",
                "In eval mode be deterministic, or draw from the generator that is passed in",
            )


def batch_does_not_matter(subject: ModelSubject) -> str | None:
    """A sample's result does not depend on the other samples of its batch."""
    model = subject.build().double()
    skipped = []
    for probe in subject.probes(model, torch.float64):
        whole = probe.make(4)
        if length(whole) != 4:
            skipped.append(f"{probe.name} takes no batch")
            continue
        together = probe.run(whole)
        if probe.name == "forward" and probe.is_random(whole):
            skipped.append(f"{probe.name} draws random numbers")
            continue
        if length(together) != 4:
            skipped.append(f"{probe.name} gives no value a sample")
            continue
        parts = [slice(0, 1), slice(0, 3)] + ([] if probe.draws else [slice(3, 4)])
        for part in parts:
            alone = probe.run(rows(whole, 4, part))
            gap = difference(rows(together, 4, part), alone)
            if gap > TOLERANCE:
                raise CheckFailure(
                    f"{probe.name} of samples {part.start}..{part.stop - 1} changes by {gap:.2g} "
                    "when they are computed without the rest of the batch",
                    "In eval mode use no statistics over the batch, mask padding, "
                    "and draw random numbers one sample after the other",
                )
    return "; ".join(skipped) + ": not compared" if skipped else None


def batch_of_one_and_none(subject: ModelSubject) -> None:
    """Batches of one and of no samples work, and keep their length."""
    model = subject.build()
    for probe in subject.probes(model):
        two = _output(probe, 2)
        for n in (1, 0):
            try:
                result = _output(probe, n)
            except Exception as error:
                raise CheckFailure(
                    f"{probe.name} fails with a batch of {n}: {type(error).__name__}: "
                    f"{' '.join(str(error).split()):.120}",
                    "Avoid x[0], .item(), squeeze() and reshape(0, -1): "
                    "name every dimension but the batch's",
                ) from error
            if length(two) == 2 and length(result) != n:
                got = length(result)
                raise CheckFailure(
                    f"{probe.name} gives {'no batch dimension' if got is None else got} "
                    f"for a batch of {n}",
                    "Keep the batch dimension: squeeze(dim) and mean(dim) name theirs",
                )


def memory_layout_does_not_matter(subject: ModelSubject) -> None:
    """Input that is not contiguous gives the same result."""
    model = subject.build()
    for probe in subject.probes(model):
        arguments = probe.make(2)
        expected = probe.run(arguments)
        try:
            result = probe.run(sparse_strides(arguments))
        except RuntimeError as error:
            raise CheckFailure(
                f"{probe.name} fails on input that is not contiguous: {error}",
                "Write reshape or flatten in place of view",
            ) from error
        gap = difference(expected, result)
        if gap > TOLERANCE_FLOAT32:
            raise CheckFailure(
                f"{probe.name} changes by {gap:.2g} on input that is not contiguous",
                "Do not read memory by as_strided or data_ptr",
            )


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
                f"{probe.name} in float64 gives float32 ({_some(lost)})",
                "Follow the input's dtype; do not call .float()",
            )
        if precise.name == "from_codes" or precise.is_random(arguments):
            continue  # codes may flip at a tie, random numbers differ by type
        gap = difference(expected, result)
        if gap > TOLERANCE_FLOAT32 and gap != float("inf"):
            raise CheckFailure(
                f"{probe.name} differs by {gap:.2g} between float32 and float64",
                "Look for a sum that cancels, or a constant that only one of them gets",
            )


def bfloat16_runs(subject: ModelSubject) -> None:
    """In bfloat16 everything runs and stays finite."""
    model = subject.build().bfloat16()
    for probe in subject.probes(model, torch.bfloat16):
        try:
            result = probe.run(probe.make(2))
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


def plain_module(subject: ModelSubject) -> None:
    """The class is a plain ``nn.Module`` that takes its config and nothing else."""
    factory = import_object(subject.spec.factory)
    if not (isinstance(factory, type) and issubclass(factory, nn.Module)):
        raise CheckFailure(
            f"{subject.spec.factory} is no subclass of nn.Module",
            "Name the class itself: `kexue save` finds the spec of a model by its class",
        )
    needed = [
        p.name
        for p in list(inspect.signature(factory).parameters.values())[1:]
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise CheckFailure(
            f"{factory.__name__} needs {_some(needed)} besides its config",
            "Everything that a saved model must remember belongs in the config",
        )


def _output(probe: Probe, n: int) -> Any:
    return probe.run(probe.make(n))


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, (list, tuple)) else value


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


MODEL_CHECKS: tuple[Check[ModelSubject], ...] = (
    Check("plain-module", plain_module),
    Check("config", config_round_trip),
    Check("unknown-keys", unknown_keys_refused),
    Check("tiny", tiny_is_fast),
    Check("gradients", gradients_reach_parameters),
    Check("seeds", seeds_decide),
    Check("batch-independence", batch_does_not_matter),
    Check("batch-0-and-1", batch_of_one_and_none),
    Check("memory-layout", memory_layout_does_not_matter),
    Check("float64", float64_is_kept),
    Check("bfloat16", bfloat16_runs),
)
