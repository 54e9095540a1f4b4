"""The bytes of a file that is on its way."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

from kexue_core.hub.locks import FileLock
from kexue_core.hub.parts import fresh_part, parts_of

__all__ = ["Part"]

_CHUNK = 1 << 20


class Part:
    """The bytes of a file so far, in a file of this writer's own, with their running sha256.

    Parts that a dead writer left are gone on with: the longest is taken over, its bytes are hashed
    again, the others are removed.
    """

    def __init__(self, destination: Path) -> None:
        destination.parent.mkdir(parents=True, exist_ok=True)
        self.path = fresh_part(destination)
        taken = [lock for path in parts_of(destination) if (lock := _take(path))]
        if taken:
            taken[0].path.rename(self.path)
            self._lock = taken[0]
            for lock in taken[1:]:
                lock.path.unlink(missing_ok=True)
                lock.release()
        else:
            self._lock = FileLock(self.path)
            self._lock.acquire(blocking=False)
        self._fd = self._lock.fd
        self.size = 0
        self.sha256 = hashlib.sha256()
        os.lseek(self._fd, 0, os.SEEK_SET)
        while chunk := os.read(self._fd, _CHUNK):
            self.sha256.update(chunk)
            self.size += len(chunk)

    def append(self, data: bytes) -> None:
        """Write and hash more bytes.

        Raises:
            OSError: The disk is full.
        """
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.sha256.update(data)
        self.size += len(data)

    def reset(self) -> None:
        """Begin again from nothing."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size = 0
        self.sha256 = hashlib.sha256()

    def place(self, destination: Path) -> None:
        """Flush to the disk and put the file where readers look, in one step."""
        os.fsync(self._fd)
        self._lock.release()  # Windows renames no open file; others wait for the blob's lock
        self.path.replace(destination)

    def discard(self) -> None:
        """Remove the part."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Part:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.size == 0:
            self.discard()
        self._lock.release()


def _take(path: Path) -> FileLock | None:
    lock = FileLock(path, create=False)
    try:
        taken = lock.acquire(blocking=False)
    except OSError:  # gone, or another user's
        return None
    if taken and not lock.supported:  # its writer may be alive
        lock.release()
        return None
    return lock if taken else None
