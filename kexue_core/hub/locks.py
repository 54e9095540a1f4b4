"""A lock on a file that dies with its holder: ``flock`` on POSIX, ``msvcrt.locking`` on Windows.

The locks of blobs are the files that huggingface_hub locks too (its filelock package takes the
same kernel lock), so ``kexue pull`` and ``hf download`` wait for each other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

__all__ = ["FileLock"]

# What file systems without locks answer: some network and user-space ones.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

#: Seconds between two looks at a lock that someone else holds.
_POLL = 0.05


class FileLock:
    """An exclusive lock on ``path``; the kernel gives it back when the holder dies.

    Args:
        path: The file to lock; its folder must exist.
        create: Make the file where it is missing.
        waiting: Called while someone else holds the lock; may raise to give up.

    Attributes:
        supported: ``False`` once the file system turned out to know no locks; then everyone gets
            one, and nobody may rely on being alone.
    """

    def __init__(
        self, path: Path, *, create: bool = True, waiting: Callable[[], None] | None = None
    ) -> None:
        self.path = path
        self._flags = os.O_RDWR | (os.O_CREAT if create else 0)
        self._waiting = waiting
        self._fd: int | None = None
        self.supported = True

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take the lock; without ``blocking`` say ``False`` where someone else has it.

        Raises:
            OSError: The file cannot be opened.
        """
        while True:
            fd = os.open(self.path, self._flags, 0o666)
            try:
                taken = _lock(fd)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(fd)
                    raise
                taken, self.supported = True, False
            if taken:
                # The last holder may have removed the file between our open and our lock: then
                # the lock is on a file that nobody else will find, and does not count.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), self.path.stat()):
                        self._fd = fd
                        return True
                os.close(fd)
                if not self._flags & os.O_CREAT and not self.path.exists():
                    return False
                continue
            os.close(fd)
            if not blocking:
                return False
            if self._waiting is not None:
                self._waiting()
            time.sleep(_POLL)

    @property
    def fd(self) -> int:
        """The locked file, open for reading and writing; only while the lock is held."""
        assert self._fd is not None, "the lock is not held"
        return self._fd

    def release(self) -> None:
        """Give the lock back; the file stays, because others may be waiting on it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


if sys.platform == "win32":  # pragma: no cover - not testable here
    import msvcrt

    def _lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
