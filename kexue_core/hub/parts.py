"""Files that are not yet, or no longer, good: parts of transfers, and bad files moved aside.

A part is named ``<blob>.kexue-<host>-<pid>-<random>.incomplete`` and locked by its writer. The lock
is the kernel's and dies with its holder, so a part without one is free to go on with.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path

from kexue_core.hub.locks import FileLock
from kexue_core.hub.receipts import forget

__all__ = ["fresh_part", "in_use", "is_leftover", "leftovers", "move_aside", "parts_of"]

_PART = re.compile(r".+\.kexue-(?P<host>[\w.]+)-(?P<pid>\d+)-[0-9a-f]{8}\.incomplete")
_BAD = ".kexue-bad"


def _host() -> str:
    return re.sub(r"[^\w.]", "_", socket.gethostname())[:40] or "host"


def fresh_part(destination: Path) -> Path:
    """A name for a new part of ``destination``, beside it, that no one else has."""
    own = f"{destination.name}.kexue-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.incomplete"
    return destination.with_name(own)


def parts_of(destination: Path) -> list[Path]:
    """Parts that earlier writers left of ``destination``, the longest first."""
    prefix = f"{destination.name}.kexue-"
    found = []
    for path in destination.parent.glob("*.incomplete"):
        if path.name.startswith(prefix) and _PART.fullmatch(path.name):
            try:
                found.append((path.stat().st_size, path))
            except FileNotFoundError:  # its writer finished in this moment
                continue
    return [path for _, path in sorted(found, reverse=True)]


def is_leftover(path: Path) -> bool:
    """Whether a file is a part of kexue's, or one that it moved aside as bad."""
    return bool(_PART.fullmatch(path.name)) or path.name.endswith(_BAD)


def leftovers(folder: Path) -> list[Path]:
    """Parts and bad files in a folder."""
    return sorted(p for p in folder.glob("*") if is_leftover(p)) if folder.is_dir() else []


def in_use(path: Path) -> bool:
    """Whether a living process holds this part or lock, or one somewhere under this folder."""
    if path.is_dir() and not path.is_symlink():
        return any(in_use(p) for kind in ("*.incomplete", "*.lock") for p in path.rglob(kind))
    if not (_PART.fullmatch(path.name) or path.suffix == ".lock") or not path.is_file():
        return False
    lock = FileLock(path, create=False)
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


def _aside(path: Path) -> Path:
    """Where a bad file goes: beside it, under a name that no reader looks for."""
    return path.with_name(f"{path.name}{_BAD}")


def move_aside(path: Path) -> Path:
    """Take a bad file out of the cache; a snapshot's link goes, its blob is moved.

    Returns:
        Where the bytes are now; ``kexue rm`` removes them.

    Raises:
        OSError: The cache cannot be written.
    """
    content = path.resolve()
    forget(content)
    aside = _aside(content)
    content.replace(aside)
    if path.is_symlink():
        path.unlink()
    return aside
