"""Writing entries into a registry.yaml without touching the rest of it.

The file is edited as text: comments, order and spelling of everything but the entry stay. The
entry itself is written by the machine, and comments inside it are lost.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kexue_core.errors import RegistryError

__all__ = ["read_entry", "render_entry", "write_entry"]

_TOP = re.compile(r"^weights:[ \t]*(?P<rest>[^#\n]*?)[ \t]*(#.*)?$", re.MULTILINE)
_ENTRY = re.compile(r"^  (?P<quote>[\"']?)(?P<name>[a-z0-9][a-z0-9-]*)(?P=quote):(\s|$)")


class _Dumper(yaml.SafeDumper):
    """Aliases would make one entry depend on another: everything is written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Flow(dict[str, Any]):
    """A mapping on one line."""


_Dumper.add_representer(
    _Flow, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, True)
)


def render_entry(name: str, entry: Mapping[str, Any]) -> str:
    """An entry as it stands under ``weights:``, two blanks in; each file on one line."""
    shown = dict(entry)
    if "files" in shown:
        shown["files"] = {k: _Flow(v) for k, v in shown["files"].items()}
    if "results" in shown:
        shown["results"] = [_short(r) for r in shown["results"]]
    text = yaml.dump(
        {name: shown}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20
    )
    return "".join(f"  {line}\n" for line in text.splitlines())


def _short(record: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _Flow(v) if isinstance(v, Mapping) else v for k, v in record.items()}


def read_entry(path: Path, name: str) -> dict[str, Any]:
    """The entry of ``name`` as it is written, an empty mapping where there is none.

    Raises:
        RegistryError: The file cannot be read or is no registry.
    """
    weights = _content(_read(path), path).get("weights") or {}
    entry = weights.get(name) if isinstance(weights, dict) else None
    return entry if isinstance(entry, dict) else {}


def write_entry(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Add or replace one entry under ``weights:``, in the order of names.

    Raises:
        RegistryError: The file cannot be read, is no registry, or is written in a way (tabs, flow
            style, another indentation) that this edit does not understand; it stays as it was.
    """
    text = _read(path)
    before = _content(text, path)
    fresh = _splice(text, name, render_entry(name, entry))
    expected = {**before, "weights": {**(before.get("weights") or {}), name: dict(entry)}}
    if _parsed(fresh) != expected:
        raise RegistryError(
            f"{path} is laid out in a way that kexue cannot edit",
            hint="Indent the entries under `weights:` by two blanks, one after the other",
        )
    temporary = path.resolve().with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(fresh, encoding="utf-8")
        temporary.replace(path.resolve())
    except OSError as error:
        raise RegistryError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _splice(text: str, name: str, block: str) -> str:
    top = _TOP.search(text)
    if top is None:
        return f"{text.rstrip()}\n\nweights:\n{block}"
    head, tail = text[: top.start()], text[top.end() :].removeprefix("\n")
    opening = top.group(0)
    if top.group("rest") in ("{}", "null", "~"):
        opening = opening.replace(top.group("rest"), "", 1).rstrip()
    lines = tail.splitlines(keepends=True)
    end = next(
        (i for i, line in enumerate(lines) if line[:1] not in (" ", "\n", "#", "\r")), len(lines)
    )
    # Comments and blank lines before the next section belong to that section.
    while end and lines[end - 1][:1] in ("\n", "#", "\r"):
        end -= 1
    section, rest = lines[:end], lines[end:]
    return f"{head}{opening}\n{_with_entry(section, name, block)}{''.join(rest)}"


def _with_entry(section: list[str], name: str, block: str) -> str:
    starts = [(i, m["name"]) for i, line in enumerate(section) if (m := _ENTRY.match(line))]
    if section and not section[-1].endswith("\n"):
        section[-1] += "\n"
    for position, (start, found) in enumerate(starts):
        after = starts[position + 1][0] if position + 1 < len(starts) else len(section)
        if found == name:
            after = _without_comments(section, start + 1, after)
            return "".join(section[:start]) + block + "".join(section[after:])
    for start, found in starts:
        if found > name:
            place = _without_comments(section, 0, start)
            return "".join(section[:place]) + block + "".join(section[place:])
    return "".join(section) + block


def _without_comments(section: list[str], start: int, end: int) -> int:
    """Step back over comments and blank lines: they belong to the entry that follows."""
    while end > start and (not section[end - 1].strip() or section[end - 1].startswith("  #")):
        end -= 1
    return end


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "format: 1\n\nweights: {}\n"
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"{path} cannot be read: {error}") from error


def _content(text: str, path: Path) -> dict[str, Any]:
    content = _parsed(text)
    if not isinstance(content, dict):
        raise RegistryError(f"{path} holds no YAML mapping", hint="Begin it with `format: 1`")
    return content


def _parsed(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None
