"""Mirrors: folders or URLs that hold the same files as the Hub, one folder a name.

``KEXUE_MIRROR`` names mirrors first, the registry's own come after. A folder is a mirror only if it
carries the marker file: any folder could happen to be where the registry's relative path points.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from kexue_core.errors import NotFoundError
from kexue_core.hub.home import read_json
from kexue_core.registry import MIRROR_MARKER, WeightsEntry

__all__ = ["folder_mirrors", "in_folder_mirrors", "split_mirrors", "url_mirrors"]

# A colon parts two mirrors unless it belongs to a URL: `http://` or `host:8080`.
_COLON = re.compile(r":(?!//)(?!\d+(?:[/:,]|$))") if os.pathsep == ":" else re.compile(";")


def split_mirrors(value: str) -> tuple[str, ...]:
    """The mirrors that ``KEXUE_MIRROR`` lists, parted by commas or ``os.pathsep``.

    >>> split_mirrors("/data/hub,http://host:8080/hub")
    ('/data/hub', 'http://host:8080/hub')
    """
    pieces = (piece for part in value.split(",") for piece in _COLON.split(part))
    return tuple(piece.strip() for piece in pieces if piece.strip())


def _named() -> tuple[str, ...]:
    return split_mirrors(os.environ.get("KEXUE_MIRROR", ""))


def url_mirrors(entry: WeightsEntry) -> tuple[str, ...]:
    """The mirrors of an entry that need the network, ``KEXUE_MIRROR`` first; no trailing slash."""
    return tuple(m.rstrip("/") for m in (*_named(), *entry.mirrors) if "://" in m)


def folder_mirrors(entry: WeightsEntry) -> tuple[Path, ...]:
    """The mirrors of an entry that are folders here, ``KEXUE_MIRROR`` first.

    Raises:
        NotFoundError: A folder of ``KEXUE_MIRROR`` is missing, or carries no marker of format 1.
            The registry's own mirrors are passed over silently: an installed wheel has none beside
            it.
    """
    folders = []
    for mirror in _named():
        if "://" in mirror:
            continue
        folder = Path(mirror).expanduser()
        if not folder.is_dir():
            raise NotFoundError(
                f"KEXUE_MIRROR names {mirror}, which is no folder",
                hint="Correct KEXUE_MIRROR or unset it",
            )
        if not (folder / MIRROR_MARKER).is_file():
            raise NotFoundError(
                f"KEXUE_MIRROR names {mirror}, which is no mirror: it has no {MIRROR_MARKER}",
                hint=f"If it is one, run: echo '{{\"format\": 1}}' > {folder / MIRROR_MARKER}",
            )
        content = read_json(folder / MIRROR_MARKER)
        version = content.get("format") if isinstance(content, dict) else None
        if version != 1:
            newer = isinstance(version, int) and version > 1
            raise NotFoundError(
                f"{folder / MIRROR_MARKER} has format {version!r}, this kexue reads 1",
                hint="Run `pip install --upgrade kexue`"
                if newer
                else "Copy the mirror again, or correct the file",
            )
        folders.append(folder)
    folders += [
        Path(mirror)
        for mirror in entry.mirrors
        if "://" not in mirror and (Path(mirror) / MIRROR_MARKER).is_file()
    ]
    return tuple(folders)


def in_folder_mirrors(entry: WeightsEntry) -> Path | None:
    """The folder of these weights in the first mirror that has it.

    Raises:
        NotFoundError: See :func:`folder_mirrors`.
    """
    return _first_folder(folder_mirrors(entry), entry.name)


def _first_folder(mirrors: Sequence[Path], name: str) -> Path | None:
    for mirror in mirrors:
        if (mirror / name).is_dir():
            return mirror / name
    return None
