"""``kexue push DIR --mirror FOLDER``: copy weights into a mirror and write their registry entry."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kexue_core.errors import StorageError, VerificationError
from kexue_core.folder import CARD_FILE
from kexue_core.hub.receipts import hash_file
from kexue_core.hub.registry_file import read_entry, write_entry
from kexue_core.hub.stanza import describe
from kexue_core.names import check_name
from kexue_core.registry import CORE_REGISTRY, MIRROR_MARKER

__all__ = ["Mirrored", "check_loads", "push_to_mirror"]


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a push to a mirror did, or with ``dry_run`` would do.

    Attributes:
        name: The weights.
        folder: Their folder in the mirror.
        entry: Their entry as it stands in the registry.
        registry: The registry file.
    """

    name: str
    folder: Path
    entry: Mapping[str, Any]
    registry: Path


def push_to_mirror(
    folder: Path,
    mirror: Path,
    *,
    name: str | None = None,
    registry: Path = CORE_REGISTRY,
    given: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> Mirrored:
    """Check a folder of weights, copy it into a mirror, write its entry into a registry.

    The copy is whole or not at all, and hashed again after it was written. The entry comes from
    ``config.json``, the card, the plugin's spec and ``results.jsonl``; what an earlier entry says
    in words stays.

    Args:
        folder: ``config.json``, ``model.safetensors``, ``README.md`` and what belongs to them.
        mirror: Folder of the mirror; made, with its marker, where it is missing.
        name: Name of the weights; the folder's own where ``None``.
        registry: The registry.yaml to write.
        given: Fields of the entry that win over everything found (``summary``, ``license``, ...).
        dry_run: Check and describe, write nothing.

    Raises:
        WeightsFormatError: The folder or its card lacks something, or does not fit the model.
        PluginError: The plugin that declares the model is not installed.
        InvalidReferenceError: ``name`` is no valid name.
        RegistryError: The registry cannot be edited.
        StorageError: The mirror cannot be written.
    """
    folder, mirror = folder.resolve(), mirror.resolve()
    name = check_name(name or folder.name)
    target = mirror / name
    described = describe(folder, name, earlier=read_entry(registry, name), given=given or {})
    entry = described.entry
    check_loads(folder)
    if not dry_run:
        try:
            _copy(folder, target, entry["files"], described.card)
        except OSError as error:
            raise StorageError(f"{target} was not written: {error.strerror or error}") from error
        write_entry(registry, name, entry)
    return Mirrored(name, target, entry, registry)


def check_loads(folder: Path) -> None:
    """Load the weights strictly, as a user would.

    Raises:
        WeightsFormatError: They do not fit their model.
        PluginError: The plugin or torch is missing.
    """
    from kexue_core.api import load

    load(f"file:{folder}", device="cpu")


def _copy(folder: Path, target: Path, files: Mapping[str, Mapping[str, Any]], card: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    marker = target.parent / MIRROR_MARKER
    if not marker.exists():
        about = "A mirror of kexue weights: one folder a name"
        marker.write_text(f"{json.dumps({'format': 1, 'about': about})}\n", encoding="utf-8")
    if target == folder:
        if (folder / CARD_FILE).read_bytes() != card:
            (folder / CARD_FILE).write_bytes(card)
        return
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    old = fresh.with_suffix(".old")
    try:
        for name, expected in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            if name == CARD_FILE:
                (fresh / name).write_bytes(card)
            else:
                shutil.copyfile(folder / name, fresh / name)
            if hash_file(fresh / name) != expected["sha256"]:
                raise VerificationError(
                    f"{folder / name} changed while it was copied", hint="Run the push again"
                )
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
