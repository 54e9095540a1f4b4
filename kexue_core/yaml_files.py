"""Read a YAML file, and remember as JSON what it said.

Importing PyYAML and parsing a catalogue of twenty entries costs 60 ms even with the C loader, more
than everything else in ``kexue list``; the same content as JSON costs 2 ms. The copy lies in
``$KEXUE_HOME/yaml`` and counts only while path, size, times and inode of the file are the same.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from pathlib import Path
from typing import Any

from kexue_core.errors import RegistryError

__all__ = ["read_yaml"]

# A file changed twice within one tick of the clock keeps its times; none is remembered this young.
# Two seconds is the coarsest tick in use (FAT).
_RACY = 2.0


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        RegistryError: It cannot be read, or is no YAML; the message names path, reason and line.
    """
    from kexue_core.hub.home import kexue_home, read_json, write_json

    try:
        real = path.resolve()
        stat = real.stat()
        stamp = [str(real), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        copy = kexue_home() / "yaml" / f"{zlib.crc32(os.fsencode(real)):08x}.json"
        known = read_json(copy)
        if isinstance(known, dict) and known.get("stamp") == stamp and "content" in known:
            return known["content"]
        raw = path.read_bytes()
    except OSError as error:
        raise RegistryError(
            f"{path} cannot be read: {error.strerror}", hint="Correct KEXUE_REGISTRY or reinstall"
        ) from error
    content = _parse(raw, path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > _RACY and _is_json(content):
        with contextlib.suppress(OSError):  # a home that cannot be written costs only time
            write_json(copy, {"stamp": stamp, "content": content})
    return content


def _parse(raw: bytes, path: Path) -> Any:
    import yaml

    # The C loader is several times faster; every wheel of PyYAML has it, some source builds do not.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(raw, Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise RegistryError(f"{path} is no YAML: {reason}{place}", hint="Correct it") from error


def _is_json(value: object) -> bool:
    """Whether JSON gives back exactly this: no dates, and no keys but text."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_json(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int | float | bool)
