"""``kexue verify``: hash what is on this machine again, offline, and mend what is bad."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kexue_core.errors import ChecksumMismatch
from kexue_core.hub.conversion import conversions, converted_files
from kexue_core.hub.parts import move_aside
from kexue_core.hub.pins import all_pins
from kexue_core.hub.receipts import check_file
from kexue_core.hub.sources import Placed, find_placed, locate, not_here
from kexue_core.names import Reference, parse_reference
from kexue_core.registry import load_registry

__all__ = ["FileReport", "references_here", "verify"]


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file.

    Attributes:
        name: Reference of the weights.
        file: Its name in the folder of weights.
        path: Where it is, or would be.
        source: ``mirror``, ``cache`` or ``folder``, as in :class:`Located`.
        state: ``ok``; ``bad`` or ``missing``; ``repaired``, fetched again and good; ``unknown``, no
            hash is known for it.
        detail: What is wrong, with both hashes or sizes, and where a bad file was moved.
    """

    name: str
    file: str
    path: Path
    source: str
    state: Literal["ok", "bad", "missing", "repaired", "unknown"]
    detail: str = ""


def verify(reference: Reference | str, *, repair: bool = False) -> list[FileReport]:
    """Hash every file of weights that are on this machine, whatever their receipts say.

    A bad file of the cache is moved aside, so that nobody reads it (huggingface_hub does not look
    at content), and with ``repair`` fetched again. Mirrors and folders are read in place and
    belong to someone else: they are reported and left alone. Without ``repair`` no network is used.

    Raises:
        NotFoundError: No such name, or it is not here and has no source.
        OfflineError: The weights are not on this machine.
        NetworkError: ``repair`` could not fetch them.
    """
    if isinstance(reference, str):
        reference = parse_reference(reference)
    placed = find_placed(reference, whole=False)
    if placed is None:
        raise not_here(reference)
    reports = [*_check(reference, placed), *_check_conversions(reference, placed)]
    if repair and placed.source == "cache" and any(r.state in ("bad", "missing") for r in reports):
        from kexue_core.hub.download import pull

        pull([reference])
        locate(reference)  # makes a conversion that was removed again
        again = [*_check(reference, placed), *_check_conversions(reference, placed)]
        after = {r.file: r for r in again}
        return [
            FileReport(r.name, r.file, r.path, r.source, "repaired", r.detail)
            if r.state in ("bad", "missing") and after[r.file].state == "ok"
            else after.get(r.file, r)
            for r in reports
        ]
    return reports


def references_here() -> Iterator[Reference]:
    """Everything that is on this machine: registry entries, and what was pulled by ``hf:``."""
    known = set()
    names = Counter(entry.name for entry in load_registry().weights)
    for entry in load_registry().weights:
        reference = parse_reference(entry.name if names[entry.name] == 1 else entry.qualified)
        if entry.repo:
            known.add((entry.repo, entry.revision or "main"))
        if find_placed(reference, whole=False):
            yield reference
    for repo, pins in all_pins():
        for revision in pins:
            if (repo, revision) not in known:
                reference = Reference("hf", repo, revision=revision)
                if find_placed(reference, whole=False):
                    yield reference


def _check_conversions(reference: Reference, placed: Placed) -> list[FileReport]:
    """Hash what was made from the source files; a conversion with a bad file is removed whole."""
    reports = []
    for folder in conversions(placed.files) if placed.files else ():
        files = converted_files(folder)
        if files is None:
            continue
        bad = None
        for file, expected in files.items():
            path, name = folder / file, f"{reference} (converted)"
            label = f"{folder.name}/{file}"
            try:
                check_file(path, expected, name=str(reference), fresh=True)
                reports.append(FileReport(name, label, path, "cache", "ok"))
            except ChecksumMismatch as error:
                bad = f"{error.message}; the conversion was removed and is made again when used"
                reports.append(FileReport(name, label, path, "cache", "bad", bad))
        if bad:
            shutil.rmtree(folder)
    return reports


def _check(reference: Reference, placed: Placed) -> list[FileReport]:
    name, source = str(reference), placed.source
    if source == "folder":
        files = sorted(p for p in placed.folder.iterdir() if p.is_file())
        return [FileReport(name, p.name, p, source, "unknown", "no hash is known") for p in files]
    reports = []
    for file, expected in placed.files.items():
        path = placed.folder / file
        try:
            check_file(path, expected, name=name, fresh=True)
        except ChecksumMismatch as error:
            if not path.exists():
                reports.append(FileReport(name, file, path, source, "missing", error.message))
                continue
            detail = error.message
            if source == "cache":
                detail += f"; moved aside to {move_aside(path)}"
            reports.append(FileReport(name, file, path, source, "bad", detail))
        else:
            reports.append(FileReport(name, file, path, source, "ok"))
    return reports
