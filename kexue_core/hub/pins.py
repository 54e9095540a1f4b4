"""Pins: what files of a source without known hashes were at the first pull.

One lock file a repository, ``$KEXUE_HOME/pins/owner--name.json``. Later pulls and uses of the same
revision must find the same bytes; ``kexue rm`` forgets a pin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kexue_core.hub.home import kexue_home, read_json, write_json
from kexue_core.registry import FileEntry

__all__ = ["Pin", "all_pins", "forget_pin", "pins_path", "read_pin", "read_pins", "write_pin"]


@dataclass(frozen=True, slots=True)
class Pin:
    """What a revision was at the first pull.

    Attributes:
        commit: 40 hex digits.
        files: sha256 and size of the files that were pulled.
        partial: Only some files were asked for (``--include``).
    """

    commit: str
    files: Mapping[str, FileEntry]
    partial: bool = False


def pins_path(repo: str) -> Path:
    """The lock file of ``owner/name``."""
    return kexue_home() / "pins" / f"{repo.replace('/', '--')}.json"


def read_pins(repo: str) -> dict[str, Pin]:
    """All pins of a repository, by revision; broken ones are left out."""
    content = read_json(pins_path(repo))
    found = {}
    revisions = content.get("revisions") if isinstance(content, dict) else None
    for revision, raw in revisions.items() if isinstance(revisions, dict) else ():
        try:
            files = {
                str(name): FileEntry(str(f["sha256"]), int(f["size"]))
                for name, f in raw["files"].items()
            }
            partial = raw.get("partial") is True
            found[str(revision)] = Pin(str(raw["commit"]), files, partial)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found


def all_pins() -> Iterator[tuple[str, dict[str, Pin]]]:
    """Every repository that has pins, with them."""
    for path in sorted((kexue_home() / "pins").glob("*.json")):
        content = read_json(path)
        if isinstance(content, dict) and isinstance(content.get("repo"), str):
            yield content["repo"], read_pins(content["repo"])


def read_pin(repo: str, revision: str) -> Pin | None:
    """The pin of one revision (branch, tag or commit), or ``None``."""
    return read_pins(repo).get(revision)


def write_pin(repo: str, revision: str, pin: Pin) -> None:
    """Add or replace a pin.

    Raises:
        OSError: ``KEXUE_HOME`` cannot be written.
    """
    _write(repo, {**read_pins(repo), revision: pin})


def forget_pin(repo: str, revision: str) -> None:
    """Remove a pin; the lock file goes with its last one.

    Raises:
        OSError: ``KEXUE_HOME`` cannot be written.
    """
    pins = read_pins(repo)
    pins.pop(revision, None)
    if pins:
        _write(repo, pins)
    else:
        pins_path(repo).unlink(missing_ok=True)


def _write(repo: str, pins: Mapping[str, Pin]) -> None:
    revisions: dict[str, Any] = {
        revision: {
            "commit": pin.commit,
            "partial": pin.partial,
            "files": {n: {"sha256": f.sha256, "size": f.size} for n, f in pin.files.items()},
        }
        for revision, pin in pins.items()
    }
    write_json(pins_path(repo), {"format": 1, "repo": repo, "revisions": revisions})
