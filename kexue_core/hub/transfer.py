"""One file over a bad network: resumed, watched, hashed as it streams, and believed only then."""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kexue_core.errors import ChecksumMismatch, KexueError, StorageError
from kexue_core.hub.network import (
    Interrupted,
    Patience,
    Transient,
    classify,
    classify_status,
    gave_up,
    httpx,
    wait_before,
)
from kexue_core.hub.part import Part
from kexue_core.hub.receipts import git_sha1

__all__ = ["Expected", "Run", "Source", "Tally", "fetch"]

# Bytes that a try must bring to count as progress. Below, a server that drops after every few
# bytes would keep us busy for ever.
_PROGRESS = 64 << 10
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must be: whatever of it is known.

    Attributes:
        size: Bytes.
        sha256: Of the content, in hex.
        git_sha1: The name git gives the content, in hex: all the Hub declares for small files.
    """

    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file comes from.

    Attributes:
        what: Name of file and source, the subject of messages.
        url: Address of the bytes.
        headers: Headers to send, with a token only if ``url`` may see it.
        renew: Gives a fresh ``url`` where a signed one has expired; ``None`` where it cannot.
        hint: Next action if the bytes are wrong for good.
    """

    what: str
    url: str
    headers: Mapping[str, str]
    renew: Callable[[], Source] | None = None
    hint: str = "Try another mirror, and tell whoever publishes it"


class Tally:
    """A count that several threads add to."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Add to it."""
        with self._lock:
            self.count += count


@dataclass(frozen=True, slots=True)
class Run:
    """What all transfers of one pull share.

    Attributes:
        patience: How long to wait for what.
        stop: Set when the user wants to stop.
        advance: Called with each number of bytes won, or lost where some are thrown away.
        tally: Bytes that came over the network.
        note: Called with what is worth a line.
    """

    patience: Patience
    stop: threading.Event = field(default_factory=threading.Event)
    advance: Callable[[int], None] = lambda count: None
    tally: Tally = field(default_factory=Tally)
    note: Callable[[str], None] = lambda text: None


@dataclass(slots=True)
class _Watch:
    """Notices a connection that drips: the read timeout only notices one that stands still."""

    patience: Patience
    since: float = field(default_factory=time.monotonic)
    count: int = 0

    def see(self, count: int) -> None:
        self.count += count
        elapsed = time.monotonic() - self.since
        if elapsed < self.patience.rate_window:
            return
        rate = self.count / elapsed
        if rate < self.patience.min_rate:
            raise Transient(f"{rate / 1024:.1f} KiB/s over {elapsed:.0f} s is too slow", slow=True)
        self.since, self.count = time.monotonic(), 0


def fetch(source: Source, part: Part, expected: Expected, run: Run) -> str:
    """Bring a part to its end and check it.

    A broken connection is taken up where it broke. Bytes that prove wrong at the end are thrown
    away and fetched once more from nothing: a bit may have flipped on the way. Wrong twice, the
    source itself is wrong.

    Args:
        source: Where from.
        part: What is there so far; complete and verified on return.
        expected: What it must be.
        run: Patience, and who to tell.

    Returns:
        sha256 of the file, in hex.

    Raises:
        ChecksumMismatch: The bytes are wrong for good; the part is empty again.
        NetworkError: The source was given up; the part is kept.
        AccessError, NotFoundError: The source refuses.
        StorageError: The disk is full; the part is kept.
        Interrupted: ``run.stop`` was set; the part is kept.
    """
    patience, advance = run.patience, run.advance
    advance(part.size)
    highest, idle, slow, renewed, again = part.size, 0, 0, False, False
    while True:
        try:
            if expected.size is None or part.size < expected.size:
                _stream(source, part, expected, run)
        except Interrupted:
            raise
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(
                error, (ConnectionError, TimeoutError)
            ):
                raise _disk_error(error, part) from error
            reason = classify(error, source.what)
            if isinstance(reason, KexueError):
                # A signed address that expired answers 401, 403 or 404: ask for a fresh one, once
                # for each stretch that worked.
                if source.renew is None or renewed:
                    raise reason from error
                source, renewed = source.renew(), True
                continue
            brought = part.size - highest
            if brought >= _PROGRESS:
                idle, renewed = 0, False
            if brought >= 4 * patience.min_rate * patience.rate_window:
                slow = 0  # slow only at the end of a stretch that was fast enough
            highest = max(highest, part.size)
            slow += reason.slow
            idle += not reason.slow
            if slow >= patience.slow_attempts or idle >= patience.attempts:
                raise gave_up(_named(reason, source), max(slow, idle)) from error
            wait_before(max(idle, 1), reason, patience, run.stop)
            continue
        trouble = _wrong(part, expected)
        if trouble is None:
            return part.sha256.hexdigest()
        advance(-part.size)
        part.reset()
        highest = 0
        if again:
            raise ChecksumMismatch(f"{source.what} {trouble}, twice", hint=source.hint)
        again = True


def _named(reason: Transient, source: Source) -> Transient:
    text = str(reason)
    if text.startswith(source.what):
        return reason
    return Transient(f"{source.what}: {text}", slow=reason.slow)


def _wrong(part: Part, expected: Expected) -> str | None:
    """What is wrong with a complete part, in words; ``None`` if nothing is."""
    if expected.size is not None and part.size != expected.size:
        return f"has {part.size} bytes, not {expected.size}"
    if expected.sha256 is not None and part.sha256.hexdigest() != expected.sha256:
        return f"has sha256 {part.sha256.hexdigest()}, not {expected.sha256}"
    if expected.git_sha1 is not None and (found := git_sha1(part.path)) != expected.git_sha1:
        return f"has git sha-1 {found}, not {expected.git_sha1}"
    return None


def _disk_error(error: OSError, part: Part) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            f"The disk of {part.path.parent} is full after {part.size} bytes",
            hint="Free some space and run the same command again: it goes on from there",
        )
    return StorageError(
        f"{part.path} cannot be written: {error.strerror or error}",
        hint="Set HF_HUB_CACHE to a folder that you can write",
    )


def _stream(source: Source, part: Part, expected: Expected, run: Run) -> None:
    """One connection: append what it brings until it ends or breaks.

    Raises:
        Transient: It ended early or was given up.
        AccessError, NotFoundError, NetworkError: It was refused.
    """
    from huggingface_hub import get_session

    library, patience, advance = httpx(), run.patience, run.advance
    # Compressed content could not be resumed, and its length would not be the file's.
    headers = {**source.headers, "Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
    timeout = library.Timeout(patience.stall_timeout, connect=patience.connect_timeout, pool=None)
    with get_session().stream("GET", source.url, headers=headers, timeout=timeout) as response:
        if response.status_code == 416:
            return  # the server has no more than this: judged by the caller
        if response.status_code not in (200, 206):
            raise classify_status(response.status_code, response.headers, source.what)
        total = _start(response, part, source, advance)
        known = expected.size if expected.size is not None else total
        # A length that is too short may be an accident, once; asked for the rest, it is not.
        insists = response.status_code == 200 and ("Range" in headers or total == 0)
        watch = _Watch(patience)
        for data in _chunks(response):
            if run.stop.is_set():
                raise Interrupted
            part.append(data)
            advance(len(data))
            run.tally.add(len(data))
            watch.see(len(data))
            if known is not None and part.size > known:
                return  # more than the file has: judged by the caller
        if insists and total is not None and part.size == total:
            return  # the whole file, as the server has it
        if known is not None and part.size < known:
            raise Transient(f"{source.what}: the connection ended at {part.size} of {known} bytes")


def _start(response: Any, part: Part, source: Source, advance: Callable[[int], None]) -> int | None:
    """Make the part fit what the response brings; return the length that it declares."""
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if not match or int(match[1]) != part.size:
            advance(-part.size)
            part.reset()
            raise Transient(f"{source.what}: the server answers another range than was asked for")
        return None if match[3] == "*" else int(match[3])
    if part.size:  # the range was ignored: this is the whole file again
        advance(-part.size)
        part.reset()
    length = response.headers.get("content-length", "")
    encoded = response.headers.get("content-encoding", "identity") != "identity"
    return int(length) if length.isdigit() and not encoded else None


def _chunks(response: Any) -> Iterator[bytes]:
    # Raw bytes spare a copy; a server that compresses though asked not to must be decoded.
    encoded = response.headers.get("content-encoding", "identity") != "identity"
    chunks: Iterator[bytes] = response.iter_bytes() if encoded else response.iter_raw()
    return chunks
