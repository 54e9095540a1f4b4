"""Facts about a model that are worth knowing and nobody's fault: compiled? exported?"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from kexue_core.testing.outcomes import Check
from kexue_core.testing.subjects import ModelSubject
from kexue_core.testing.values import difference

__all__ = ["GRAPH_CHECKS"]


def compiles(subject: ModelSubject) -> str:
    """Whether ``torch.compile`` captures ``forward`` as one graph."""

    def compiled(model: torch.nn.Module, arguments: Any) -> Any:
        # aot_eager traces what inductor would, without half a minute of C++ compilation.
        torch._dynamo.reset()
        whole = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
        return _spread(whole, arguments)

    return f"torch.compile: {_attempt(subject, compiled)}"


def exports(subject: ModelSubject) -> str:
    """Whether ``torch.export`` captures ``forward``."""

    def exported(model: torch.nn.Module, arguments: Any) -> Any:
        args, kwargs = _arguments(arguments)
        program = torch.export.export(model, args, kwargs)
        return program.module()(*args, **kwargs)

    return f"torch.export: {_attempt(subject, exported)}"


def _attempt(subject: ModelSubject, run: Callable[[torch.nn.Module, Any], Any]) -> str:
    """``supported``, or the first line of why not."""
    model = subject.build()
    probe = subject.probes(model)[0]
    arguments = probe.make(2)
    expected = probe.run(arguments)
    # Failing is an answer here: what torch says about it would drown the report.
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            found = run(model, arguments)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"not supported ({reason:.120})"
    finally:
        logging.disable(logging.NOTSET)
    gap = difference(expected, found)
    if gap > 1e-3:
        return f"runs, and differs from eager by {gap:.2g}"
    return "supported"


def _arguments(arguments: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(arguments, tuple):
        return arguments, {}
    if isinstance(arguments, Mapping):
        return (), dict(arguments)
    return (arguments,), {}


def _spread(model: Any, arguments: Any) -> Any:
    args, kwargs = _arguments(arguments)
    return model(*args, **kwargs)


GRAPH_CHECKS: tuple[Check[ModelSubject], ...] = (
    Check("compile", compiles),
    Check("export", exports),
)
