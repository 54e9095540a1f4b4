"""Which samples make up which batch, and fetching them ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

from kexue_core.training.recipe import Batch
from kexue_core.training.seeding import derive

__all__ = ["Order", "Prefetch"]


class Order:
    """The order of samples: one random permutation an epoch, end to end.

    Batch *t* holds positions ``t * batch_size`` and following of that endless sequence, whatever
    was asked before: it is a function of (seed, t) alone. Batches run over the end of an epoch, so
    that every sample is seen equally often.

    Args:
        n: Number of samples.
        batch_size: Samples a batch, over all processes.
        seed: Seed of the run.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self._epochs: dict[int, list[int]] = {}

    def indices(self, t: int) -> list[int]:
        """Samples of batch ``t`` (from 0)."""
        return self.take(t * self.batch_size, self.batch_size)

    def take(self, start: int, count: int) -> list[int]:
        """``count`` samples from position ``start`` of the sequence."""
        found: list[int] = []
        while len(found) < count:
            epoch, offset = divmod(start + len(found), self.n)
            found += self._epoch(epoch)[offset : offset + count - len(found)]
        return found

    def _epoch(self, epoch: int) -> list[int]:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(derive(self.seed, "epoch", epoch))
            self._epochs = {e: p for e, p in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = torch.randperm(self.n, generator=generator).tolist()
        return self._epochs[epoch]


class Prefetch:
    """Fetch the next batches in a thread, so that decoding does not hold up the step.

    Args:
        fetch: Batch of a step; called in order.
        start: First step.
        stop: Step before which to end.
        depth: Batches held ready.
    """

    def __init__(
        self, fetch: Callable[[int], Batch], start: int, stop: int, depth: int = 2
    ) -> None:
        self._fetch = fetch
        self._stop = stop
        self._next = start
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kexue-batches")
        self._ready: deque[Future[Batch]] = deque()
        for _ in range(depth):
            self._submit()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self) -> Batch:
        """The next batch; an error of ``fetch`` is raised here."""
        future = self._ready.popleft()
        self._submit()
        return future.result()

    def _submit(self) -> None:
        if self._next < self._stop:
            self._ready.append(self._pool.submit(self._fetch, self._next))
            self._next += 1
