"""What ``kexue doctor`` finds in the caches: what is left over, does not fit, or leads nowhere.

Everything is looked at, nothing hashed: that is what ``kexue verify`` is for.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from kexue_core.commands._output import human_size
from kexue_core.errors import KexueError
from kexue_core.hub.home import hf_cache, kexue_home, read_json
from kexue_core.hub.locks import FileLock
from kexue_core.hub.parts import in_use
from kexue_core.registry import WeightsEntry, load_registry

__all__ = ["Finding", "examine_cache"]

#: Seconds after which a part of a download counts as left over: who goes on soon is left alone.
OLD = 3600.0

#: Bytes below which a disk is called nearly full: the largest published weights and their parts.
LITTLE = 1 << 30


class Finding(NamedTuple):
    """What was found; fields as those of :class:`._health.Check`."""

    name: str
    state: Literal["ok", "warning", "broken"]
    detail: str
    fix: str = ""


def examine_cache() -> Iterator[Finding]:
    """Look at both caches: their size and disk, then at what in them needs mending."""
    for name, folder in (("KEXUE_HOME", kexue_home()), ("Hugging Face cache", hf_cache())):
        nearest = next(p for p in (folder, *folder.parents) if p.exists())
        if not os.access(nearest, os.W_OK):
            yield Finding(
                name,
                "broken",
                f"{folder} cannot be written",
                "Set KEXUE_HOME or HF_HOME to a folder of yours",
            )
            continue
        size, files = _content(folder)
        detail = f"{folder}: {human_size(size)} in {files} files" if files else f"{folder}: empty"
        free = shutil.disk_usage(nearest).free
        if free < LITTLE:
            yield Finding(
                name,
                "warning",
                f"{detail}; {human_size(free)} are free on its disk",
                "Remove weights with `kexue rm NAME`, or set KEXUE_HOME and HF_HOME to a larger "
                "disk",
            )
        else:
            yield Finding(name, "ok", detail)
    yield from _repositories()
    yield from _leftovers("mirrored", [*kexue_home().glob("mirrored/**/*")], "")
    yield from _receipts()
    yield from _sizes()


def _repositories() -> Iterator[Finding]:
    """Links that lead nowhere, and leftovers, of each repository in the Hugging Face cache."""
    names = {entry.repo: entry.name for entry in _entries() if entry.repo}
    for folder in sorted(hf_cache().glob("*--*")):
        kind, _, rest = folder.name.partition("--")
        repo = rest.replace("--", "/")
        for snapshot in sorted(folder.glob("snapshots/*")):
            dangling = [p for p in snapshot.rglob("*") if p.is_symlink() and not p.exists()]
            if not dangling:
                continue
            reference = f"hf:{repo}@{snapshot.name}"
            if repo in names:
                fix = f"kexue verify {names[repo]} --repair"
            elif kind == "models":
                fix = f"Remove it with `kexue rm {reference}`, and pull it again if it is needed"
            else:
                fix = f"Delete {snapshot}; it is fetched again when it is needed"
            files = ", ".join(p.relative_to(snapshot).as_posix() for p in dangling[:3])
            more = ", ..." if len(dangling) > 3 else ""
            detail = f"in {snapshot}, links lead nowhere: {files}{more}"
            yield Finding(repo, "warning", detail, fix)
        reference = names.get(repo, f"hf:{repo}") if kind == "models" else ""
        yield from _leftovers(repo, [*folder.glob("blobs/*")], reference)


def _leftovers(name: str, paths: list[Path], reference: str) -> Iterator[Finding]:
    """Parts that no process goes on with, and files moved aside as bad, of one place."""
    found = [p for p in paths if p.name.endswith((".incomplete", ".kexue-bad")) and _is_old(p)]
    if not found:
        return
    size = sum(p.stat().st_size for p in found)
    many = "leftover of an interrupted download" if len(found) == 1 else "leftovers of downloads"
    fix = f"Delete them from {found[0].parent}"
    if reference:
        fix = f"`kexue pull {reference}` goes on with it. To be rid of it: {fix}"
    detail = f"{len(found)} {many}, {human_size(size)}: {found[0].name}"
    yield Finding(name, "warning", detail, fix)


def _is_old(path: Path) -> bool:
    """Whether a part has not grown for a while and no process holds it."""
    try:
        if path.name.endswith(".incomplete") and time.time() - path.stat().st_mtime < OLD:
            return False
        if in_use(path):
            return False
        # huggingface_hub locks not its part but a file of the blob's name in another folder.
        repo = path.parent.parent
        lock = repo.parent / ".locks" / repo.name / f"{path.name.partition('.')[0]}.lock"
        return not (lock.is_file() and _is_held(lock))
    except OSError:  # it went away while it was looked at
        return False


def _is_held(path: Path) -> bool:
    lock = FileLock(path, create=False)
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


def _receipts() -> Iterator[Finding]:
    folder = kexue_home() / "receipts"
    torn = [
        path
        for path in folder.glob("*.json")
        if not isinstance(known := read_json(path), dict) or not {"sha256", "size"} <= known.keys()
    ]
    if torn:
        yield Finding(
            "receipts",
            "warning",
            f"{len(torn)} in {folder} cannot be read, such as {torn[0].name}: their files are "
            "hashed at every use",
            f"Delete {folder}; receipts are written anew",
        )


def _sizes() -> Iterator[Finding]:
    """Files of weights on this machine that are longer or shorter than they must be."""
    from kexue_core.hub.sources import MIRROR_HINT, find_placed
    from kexue_core.hub.verification import references_here

    try:
        here = list(references_here())
    except KexueError:
        return  # said under registry
    for reference in here:
        placed = find_placed(reference, whole=False)
        if placed is None:
            continue
        for file, expected in placed.files.items():
            path = placed.folder / file
            if path.is_file() and (size := path.stat().st_size) != expected.size:
                yield Finding(
                    str(reference),
                    "broken",
                    f"{path} has {size} bytes and should have {expected.size}",
                    MIRROR_HINT
                    if placed.source == "mirror"
                    else f"kexue verify {reference} --repair",
                )


def _entries() -> tuple[WeightsEntry, ...]:
    try:
        return load_registry().weights
    except KexueError:
        return ()


def _content(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files under a folder; links count as the file they name once."""
    size = files = 0
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                files += 1
                size += path.stat().st_size
    return size, files
