"""File names as foreign machines give them, and sets of files with known hashes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from kexue_core.errors import VerificationError
from kexue_core.hub.receipts import check_file
from kexue_core.registry import FileEntry

__all__ = ["check_files", "fingerprint", "have_all", "safe_name"]

# Drive letters and device names of Windows, control characters, and backslashes are refused on
# every system: a name must mean the same file everywhere.
_ODD = re.compile(r"[\x00-\x1f\x7f\\:*?\"<>|]")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))]
)


def safe_name(name: str, *, source: str) -> str:
    """Return a relative POSIX file name that stays inside its folder.

    Raises:
        VerificationError: It is absolute, climbs with ``..``, or has characters that some system
            reads as something else. Nothing of such a source is placed.
    """
    parts = name.split("/")
    if (
        not name
        or len(name) > 1024
        or _ODD.search(name)
        or any(p in ("", ".", "..") or p.split(".")[0].lower() in _DEVICES for p in parts)
    ):
        raise VerificationError(
            f"{source} lists the file name {name!r}, which leads out of the folder",
            hint="Do not use this source; report it to its owner",
        )
    return name


def check_files(
    folder: Path, files: Mapping[str, FileEntry], *, name: str, fresh: bool = False
) -> None:
    """Check every file of a folder of weights; receipts spare hashing again unless ``fresh``.

    Raises:
        ChecksumMismatch: The first file that is missing or differs.
    """
    for file, expected in files.items():
        check_file(folder / file, expected, name=name, fresh=fresh)


def have_all(folder: Path, files: Mapping[str, FileEntry]) -> bool:
    """Whether every file is there, good or not."""
    return folder.is_dir() and all((folder / file).exists() for file in files)


def fingerprint(files: Mapping[str, FileEntry]) -> str:
    """One sha256 over the names and hashes of a set of files, in hex."""
    import hashlib  # its OpenSSL costs 4 ms, which `kexue list` need not pay

    lines = "".join(f"{files[name].sha256}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()
