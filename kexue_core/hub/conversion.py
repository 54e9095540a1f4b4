"""``kexue convert``: a foreign checkpoint to a folder of weights, in a child process.

The parent imports no torch. The child reads tensors only (see :mod:`kexue_core.adapters`), hands
them to a plugin's adapter and saves what fits its model exactly.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from kexue_core import errors
from kexue_core.adapters import find_checkpoint
from kexue_core.errors import KexueError, NotFoundError, PluginError, WeightsFormatError
from kexue_core.hub.files import check_files, fingerprint
from kexue_core.hub.home import kexue_home, read_json, write_json
from kexue_core.hub.locks import FileLock
from kexue_core.hub.receipts import hash_file
from kexue_core.plugins import Declared, discover
from kexue_core.registry import FileEntry
from kexue_core.specs import AdapterSpec

__all__ = [
    "Converted",
    "conversions",
    "convert",
    "converted_files",
    "converted_folder",
    "ensure_converted",
    "find_adapter",
]

#: What a conversion was made from and what came of it, beside the files.
_RECORD = "converted.json"


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion made.

    Attributes:
        folder: A folder of weights.
        adapter: ``distribution::name`` of the adapter.
        tensors: How many tensors it holds.
    """

    folder: Path
    adapter: str
    tensors: int


def find_adapter(kind: str, name: str | None = None, plugin: str | None = None) -> Declared:
    """The adapter of that name, or the only one that reads a format.

    Raises:
        NotFoundError: None is installed; or several are, and the hint names them.
        PluginError: The plugin that has it is missing.
    """
    if name is not None:
        found = discover().find("adapter", name, plugin)
        assert isinstance(found.spec, AdapterSpec)
        if kind not in found.spec.formats:
            raise WeightsFormatError(
                f"{found.qualified} reads {', '.join(found.spec.formats)}, and this is {kind}",
                hint="Choose another with --adapter; `kexue list --kind adapter` shows them",
            )
        return found
    able = [
        d
        for d in discover().declared("adapter")
        if isinstance(d.spec, AdapterSpec) and kind in d.spec.formats
    ]
    if len(able) != 1:
        names = ", ".join(d.qualified for d in able)
        raise NotFoundError(
            f"{'Several adapters read' if able else 'No installed adapter reads'} {kind}",
            hint=f"Choose with --adapter: {names}" if able else "Install the plugin that has it",
        )
    return able[0]


def convert(
    source: Path,
    to: Path,
    *,
    adapter: str | None = None,
    plugin: str | None = None,
    limit: float | None = None,
) -> Converted:
    """Convert a checkpoint; the folder appears whole or not at all.

    A ``config.json`` beside the checkpoint is handed to the adapter, and vocabularies are copied.

    Args:
        source: A file, the prefix of a TensorFlow checkpoint, or a folder that holds one.
        to: The folder of weights to make.
        adapter: Name of the adapter; the only one for the format where ``None``.
        plugin: Distribution of the adapter, where its name alone is ambiguous.
        limit: Seconds that the child may take; ``None`` for no limit.

    Raises:
        NotFoundError, PluginError: No such checkpoint, or no adapter for it.
        VerificationError: The checkpoint needs code to run; none of it was.
        WeightsFormatError: It is damaged, or does not fit the model: missing and unexpected keys
            and wrong shapes are named.
        KexueError: The child died, or ``to`` cannot be written.
    """
    kind, path = find_checkpoint(source)
    chosen = find_adapter(kind, adapter, plugin)
    task = {
        "source": str(path),
        "to": str(to),
        "adapter": chosen.spec.name,
        "plugin": chosen.distribution,
    }
    try:
        child = subprocess.run(
            [sys.executable, "-m", "kexue_core.hub.conversion_child"],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
    except subprocess.TimeoutExpired as error:
        raise KexueError(f"{path} was not converted within {limit} s") from error
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise KexueError(
            f"The conversion of {path} died (exit code {child.returncode}): {last}",
            hint="Report it to the adapter's author; if memory ran out, use a larger machine",
        ) from None
    if "error" in answer:
        kinds: dict[str, type[KexueError]] = {n: getattr(errors, n) for n in errors.__all__}
        raise kinds.get(answer["error"], KexueError)(answer["message"], hint=answer["hint"])
    return Converted(to, chosen.qualified, int(answer["tensors"]))


def converted_folder(files: Mapping[str, FileEntry], found: Declared) -> Path:
    """Where the conversion of these source files by this adapter belongs."""
    try:
        version = metadata.version(found.distribution)
    except metadata.PackageNotFoundError:
        version = "0"
    name = f"{fingerprint(files)[:16]}-{found.spec.name}-{version}"
    return kexue_home() / "converted" / name


def conversions(files: Mapping[str, FileEntry]) -> list[Path]:
    """What was made from these source files, by any adapter: folders, and their locks."""
    return sorted((kexue_home() / "converted").glob(f"{fingerprint(files)[:16]}-*"))


def converted_files(folder: Path) -> dict[str, FileEntry] | None:
    """What a conversion wrote; ``None`` where there is no whole one."""
    record = read_json(folder / _RECORD)
    try:
        return {n: FileEntry(str(f["sha256"]), int(f["size"])) for n, f in record["files"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def ensure_converted(
    source: Path, files: Mapping[str, FileEntry], *, adapter: str, plugin: str, name: str
) -> Path:
    """The folder of weights made from verified source files; converts them the first time.

    Args:
        source: Folder of the source files.
        files: Their hashes.
        adapter: Name of the adapter.
        plugin: Distribution that has it.
        name: Reference of the weights, for messages.

    Raises:
        PluginError: The plugin is not installed.
        ChecksumMismatch: The converted files are not what the conversion wrote.
        WeightsFormatError, VerificationError, KexueError: As :func:`convert`.
    """
    kind, _ = find_checkpoint(source)
    try:
        found = find_adapter(kind, adapter, plugin)
    except NotFoundError as error:
        raise PluginError(
            f"{name} is converted by {adapter} of {plugin}, which is not installed",
            hint=f"Run: kexue install {plugin}",
        ) from error
    folder = converted_folder(files, found)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{folder.name}.lock"):
            made = converted_files(folder)
            if made is None:
                _make(source, folder, adapter=adapter, plugin=plugin)
                made = converted_files(folder)
    except OSError as error:
        raise KexueError(
            f"{error.filename or folder} cannot be written: {error.strerror}",
            hint="Set KEXUE_HOME to a folder that you can write",
        ) from error
    assert made is not None
    check_files(folder, made, name=name)
    return folder


def _make(source: Path, folder: Path, *, adapter: str, plugin: str) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        fresh = temporary / "weights"
        convert(source, fresh, adapter=adapter, plugin=plugin)
        files = {
            p.name: {"sha256": hash_file(p), "size": p.stat().st_size}
            for p in sorted(fresh.iterdir())
        }
        write_json(fresh / _RECORD, {"format": 1, "files": files})
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def vocabularies(folder: Path) -> Sequence[Path]:
    """Files beside a checkpoint that a model needs and that are no tensors."""
    names = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json", "spm.model")
    return [folder / name for name in names if (folder / name).is_file()]
