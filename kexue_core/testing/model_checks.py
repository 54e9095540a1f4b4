"""Promises of every model, whatever it can do: config, size, gradients, seeds, batches, types."""

from __future__ import annotations

import dataclasses
import functools
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
from kexue_core.testing.precision_checks import (
    TOLERANCE_FLOAT32,
    bfloat16_is_close,
    float64_is_kept,
)
from kexue_core.testing.subjects import ModelSubject, Probe, plain
from kexue_core.testing.values import difference, length, rows, some, sparse_strides, tensors
from kexue_core.testing.watching import active_dropout

__all__ = ["MODEL_CHECKS"]

#: CPU seconds in which a tiny model must be built and run once.
TINY_SECONDS = 1.0

#: Relative tolerance of two float64 computations that differ only in the order of sums.
TOLERANCE = 1e-8

#: Starts, and steps from each, after which a parameter whose gradient was always 0 has none.
STARTS, STEPS = 4, 3


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
    # Field by field: with compare=False the configs are equal whatever the field holds.
    lost = [k for k, v in before.items() if getattr(after, k) != v]
    if lost or after != subject.config:
        raise CheckFailure(
            f"{', '.join(lost) or 'A field'} differs after JSON",
            "Use numbers, strings, booleans, None and tuples of them; JSON has no numbers as keys",
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
    """Every parameter that asks for a gradient gets a finite one from ``forward``, not always 0."""
    model = subject.build().train()
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not wanted:
        return
    _backward(subject, model)
    missing = [name for name, p in wanted.items() if p.grad is None]
    if missing:
        raise CheckFailure(
            f"{some(missing)} gets no gradient from forward",
            "Use it in forward, remove it, or make it a buffer or requires_grad_(False)",
        )
    odd = [n for n, p in wanted.items() if p.grad is not None and not p.grad.isfinite().all()]
    if odd:
        raise CheckFailure(
            f"The gradient of {some(odd)} is not finite",
            "Look for a division by zero, sqrt(0), log(0) or exp of something large",
        )
    idle = _never_moved(subject, _still(model))
    if idle:
        raise CheckFailure(
            f"The gradient of {some(sorted(idle))} is 0 from every start and after every step",
            "Let what forward returns depend on it (0 * p.sum() does not), remove it, "
            "or declare that it is not trained: a buffer, or requires_grad_(False)",
        )


def _backward(subject: ModelSubject, model: nn.Module) -> None:
    """Differentiate the mean square of all that forward returns."""
    probe = subject.probes(model)[0]
    outputs = [t for t in tensors(probe.call(probe.make(2))) if t.requires_grad]
    if not outputs:
        raise CheckFailure(
            "Nothing that forward returns carries a gradient",
            "Remove torch.no_grad, .detach() or .data from the path of forward",
        )
    loss = sum((t.float().square().mean() for t in outputs), start=torch.zeros(()))
    loss.backward()  # type: ignore[no-untyped-call]


def _still(model: nn.Module) -> set[str]:
    """Parameters whose gradient is all zero, or none."""
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name for name, p in wanted.items() if p.grad is None or not p.grad.any()}


def _never_moved(subject: ModelSubject, idle: set[str]) -> set[str]:
    """Which of some parameters keep a gradient of 0: a dead unit lives from another start."""
    for seed in range(1, STARTS):
        if not idle:
            break
        model = subject.build(seed=seed).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-2)
        for _ in range(STEPS):
            optimizer.zero_grad()
            _backward(subject, model)
            idle = idle & _still(model)
            # Unbounded steps would end in NaN, whose gradient is not 0 either.
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    return idle


def seeds_decide(subject: ModelSubject) -> None:
    """One seed gives one model, and one seed one output, whatever the global seed is."""
    first = subject.build(perturbed=False).state_dict()
    second = subject.build(perturbed=False).state_dict()
    changed = [k for k in first if not torch.equal(first[k], second[k])]
    if changed:
        raise CheckFailure(
            f"Two models built under one torch.manual_seed differ in {some(changed)}",
            "Initialise with torch's random numbers only, not numpy's or random's",
        )
    model = subject.build()
    for probe in subject.probes(model):
        if difference(_output(probe, 2), _output(probe, 2)) > 0:
            raise CheckFailure(
                f"{probe.name} gives two results for one input and seed",
                "Take all randomness from torch, or from the generator that is passed in",
            )
        if dropped := active_dropout(functools.partial(_output, probe, 2)):
            raise CheckFailure(
                f"{dropped} drops units in eval mode, in {probe.name}",
                "Use nn.Dropout, or F.dropout(x, p, training=self.training)",
            )
        # `forward` has no generator to draw from: that of a VAE may use torch's own.
        latent = probe.name == "forward" and subject.can("latent", "generator")
        if not latent and probe.is_random(probe.make(2)):
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
        # Random numbers fill memory in its order: `seeds` says whether there may be any.
        gap = 0.0 if probe.is_random(arguments) else difference(expected, result)
        if gap > TOLERANCE_FLOAT32:
            raise CheckFailure(
                f"{probe.name} changes by {gap:.2g} on input that is not contiguous",
                "Do not read memory by as_strided or data_ptr",
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
            f"{factory.__name__} needs {some(needed)} besides its config",
            "Everything that a saved model must remember belongs in the config",
        )


def _output(probe: Probe, n: int) -> Any:
    return probe.run(probe.make(n))


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, (list, tuple)) else value


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
    Check("bfloat16", bfloat16_is_close),
)
