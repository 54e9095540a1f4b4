"""What can go wrong between a Hub and its client, to be switched on one by one."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

__all__ = ["Fault", "Faults", "drain"]


@dataclass(slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong with requests that it matches.

    Attributes:
        file: Glob over the file asked for (``model.safetensors``), or over the API's path.
        method: ``GET`` (the bytes), ``HEAD`` (where and what they are), ``API`` (questions about a
            repository) or ``*``.
        times: How often; ``None`` for always.
        status: Answer with this status instead.
        retry_after: Value of the ``Retry-After`` header that goes with it.
        error_code: Value of ``X-Error-Code`` that goes with it.
        close_after: Close the connection in an orderly way after so many bytes of the body.
        reset_after: Reset the connection (RST) after so many bytes of the body.
        stall_after: Send nothing more after so many bytes, and keep the connection open.
        rate: Bytes a second at most, in small pieces.
        flip: Flip a bit of the byte at this offset in the file.
        shorten: Declare and send so many bytes less than there are.
        no_length: Send no ``Content-Length``; the end is where the connection is closed.
        ignore_range: Answer a range with the whole file.
        linked_size: Declare this size in ``X-Linked-Size``; for small files, in answer to HEAD.
        etag: Declare this etag.
    """

    file: str = "*"
    method: str = "GET"
    times: int | None = None
    status: int | None = None
    retry_after: str | None = None
    error_code: str | None = None
    close_after: int | None = None
    reset_after: int | None = None
    stall_after: int | None = None
    rate: float | None = None
    flip: int | None = None
    shorten: int = 0
    no_length: bool = False
    ignore_range: bool = False
    linked_size: int | None = None
    etag: str | None = None
    seen: int = field(default=0, init=False)


class Faults:
    """The faults that are switched on; several may hit one request."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Switch a fault on."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Switch all faults off."""
        with self._lock:
            self._faults.clear()

    def hit(self, method: str, file: str) -> Fault:
        """All faults that hit a request, as one; counts them as seen."""
        merged = Fault()
        with self._lock:
            for fault in self._matching(method, file):
                fault.seen += 1
                for name in Fault.__dataclass_fields__:
                    value = getattr(fault, name)
                    if value not in (None, False, 0) or (name.endswith("_after") and value == 0):
                        setattr(merged, name, value)
        return merged

    def _matching(self, method: str, file: str) -> Iterator[Fault]:
        for fault in self._faults:
            if (
                fault.method in ("*", method)
                and fnmatchcase(file, fault.file)
                and (fault.times is None or fault.seen < fault.times)
            ):
                yield fault


def drain(connection: socket.socket, limit: float = 5.0) -> None:
    """Wait until the client's kernel has what was sent: a reset drops what is still queued here."""
    deadline = time.monotonic() + limit
    try:
        import fcntl
        import termios

        while time.monotonic() < deadline:
            if not struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]:
                return
            time.sleep(0.001)
    except (ImportError, OSError):  # where the queue cannot be asked, give it a moment
        time.sleep(0.05)
