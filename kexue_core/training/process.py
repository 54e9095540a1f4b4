"""What a training process asks of its surroundings: device, share of the batch, signals."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from kexue_core.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["make_accelerator", "rows_per_process", "signals_noted"]


def make_accelerator(device: str) -> Accelerator:
    """The Accelerator for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TrainingError: There is no such device.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"There is no device {device!r}", hint="Choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("torch sees no CUDA device", hint="Use --device cpu")
    # While the first process evaluates, the others wait.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=2))
    # An environment variable of Accelerate must not change what a recipe computes.
    return Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[patience])


def rows_per_process(batch_size: int, processes: int) -> int:
    """Samples of a global batch that each process takes.

    Raises:
        ConfigError: They would not be equally many.
    """
    if batch_size % processes:
        raise ConfigError(
            f"batch_size {batch_size} does not divide over {processes} processes",
            hint=f"Take a multiple: --set batch_size={batch_size + -batch_size % processes}",
        )
    return batch_size // processes


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying; a second SIGINT interrupts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return

    def note(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        print("kexue: finishing the step and saving", file=sys.stderr, flush=True)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
