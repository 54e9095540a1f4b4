"""Where a fetched file goes: the Hugging Face cache, kexue's own folder of mirrored files, or a
folder that the user names. Each fetches under a lock and places a file whole and verified."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kexue_core.errors import StorageError
from kexue_core.hub.layout import COMMIT, RepoFolder
from kexue_core.hub.locks import FileLock
from kexue_core.hub.network import Interrupted
from kexue_core.hub.part import Part
from kexue_core.hub.parts import move_aside
from kexue_core.hub.receipts import checked_sha256, git_sha1, write_receipt
from kexue_core.hub.transfer import Expected, Run, Source, fetch

__all__ = ["CacheDestination", "Destination", "FolderDestination", "ensure_file", "is_good"]


class Destination(Protocol):
    """A place for the files of one revision."""

    def content_path(self, file: str, key: str) -> Path:
        """Where the bytes of ``file`` go; ``key`` is their name in the cache."""

    def lock_path(self, file: str, key: str) -> Path:
        """The lock to hold while they are written."""

    def publish(self, file: str, key: str) -> Path:
        """Make placed bytes visible under the file's name; return that path."""


@dataclass(frozen=True, slots=True)
class CacheDestination:
    """A commit in the Hugging Face cache: bytes in ``blobs``, links to them in ``snapshots``."""

    repo: RepoFolder
    commit: str

    def content_path(self, file: str, key: str) -> Path:
        """The blob; without links, the file in the snapshot that it was moved to."""
        blob, placed = self.repo.blobs / key, self.repo.snapshot(self.commit) / file
        return placed if placed.is_file() and not placed.is_symlink() else blob

    def lock_path(self, file: str, key: str) -> Path:
        """The lock that huggingface_hub takes for this blob."""
        return self.repo.locks / f"{key}.lock"

    def publish(self, file: str, key: str) -> Path:
        """Link the blob into the snapshot; where links are not to be had, move it there."""
        link = self.repo.snapshot(self.commit) / file
        blob = self.repo.blobs / key
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.exists() and (not blob.exists() or link.samefile(blob)):
            return link
        link.unlink(missing_ok=True)
        relative = os.path.relpath(blob, start=link.parent)
        if os.environ.get("HF_HUB_DISABLE_SYMLINKS", "").upper() in ("1", "ON", "YES", "TRUE"):
            blob.replace(link)
            return link
        try:
            link.symlink_to(relative)
        except FileExistsError:  # huggingface_hub was there in this moment
            pass
        except OSError:  # Windows without developer mode, some network disks
            blob.replace(link)
        return link

    def note_revision(self, revision: str) -> None:
        """Write what a branch or tag means, where huggingface_hub looks for it when offline."""
        if COMMIT.fullmatch(revision):
            return
        ref = self.repo.ref(revision)
        ref.parent.mkdir(parents=True, exist_ok=True)
        if not ref.exists() or ref.read_text(encoding="utf-8") != self.commit:
            ref.write_text(self.commit, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class FolderDestination:
    """A plain folder; ``locks`` lies outside of it or is removed by the caller."""

    folder: Path
    locks: Path

    def content_path(self, file: str, key: str) -> Path:
        """The file itself."""
        return self.folder / file

    def lock_path(self, file: str, key: str) -> Path:
        """A lock named by content."""
        return self.locks / f"{key}.lock"

    def publish(self, file: str, key: str) -> Path:
        """Nothing is left to do."""
        return self.folder / file


def is_good(path: Path, expected: Expected) -> bool:
    """Whether a file is what it must be; with nothing known, no file is."""
    try:
        if expected.size is not None and path.stat().st_size != expected.size:
            return False
        if expected.sha256 is not None:
            return checked_sha256(path) == expected.sha256
        return expected.git_sha1 is not None and git_sha1(path) == expected.git_sha1
    except FileNotFoundError:
        return False


def ensure_file(
    file: str,
    key: str,
    expected: Expected,
    destination: Destination,
    *,
    source: Callable[[], Source],
    run: Run,
) -> tuple[Path, str]:
    """Make sure that a file is in its place, verified; fetch it if it is not or is bad.

    A bad file that is in the way is moved aside first. While another process transfers the same
    file, this one waits and then uses what that one placed.

    Args:
        file: Its name in the folder of weights.
        key: Name of its bytes in the cache.
        expected: What it must be.
        destination: Where it goes.
        source: Gives where it comes from; only called if it must be fetched.
        run: Patience, and who to tell.

    Returns:
        Path under which it is visible, and its sha256 in hex.

    Raises:
        ChecksumMismatch, NetworkError, AccessError, NotFoundError: See :func:`fetch`.
        StorageError: The place cannot be written.
        Interrupted: ``run.stop`` was set.
    """
    content = destination.content_path(file, key)
    try:
        # A warm cache may be read-only: look before anything is locked or written.
        if is_good(content, expected):
            run.advance(content.stat().st_size)
            with contextlib.suppress(PermissionError):
                path = destination.publish(file, key)
                return path, checked_sha256(path)
        lock_path = destination.lock_path(file, key)
        lock_path.parent.mkdir(parents=True, exist_ok=True)

        with FileLock(lock_path, waiting=_Waiting(file, run)):
            digest = None
            if is_good(content, expected):
                run.advance(content.stat().st_size)
            else:
                if content.exists() or content.is_symlink():
                    move_aside(content)
                with Part(content) as part:
                    digest = fetch(source(), part, expected, run)
                    part.place(content)
                write_receipt(content, digest, sole_writer=True)
            path = destination.publish(file, key)
            return path, digest or checked_sha256(path)
    except OSError as error:
        raise place_error(error, content) from error


class _Waiting:
    """What is done while another process has the lock: say so once, and listen for Ctrl-C."""

    def __init__(self, file: str, run: Run) -> None:
        self._text = f"{file} is being fetched by another process; waiting for it"
        self._run = run
        self._said = False

    def __call__(self) -> None:
        if self._run.stop.is_set():
            raise Interrupted
        if not self._said:
            self._run.note(self._text)
            self._said = True


def place_error(error: OSError, path: Path) -> StorageError:
    """The error for a place that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            f"The disk of {path.parent} is full",
            hint="Free some space and run the same command again",
        )
    return StorageError(
        f"{error.filename or path} cannot be written: {error.strerror or error}",
        hint="Set HF_HUB_CACHE or KEXUE_HOME to a folder that you can write, or use --local-dir",
    )


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk where ``folder`` is or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
