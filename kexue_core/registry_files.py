"""One registry.yaml: its entries, and how each is checked.

A bad entry becomes a :class:`RegistryProblem`; the others are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from kexue_core.errors import InvalidReferenceError, RegistryError
from kexue_core.names import check_name, normalize
from kexue_core.specs import VERBS
from kexue_core.yaml_files import read_yaml

__all__ = [
    "CORE_REGISTRY",
    "FORMAT",
    "FileEntry",
    "PluginEntry",
    "RegistryProblem",
    "WeightsEntry",
    "read_registry",
]

FORMAT = 1
CORE_REGISTRY = Path(__file__).parent / "registry.yaml"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_STATUS = ("published", "unpublished", "unverified")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What is known of one file of weights: sha256 in hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsEntry:
    """One trained model, as the registry describes it.

    Attributes:
        name: Its name; unique within ``plugin``.
        plugin: The distribution that loads it.
        model: Name of the model in that distribution; ``None`` where the folder alone says so.
        capabilities: Verbs, of :data:`kexue_core.specs.VERBS`.
        license: SPDX identifier or ``LicenseRef-...``.
        repo: ``owner/name`` on the Hub, ``None`` while unpublished.
        revision: 40-hex commit on the Hub.
        files: File name -> hash and size; empty where they are not known (``unverified``).
        results: Records of :mod:`kexue_core.training.records`, as mappings.
        status: ``published``, ``unpublished`` (mirrors only) or ``unverified`` (hashes not known).
        adapter: Adapter that converts the repository's own format.
        requires: Weights that these cannot work without; ``pull`` follows them.
        parts: Weights that belong to these, such as a discriminator to its generator.
        mirrors: Folders or URLs of the registry that names it.
        origin: The registry file.
    """

    name: str
    plugin: str
    model: str | None = None
    capabilities: tuple[str, ...] = ()
    summary: str = ""
    license: str = "unknown"
    dataset: str | None = None
    repo: str | None = None
    revision: str | None = None
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    results: tuple[Mapping[str, Any], ...] = ()
    status: str = "unpublished"
    adapter: str | None = None
    requires: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    deprecated: str | None = None
    mirrors: tuple[str, ...] = ()
    origin: Path = CORE_REGISTRY

    @property
    def qualified(self) -> str:
        """``distribution::name``, which is never ambiguous."""
        return f"{self.plugin}::{self.name}"

    @property
    def size(self) -> int | None:
        """Bytes of all files, or ``None`` where they are not known."""
        return sum(f.size for f in self.files.values()) if self.files else None


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """A plugin that exists, installed or not."""

    name: str
    summary: str
    requires: str


@dataclass(frozen=True, slots=True)
class RegistryProblem:
    """An entry, or a whole file of a plugin, that was left out, and why."""

    origin: Path
    entry: str
    cause: str
    fix: str


#: Keys of a registry file.
_SECTIONS = frozenset({"format", "mirrors", "plugins", "weights"})

#: Keys of an entry of weights: the other fields come from its place in the file.
_KEYS = WeightsEntry.__dataclass_fields__.keys() - {"name", "mirrors", "origin"}


def read_registry(
    path: Path, *, owner: str | None = None
) -> tuple[list[WeightsEntry], dict[str, PluginEntry], list[RegistryProblem]]:
    """Read one registry file; bad entries become problems.

    Args:
        path: The YAML file.
        owner: Distribution that the file belongs to; its weights may name no other plugin.

    Raises:
        RegistryError: The file is missing, is no YAML mapping, or has a newer format.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise RegistryError(f"{path} holds no mapping", hint="It must begin with `format: 1`")
    version = content.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        raise RegistryError(
            f"{path} has format {version!r}, this kexue reads {FORMAT}",
            hint="Run `pip install --upgrade kexue`" if newer else "Write `format: 1` at its top",
        )
    problems: list[RegistryProblem] = []
    for unknown in sorted(str(key) for key in content.keys() - _SECTIONS):
        problems.append(_bad(path, unknown, ValueError("is no section of a registry")))
    mirrors: tuple[str, ...] = ()
    try:
        mirrors = tuple(_mirror(m, path) for m in _strings(content.get("mirrors") or []))
    except ValueError as error:
        problems.append(_bad(path, "mirrors", error))
    weights: list[WeightsEntry] = []
    plugins: dict[str, PluginEntry] = {}
    for name, raw in _mapping(content.get("plugins"), path, "plugins", problems).items():
        try:
            plugins[str(name)] = _plugin(name, raw)
        except (ValueError, InvalidReferenceError) as error:
            problems.append(_bad(path, f"plugins: {name}", error))
    for name, raw in _mapping(content.get("weights"), path, "weights", problems).items():
        try:
            weights.append(_weights(name, raw, mirrors, path, owner))
        except (ValueError, InvalidReferenceError) as error:
            problems.append(_bad(path, f"weights: {name}", error))
    return weights, plugins, problems


def _bad(path: Path, entry: str, error: Exception) -> RegistryProblem:
    cause = error.message if isinstance(error, InvalidReferenceError) else str(error)
    return RegistryProblem(path, entry, cause, f"Correct the entry in {path}; it is left out")


def _mapping(
    value: object, path: Path, section: str, problems: list[RegistryProblem]
) -> dict[Any, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    problems.append(_bad(path, section, ValueError("is no mapping of names to entries")))
    return {}


def _plugin(name: object, raw: object) -> PluginEntry:
    check_name(name)
    if not isinstance(raw, dict):
        raise ValueError("is no mapping")
    return PluginEntry(str(name), str(raw.get("summary", "")), str(raw.get("requires", name)))


def _weights(
    name: object, raw: object, mirrors: tuple[str, ...], path: Path, owner: str | None
) -> WeightsEntry:
    """Check one entry.

    Raises:
        ValueError: What is wrong with it.
    """
    if not isinstance(raw, dict):
        raise ValueError("is no mapping")
    if unknown := sorted(str(k) for k in raw.keys() - _KEYS):
        raise ValueError(f"unknown key {', '.join(unknown)}")
    plugin = check_name(raw.get("plugin", owner))
    if owner is not None and normalize(plugin) != normalize(owner):
        raise ValueError(f"names the plugin {plugin}, but the file belongs to {owner}")
    for field_name in ("model", "adapter"):
        if raw.get(field_name) is not None:
            check_name(raw[field_name])
    capabilities = _strings(raw.get("capabilities") or [])
    if odd := [c for c in capabilities if c not in VERBS]:
        raise ValueError(f"unknown capability {odd[0]!r}; choose from {', '.join(VERBS)}")
    repo, revision = raw.get("repo"), raw.get("revision")
    if repo is not None and (not isinstance(repo, str) or repo.count("/") != 1):
        raise ValueError(f"repo must be owner/name, not {repo!r}")
    if revision is not None and not _COMMIT.fullmatch(str(revision)):
        raise ValueError(f"revision must be a 40-hex commit, not {revision!r}")
    status = raw.get("status", "published" if repo else "unpublished")
    if status not in _STATUS:
        raise ValueError(f"status must be one of {', '.join(_STATUS)}, not {status!r}")
    files = _files(raw.get("files") or {})
    if not files and status != "unverified":
        raise ValueError("lists no files; only `status: unverified` may leave them out")
    results = raw.get("results") or []
    if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
        raise ValueError("results must be a list of records")
    aliases = _strings(raw.get("aliases") or [])
    for each in (name, *aliases):
        check_name(each)
    return WeightsEntry(
        name=str(name),
        plugin=plugin,
        model=raw.get("model"),
        capabilities=capabilities,
        summary=str(raw.get("summary", "")),
        license=str(raw.get("license", "unknown")),
        dataset=raw.get("dataset"),
        repo=repo,
        revision=revision,
        files=files,
        results=tuple(results),
        status=status,
        adapter=raw.get("adapter"),
        requires=_strings(raw.get("requires") or []),
        parts=_strings(raw.get("parts") or []),
        aliases=aliases,
        deprecated=raw.get("deprecated"),
        mirrors=mirrors,
        origin=path,
    )


def _files(raw: object) -> dict[str, FileEntry]:
    if not isinstance(raw, dict):
        raise ValueError("files must map names to {sha256, size}")
    files = {}
    for name, entry in raw.items():
        path = PurePosixPath(str(name))
        if path.is_absolute() or ".." in path.parts or "\\" in str(name) or not path.parts:
            raise ValueError(f"the file name {name!r} leads out of the folder")
        if not isinstance(entry, dict) or not _SHA256.fullmatch(str(entry.get("sha256"))):
            raise ValueError(f"{name}: sha256 must be 64 hex digits")
        size = entry.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"{name}: size must be a number of bytes, not {size!r}")
        files[str(name)] = FileEntry(entry["sha256"], size)
    return files


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise ValueError(f"{value!r} must be a list of strings")
    return tuple(str(v) for v in value)


def _mirror(mirror: str, registry: Path) -> str:
    """A mirror as the registry writes it: a URL, or a folder relative to the registry file."""
    if "://" in mirror:
        return mirror
    return str((registry.resolve().parent / mirror).resolve())
