"""Hashing files, and receipts that spare hashing them again.

A receipt says: this file (size, mtime_ns, ctime_ns, inode) had this sha256. It is believed only
while all four still agree. The change time is in it because the modification time can be set back.
Receipts live in ``$KEXUE_HOME/receipts``; where they cannot be written, every use hashes again.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from kexue_core.errors import ChecksumMismatch
from kexue_core.hub.home import kexue_home, read_json, write_json
from kexue_core.registry import FileEntry

__all__ = [
    "check_file",
    "checked_sha256",
    "forget",
    "git_sha1",
    "hash_file",
    "receipt_path",
    "write_receipt",
]

_CHUNK = 1 << 20

# A file changed within one tick of the file system's clock after it was hashed keeps its times
# (git calls such entries racy). 20 ms is above the coarsest kernel tick (10 ms at HZ=100).
_RACY_NS = 20_000_000


def hash_file(path: Path) -> str:
    """sha256 of a file, in hex.

    Raises:
        OSError: It cannot be read.
    """
    import hashlib  # its OpenSSL costs 4 ms, which `kexue list` need not pay

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_sha1(path: Path) -> str:
    """The name git gives to the file's content (what the Hub declares for small files), in hex.

    Raises:
        OSError: It cannot be read.
    """
    import hashlib

    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def receipt_path(path: Path) -> Path:
    """Where the receipt of ``path`` lives; links are followed first."""
    import hashlib

    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return kexue_home() / "receipts" / f"{key}.json"


def checked_sha256(path: Path, *, fresh: bool = False) -> str:
    """sha256 of a file, from its receipt where that still fits.

    Args:
        path: The file.
        fresh: Hash even where a receipt fits (``kexue verify``).

    Raises:
        OSError: The file cannot be read.
    """
    before = path.stat()
    if not fresh:
        known = read_json(receipt_path(path))
        if isinstance(known, dict) and _fits(known, before):
            return str(known["sha256"])
    digest = hash_file(path)
    if _stamp(path.stat()) == _stamp(before):
        write_receipt(path, digest)
    return digest


def write_receipt(path: Path, sha256: str, *, sole_writer: bool = False) -> None:
    """Note that ``path`` as it is now has this sha256; a read-only home notes nothing.

    Args:
        path: The file.
        sha256: Of its content, in hex.
        sole_writer: Nobody else had the file yet, so that its youth is no reason for doubt.
    """
    young = _RACY_NS if sole_writer else 0
    with contextlib.suppress(OSError):
        write_json(
            receipt_path(path),
            {
                "path": str(path.resolve()),
                "sha256": sha256,
                "hashed_ns": time.time_ns() + young + 1,
                **_stamp(path.stat()),
            },
        )


def forget(path: Path) -> None:
    """Remove the receipt of ``path``, if there is one."""
    with contextlib.suppress(OSError):
        receipt_path(path).unlink(missing_ok=True)


def check_file(path: Path, expected: FileEntry, *, name: str, fresh: bool = False) -> None:
    """Compare a file with what the registry says of it.

    Args:
        path: The file.
        expected: Its sha256 and size in bytes.
        name: Reference of the weights, for the next action in the error.
        fresh: Hash even where a receipt fits.

    Raises:
        ChecksumMismatch: It is missing, or its size or sha256 differs.
        OSError: It cannot be read.
    """
    hint = f"Run `kexue verify {name} --repair`, or pull it again: kexue pull {name}"
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise ChecksumMismatch(f"{path} is missing", hint=hint) from None
    if size != expected.size:
        raise ChecksumMismatch(
            f"{path} has {size} bytes, {name} says {expected.size}",
            hint=hint,
        )
    found = checked_sha256(path, fresh=fresh)
    if found != expected.sha256:
        raise ChecksumMismatch(
            f"{path} has sha256 {found}, {name} says {expected.sha256}", hint=hint
        )


def _stamp(stat: os.stat_result) -> dict[str, int]:
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def _fits(known: dict[str, object], stat: os.stat_result) -> bool:
    stamp = _stamp(stat)
    hashed = known.get("hashed_ns")
    return (
        all(known.get(key) == value for key, value in stamp.items())
        and isinstance(known.get("sha256"), str)
        and isinstance(hashed, int)
        and hashed > max(stat.st_mtime_ns, stat.st_ctime_ns) + _RACY_NS
    )
