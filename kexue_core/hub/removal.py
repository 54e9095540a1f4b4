"""``kexue rm``: remove what pulls placed, and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kexue_core.errors import KexueError, NotFoundError, StorageError
from kexue_core.hub.conversion import conversions
from kexue_core.hub.home import kexue_home
from kexue_core.hub.layout import RepoFolder, repo_folder
from kexue_core.hub.mirrors import in_folder_mirrors
from kexue_core.hub.parts import in_use, leftovers
from kexue_core.hub.pins import forget_pin, pins_path, read_pins
from kexue_core.hub.receipts import forget, receipt_path
from kexue_core.names import Reference, parse_reference
from kexue_core.registry import FileEntry, WeightsEntry, load_registry

__all__ = ["Removal", "plan_removal", "remove"]


@dataclass(frozen=True, slots=True)
class Removal:
    """What ``kexue rm`` takes away.

    Attributes:
        name: Reference of the weights.
        paths: Files and folders, in the order in which they go.
        size: Bytes that this frees; a file that several names share is counted once.
        pins: ``(repository, revision)`` whose pinned hashes are forgotten.
        kept: What stays and why, in words.
    """

    name: str
    paths: tuple[Path, ...]
    size: int
    pins: tuple[tuple[str, str], ...] = ()
    kept: tuple[str, ...] = ()


def plan_removal(reference: Reference | str) -> Removal:
    """Find everything that pulls of these weights left on this machine.

    That is the files of the revision in the Hugging Face cache (blobs that another revision uses
    stay), parts of broken-off transfers, files moved aside as bad, what came from mirrors by URL,
    conversions, receipts and pins. A folder mirror is never touched.

    Raises:
        NotFoundError: No such name, or ``file:``, which is the user's own folder.
    """
    if isinstance(reference, str):
        reference = parse_reference(reference)
    if reference.kind == "file":
        raise NotFoundError(
            f"{reference} is a folder of yours, not a download", hint="Remove it yourself"
        )
    entry: WeightsEntry | None = None
    repo: str | None = reference.target
    revision = reference.revision or "main"
    kept: list[str] = []
    paths: list[Path] = []
    sources: list[dict[str, FileEntry]] = []
    if reference.kind == "name":
        entry = load_registry().find(reference)
        repo, revision = entry.repo, reference.revision or entry.revision or "main"
        sources.append(dict(entry.files))
        with contextlib.suppress(NotFoundError):
            if folder := in_folder_mirrors(entry):
                kept.append(f"{folder} is a mirror, read in place; it stays")
                paths += [r for f in entry.files if (r := receipt_path(folder / f)).exists()]
        paths += _existing(kexue_home() / "mirrored" / entry.plugin / entry.name)
    pins: list[tuple[str, str]] = []
    if repo is not None:
        known = read_pins(repo)
        commits = {known[revision].commit} if revision in known else set()
        if commit := repo_folder(repo).commit(revision):
            commits.add(commit)
        for other, pin in known.items():
            if other == revision or pin.commit in commits:
                pins.append((repo, other))
                sources.append(dict(pin.files))
        paths += _in_cache(repo_folder(repo), commits, kept)
    paths += [p for files in sources if files for p in conversions(files)]
    files = list(_files(paths))
    paths += [r for r in map(receipt_path, files) if r.exists()]
    return Removal(
        str(reference), tuple(dict.fromkeys(paths)), _size(files), tuple(pins), tuple(kept)
    )


def remove(reference: Reference | str) -> Removal:
    """Carry out :func:`plan_removal` and say what went.

    Raises:
        NotFoundError: As there.
        StorageError: A file cannot be removed.
        KexueError: Another process is transferring it.
    """
    plan = plan_removal(reference)
    for path in plan.paths:
        if in_use(path):
            raise KexueError(
                f"{path} is being transferred by another process", hint="Wait for it, or end it"
            )
    try:
        for path in plan.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
                forget(path)
            _prune(path.parent)
        for repo, revision in plan.pins:
            forget_pin(repo, revision)
            _prune(pins_path(repo).parent)
    except OSError as error:
        raise StorageError(
            f"{error.filename} cannot be removed: {error.strerror}",
            hint="Mend its permissions and run `kexue rm` again",
        ) from error
    return plan


def _in_cache(repo: RepoFolder, commits: set[str], kept: list[str]) -> list[Path]:
    """What of a repository belongs to these commits alone."""
    if not repo.path.is_dir():
        return _existing(repo.locks)
    snapshots = [p for p in (repo.path / "snapshots").glob("*") if p.is_dir()]
    mine = [p for p in snapshots if p.name in commits]
    others = [p for p in snapshots if p.name not in commits]
    if not others:
        return [repo.path, *_existing(repo.locks)]
    used = {link.resolve() for folder in others for link in folder.rglob("*") if link.is_file()}
    blobs = {link.resolve() for folder in mine for link in folder.rglob("*") if link.is_file()}
    shared = blobs & used
    if shared:
        kept.append(f"{len(shared)} files that other revisions of {repo.repo} use")
    refs = [
        ref
        for ref in (repo.path / "refs").rglob("*")
        if ref.is_file() and ref.read_text(encoding="utf-8", errors="replace").strip() in commits
    ]
    gone = sorted(blobs - used)
    locks = [lock for blob in gone for lock in _existing(repo.locks / f"{blob.name}.lock")]
    return [*mine, *refs, *gone, *locks, *leftovers(repo.blobs)]


def _existing(path: Path) -> list[Path]:
    return [path] if path.exists() else []


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            for folder, _, names in os.walk(path):
                yield from (Path(folder) / name for name in names)
        else:
            yield path


def _size(files: list[Path]) -> int:
    return sum(p.lstat().st_size for p in files if not p.is_symlink() and p.exists())


def _prune(folder: Path) -> None:
    """Remove folders of kexue's own that have become empty."""
    home = kexue_home()
    while home in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
