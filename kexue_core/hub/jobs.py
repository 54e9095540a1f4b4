"""Several files at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from kexue_core.hub.transfer import Run

__all__ = ["Job", "run_jobs"]

#: Makes sure of one file and returns its sha256.
Job = Callable[[Run], str]

# Seconds that threads have to put their parts down in order after an error or Ctrl-C.
_GRACE = 1.0


def run_jobs(jobs: Mapping[str, Job], limit: int, run: Run) -> dict[str, str]:
    """Run jobs in threads; the first error, or Ctrl-C, stops the others.

    The threads are daemons: nobody waits longer than a moment for a socket that may stay silent
    for seconds. What they have written is in the part, and the part's lock ends with the process.

    Args:
        jobs: File -> what makes sure of it.
        limit: Files at a time.
        run: Patience, and who to tell; the jobs get their own ``stop``.

    Returns:
        File -> sha256 in hex, in the order of ``jobs``.

    Raises:
        KexueError: Of the first job that failed.
    """
    own = replace(run, stop=threading.Event())
    todo: queue.SimpleQueue[tuple[str, Job]] = queue.SimpleQueue()
    for item in jobs.items():
        todo.put(item)
    results: queue.SimpleQueue[tuple[str, str | BaseException]] = queue.SimpleQueue()

    def work() -> None:
        while not own.stop.is_set():
            try:
                name, job = todo.get_nowait()
            except queue.Empty:
                return
            try:
                results.put((name, job(own)))
            except BaseException as error:
                results.put((name, error))

    threads = [
        threading.Thread(target=work, daemon=True, name="kexue-transfer")
        for _ in range(min(limit, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    done: dict[str, str] = {}
    try:
        while len(done) < len(jobs):
            try:
                name, result = results.get(timeout=0.2)  # lets Ctrl-C in on every platform
            except queue.Empty:
                continue
            if isinstance(result, BaseException):
                raise result
            done[name] = result
    finally:
        own.stop.set()
        deadline = time.monotonic() + _GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    return {name: done[name] for name in jobs}
