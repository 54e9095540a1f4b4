"""What the registry says of a folder of weights: checked, hashed and described."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kexue_core.cards import model_index, with_results
from kexue_core.errors import NotFoundError, PluginError, WeightsFormatError
from kexue_core.folder import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, WeightsConfig
from kexue_core.hub.files import safe_name
from kexue_core.hub.receipts import hash_file
from kexue_core.plugins import discover
from kexue_core.specs import ModelSpec
from kexue_core.training.records import ResultRecord, read_records

__all__ = ["RESULTS_FILE", "Described", "describe", "published_files", "read_card", "split_card"]

# How an entry reads best: what it is, where it is, what it needs, what a machine measured.
_ORDER = (
    *("plugin", "model", "capabilities", "summary", "license", "dataset"),
    *("repo", "revision", "status", "adapter", "aliases", "deprecated", "requires", "parts"),
    *("files", "results"),
)

#: Result records beside the weights: they go to the registry and the card, not to the Hub.
RESULTS_FILE = "results.jsonl"


def published_files(folder: Path) -> list[str]:
    """The files of a folder that are published: all but hidden ones and the result records.

    Raises:
        NotFoundError: There is no such folder.
        WeightsFormatError: ``config.json``, ``model.safetensors`` or ``README.md`` is missing.
        VerificationError: A file's name does not mean the same on every system.
    """
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is no folder", hint="Name a folder of weights")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    names = [safe_name(name, source=str(folder)) for name in names if name != RESULTS_FILE]
    for needed in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE):
        if needed not in names:
            raise WeightsFormatError(
                f"{folder} holds no {needed}",
                hint="`kexue train` and kexue.save write all three; a card holds licence and data",
            )
    return names


def read_card(folder: Path) -> dict[str, Any]:
    """The metadata on top of ``README.md``, with licence and terms of the data checked.

    Raises:
        WeightsFormatError: There is none, it names no licence, or the text says nothing of data.
    """
    path = folder / CARD_FILE
    metadata, body = split_card(path.read_text(encoding="utf-8"))
    if metadata is None:
        raise WeightsFormatError(
            f"{path} has no metadata", hint="Begin it with `---`, `license: ...`, `---`"
        )
    if not isinstance(metadata.get("license"), str):
        raise WeightsFormatError(f"{path} names no licence", hint="Add `license: ...` on its top")
    if metadata["license"] == "other" and not metadata.get("license_name"):
        raise WeightsFormatError(
            f"{path} says `license: other` without a name", hint="Add `license_name: ...`"
        )
    if not any(line.startswith("#") and "data" in line.lower() for line in body.splitlines()):
        raise WeightsFormatError(
            f"{path} says nothing of the data", hint="Add a section `## Data and terms`"
        )
    return metadata


def split_card(text: str) -> tuple[dict[str, Any] | None, str]:
    """Metadata (``None`` where there is none) and body of a model card."""
    if not text.startswith("---\n"):
        return None, text
    top, separator, body = text[4:].partition("\n---\n")
    try:
        metadata = yaml.safe_load(top) if separator else None
    except yaml.YAMLError:
        metadata = None
    return (metadata, body) if isinstance(metadata, dict) else (None, text)


@dataclass(frozen=True, slots=True)
class Described:
    """A folder of weights, ready to be published.

    Attributes:
        entry: What the registry says of it.
        card: ``README.md`` with the results in its metadata, as bytes: the one file that may
            differ from the folder's own.
    """

    entry: dict[str, Any]
    card: bytes


def describe(
    folder: Path, name: str, *, earlier: Mapping[str, Any], given: Mapping[str, Any]
) -> Described:
    """The registry's entry for a folder of weights, and its card with the results.

    Args:
        folder: The folder.
        name: Name of the weights.
        earlier: The entry so far: what a person wrote there (summary, parts, aliases) stays, and
            results that were measured on this very file.
        given: Values from the command line, which win over everything.

    Raises:
        WeightsFormatError: See :func:`published_files` and :func:`read_card`; or it requires
            weights in a folder of this machine.
        PluginError: The plugin that declares the model is not installed.
        DataError: ``results.jsonl`` holds something else than records.
    """
    names = published_files(folder)
    metadata = read_card(folder)
    config = WeightsConfig.read(folder)
    if own := [name for name in config.requires if name.startswith("file:")]:
        raise WeightsFormatError(
            f"{folder} requires {own[0]}, which nobody else has",
            hint="Publish that first, and require it by its name",
        )
    spec = _spec(config)
    weights = hash_file(folder / WEIGHTS_FILE)
    records = _records(folder, weights, earlier)
    card = _card(folder, name, spec, records)
    files = {
        file: {"sha256": hash_file(folder / file), "size": (folder / file).stat().st_size}
        for file in names
        if file != CARD_FILE
    }
    files[CARD_FILE] = {"sha256": hashlib.sha256(card).hexdigest(), "size": len(card)}
    entry: dict[str, Any] = {
        "plugin": config.plugin,
        "model": config.model,
        "capabilities": list(spec.verbs),
        "summary": earlier.get("summary") or _summary(folder),
        "license": earlier.get("license") or _license(metadata),
        "dataset": earlier.get("dataset") or (records[0].dataset if records else None),
        "status": "unpublished",
        "requires": list(config.requires),
        "files": {file: files[file] for file in sorted(files)},
        "results": [record.to_dict() for record in records],
    }
    if earlier.get("files") == entry["files"]:  # the same bytes: they are where they were
        entry |= {k: earlier[k] for k in ("repo", "revision", "status") if k in earlier}
    kept = {k: earlier[k] for k in ("parts", "aliases", "deprecated") if k in earlier}
    merged = {**entry, **kept, **{k: v for k, v in given.items() if v is not None}}
    return Described({k: merged[k] for k in _ORDER if merged.get(k) not in (None, [], ())}, card)


def _records(folder: Path, sha256: str, earlier: Mapping[str, Any]) -> list[ResultRecord]:
    """What was measured on this very file of weights; of the same measurement the latest."""
    known = [ResultRecord.from_dict(r) for r in earlier.get("results") or []]
    latest: dict[str, ResultRecord] = {}
    for record in [*known, *read_records(folder / RESULTS_FILE)]:
        if record.weights == sha256:
            plain = record.to_dict()
            same = {
                k: plain.get(k) for k in ("metric", "dataset", "split", "n", "seed", "settings")
            }
            latest[json.dumps(same, sort_keys=True)] = record
    return list(latest.values())


def _card(folder: Path, name: str, spec: ModelSpec, records: Sequence[ResultRecord]) -> bytes:
    text = (folder / CARD_FILE).read_text(encoding="utf-8")
    metadata, body = split_card(text)
    assert metadata is not None  # read_card has looked
    index = model_index(name, spec, records) if records else None
    if metadata.get("model-index") == index:
        return text.encode()  # as its author wrote it
    metadata.pop("model-index", None)
    if index:
        metadata["model-index"] = index
    top = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{top}---\n{with_results(body, records)}".encode()


def _spec(config: WeightsConfig) -> ModelSpec:
    try:
        spec = discover().find("model", config.model, config.plugin).spec
    except NotFoundError as error:
        raise PluginError(
            f"The model {config.model} of {config.plugin} is not installed here",
            hint=f"Run: kexue install {config.plugin}",
        ) from error
    assert isinstance(spec, ModelSpec)
    return spec


def _license(card: Mapping[str, Any]) -> str:
    if card["license"] == "other":
        return f"LicenseRef-{card['license_name']}"
    return str(card["license"])


def _summary(folder: Path) -> str:
    """The first paragraph of the card."""
    _, body = split_card((folder / CARD_FILE).read_text(encoding="utf-8"))
    for paragraph in body.split("\n\n"):
        text = " ".join(paragraph.split())
        if text and text[0] not in "#`|-<!":
            return text
    return ""
