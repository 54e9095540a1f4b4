"""Entry points of the installed distributions, read without ``importlib.metadata``.

That module imports the e-mail package to read a version, and costs a fifth of the time of
``kexue list``. Ordinary folders on ``sys.path`` need none of it: a distribution is a folder
``name-version.dist-info`` with two text files. Whatever is not ordinary (zip files, foreign
finders) is left to ``importlib.metadata``; a test holds the two against each other.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kexue_core.names import normalize

__all__ = ["EntryPoint", "entry_points"]

_INFO = (".dist-info", ".egg-info")


class EntryPoint(NamedTuple):
    """One line of a distribution's entry_points.txt, and what its METADATA says of itself.

    Attributes:
        name: Left of the equals sign.
        value: ``module`` or ``module:attribute``, without extras.
        distribution: Normalised name of the distribution.
        version: Its version, ``"?"`` where the metadata has none.
        requires: Its ``Requires-Dist`` lines.
    """

    name: str
    value: str
    distribution: str
    version: str
    requires: tuple[str, ...]


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group; the first of equally named distributions on the path counts."""
    found: list[EntryPoint] = []
    seen: set[str] = set()
    for stem, texts in _foreign() if _unusual() else _ordinary():
        key = normalize(stem)
        if key in seen:
            continue
        seen.add(key)
        lines = _section(texts("entry_points.txt"), group)
        if not lines:
            continue
        headers = _headers(texts("METADATA") or texts("PKG-INFO"))
        for name, value in lines:
            found.append(
                EntryPoint(
                    name=name,
                    value=value,
                    distribution=normalize(headers.get("Name", [stem])[0]),
                    version=headers.get("Version", ["?"])[0],
                    requires=tuple(headers.get("Requires-Dist", [])),
                )
            )
    return found


class _Texts:
    """The text files of one metadata folder; missing ones are empty."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, file: str) -> str:
        try:
            return Path(self.folder, file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def _ordinary() -> Iterator[tuple[str, _Texts]]:
    """(name as the folder spells it, its texts) of each metadata folder on the path."""
    for entry in dict.fromkeys(sys.path):
        try:
            folders = [f for f in os.scandir(entry or ".") if f.name.endswith(_INFO)]
        except OSError:
            continue
        for folder in folders:
            yield folder.name.rpartition(".")[0].partition("-")[0], _Texts(folder.path)


def _unusual() -> bool:
    """Whether distributions may be where only ``importlib.metadata`` looks."""
    own = "_frozen_importlib_external"
    return any(
        hasattr(finder, "find_distributions") and getattr(finder, "__module__", own) != own
        for finder in sys.meta_path
    ) or any(entry.endswith(".egg") or Path(entry).is_file() for entry in sys.path if entry)


def _foreign() -> Iterator[tuple[str, _Texts]]:
    from importlib import metadata

    class Texts(_Texts):
        def __init__(self, distribution: metadata.Distribution) -> None:
            self.distribution = distribution

        def __call__(self, file: str) -> str:
            return self.distribution.read_text(file) or ""

    for distribution in metadata.distributions():
        yield distribution.name, Texts(distribution)


def _section(text: str, group: str) -> list[tuple[str, str]]:
    """The lines ``name = value`` under ``[group]``."""
    found = []
    inside = False
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and line and not line.startswith("#"):
            name, separator, value = line.partition("=")
            if separator:
                found.append((name.strip(), re.sub(r"\s*\[.*", "", value.strip())))
    return found


def _headers(text: str) -> dict[str, list[str]]:
    """The header lines of a METADATA file, up to the description."""
    headers: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line:
            break
        key, _, value = line.partition(": ")
        headers.setdefault(key, []).append(value)
    return headers
