"""From a reference to a folder of verified files: what every use of weights goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kexue_core.errors import (
    ChecksumMismatch,
    NotFoundError,
    OfflineError,
    WeightsFormatError,
)
from kexue_core.hub.files import check_files, fingerprint, have_all
from kexue_core.hub.home import kexue_home
from kexue_core.hub.layout import repo_folder
from kexue_core.hub.mirrors import in_folder_mirrors, url_mirrors
from kexue_core.hub.pins import read_pin
from kexue_core.hub.receipts import checked_sha256
from kexue_core.names import Reference, parse_reference
from kexue_core.registry import FileEntry, WeightsEntry, load_registry

__all__ = [
    "Located",
    "Placed",
    "find_here",
    "find_placed",
    "locate",
    "mirrored_folder",
    "not_here",
]

#: What to do about a mirror with a bad file: it is someone else's, so nothing is done to it.
MIRROR_HINT = "A mirror is not mended from here: restore that file in it, or unset KEXUE_MIRROR"

#: Branch that a Hub reference without a revision means.
MAIN = "main"


@dataclass(frozen=True, slots=True)
class Located:
    """Verified weights on this machine.

    Attributes:
        folder: Holds ``config.json`` and the files beside it.
        entry: What the registry says of them; ``None`` for ``hf:`` and ``file:``.
        source: ``mirror`` (read in place), ``cache`` (a pull placed it) or ``folder`` (``file:``).
    """

    folder: Path
    entry: WeightsEntry | None
    source: Literal["mirror", "cache", "folder"]


def locate(reference: Reference | str, *, download: bool = True) -> Located:
    """Find weights, pull them if need be, and verify every file before anyone reads it.

    Folder mirrors come first (``KEXUE_MIRROR``, then the registry's own) and are read in place;
    then what an earlier pull placed; then, with ``download``, mirrors by URL and the Hub. The first
    use hashes every file, later ones compare a receipt.

    ``file:path`` is the user's own folder: no hashes are known for it, so only that it holds a
    ``config.json`` is checked. ``hf:`` repositories are held to what they were at the first pull.

    Args:
        reference: A name, ``hf:owner/repo[@revision]`` or ``file:path``.
        download: Whether the network may be used.

    Raises:
        NotFoundError: No such name, folder or repository; or unpublished and in no mirror here.
        ChecksumMismatch: A file is not what the registry or the pin says.
        OfflineError: It must be fetched, and ``download`` or the network is off.
        NetworkError: The source cannot be reached.
        PluginError: The files are of another format, and the plugin that converts them is missing.
    """
    if isinstance(reference, str):
        reference = parse_reference(reference)
    found = find_here(reference)
    if found is not None:
        return _converted(reference, found)
    if not download:
        raise not_here(reference)
    from kexue_core.hub.download import pull
    from kexue_core.hub.progress import terminal_meter

    pull([reference], meter=terminal_meter())
    found = find_here(reference)
    if found is None:  # the files went away between the pull and now
        raise not_here(reference)
    return _converted(reference, found)


def _converted(reference: Reference, found: Located) -> Located:
    """Weights in another format give way to what their adapter makes of them."""
    entry = found.entry
    if entry is None or entry.adapter is None:
        return found
    from kexue_core.hub.conversion import ensure_converted

    placed = find_placed(reference)
    assert placed is not None
    folder = ensure_converted(
        placed.folder,
        placed.files,
        adapter=entry.adapter,
        plugin=entry.plugin,
        name=str(reference),
    )
    return Located(folder, entry, found.source)


def find_here(reference: Reference) -> Located | None:
    """Weights that are on this machine, verified; ``None`` where they must be fetched.

    Raises:
        NotFoundError: No such name or folder.
        ChecksumMismatch: They are here and not what they should be.
    """
    placed = find_placed(reference)
    if placed is None:
        return None
    try:
        check_files(placed.folder, placed.files, name=str(reference))
    except ChecksumMismatch as error:
        if placed.source == "mirror":
            raise ChecksumMismatch(error.message, hint=MIRROR_HINT) from None
        raise
    return Located(placed.folder, placed.entry, placed.source)


@dataclass(frozen=True, slots=True)
class Placed:
    """Weights on this machine, complete but not yet verified, and what their files should be."""

    folder: Path
    files: Mapping[str, FileEntry]
    entry: WeightsEntry | None
    source: Literal["mirror", "cache", "folder"]


def find_placed(reference: Reference, *, whole: bool = True) -> Placed | None:
    """Where weights are on this machine; nothing of them is read.

    Args:
        reference: What is looked for.
        whole: Pass over folders of the cache in which a file is missing.

    Raises:
        NotFoundError: No such name or folder.
    """
    if reference.kind == "file":
        return Placed(_own_folder(reference), {}, None, "folder")
    if reference.kind == "hf":
        return _pinned(reference.target, reference.revision or MAIN, None, whole=whole)
    entry = load_registry().find(reference)
    if reference.revision not in (None, entry.revision):
        return _pinned(_repo(entry, reference), reference.revision or MAIN, entry, whole=whole)
    if folder := in_folder_mirrors(entry):
        return Placed(folder, entry.files, entry, "mirror")
    if entry.repo and not entry.files:
        return _pinned(entry.repo, entry.revision or MAIN, entry, whole=whole)
    for folder in _cached_folders(entry):
        if have_all(folder, entry.files) if whole else folder.is_dir():
            return Placed(folder, entry.files, entry, "cache")
    return None


def _cached_folders(entry: WeightsEntry) -> list[Path]:
    folders = [mirrored_folder(entry)] if entry.files else []
    if entry.repo and entry.revision:
        folders.insert(0, repo_folder(entry.repo).snapshot(entry.revision))
    return folders


def mirrored_folder(entry: WeightsEntry) -> Path:
    """Where files from a mirror by URL are placed: named by the content, so never stale."""
    return kexue_home() / "mirrored" / entry.plugin / entry.name / fingerprint(entry.files)[:16]


def _own_folder(reference: Reference) -> Path:
    folder = Path(reference.target).expanduser()
    if not (folder / "config.json").is_file():
        lacks = "has no config.json" if folder.is_dir() else "is no folder"
        raise NotFoundError(
            f"{folder} {lacks}",
            hint="A folder of weights holds config.json and model.safetensors",
        )
    _check_saved(folder)
    return folder


def _check_saved(folder: Path) -> None:
    """Hold the tensors of a folder of one's own against what was noted when they were saved.

    Raises:
        ChecksumMismatch: They are not the same.
        WeightsFormatError: They cannot be read.
    """
    from kexue_core.folder import WEIGHTS_FILE, WeightsConfig

    try:
        noted = WeightsConfig.read(folder).sha256
    except WeightsFormatError:
        return  # whoever reads the folder says what is wrong with its config
    path = folder / WEIGHTS_FILE
    if noted is None or not path.is_file():
        return
    try:
        found = checked_sha256(path)
    except OSError as error:
        raise WeightsFormatError(f"{path} cannot be read: {error.strerror}") from error
    if found != noted:
        raise ChecksumMismatch(
            f"{path} is not as it was saved: sha256 {found}, config.json says {noted}",
            hint="Copy or save the weights again; after a change of your own, take sha256 out of "
            "config.json",
        )


def _pinned(repo: str, revision: str, entry: WeightsEntry | None, *, whole: bool) -> Placed | None:
    pin = read_pin(repo, revision)
    if pin is None or (whole and pin.partial):
        return None
    folder = repo_folder(repo).snapshot(pin.commit)
    if not (have_all(folder, pin.files) if whole else folder.is_dir()):
        return None
    same = entry is not None and revision in (entry.revision or MAIN,)
    files = _known(pin.files, entry if same else None)
    return Placed(folder, files, entry, "cache")


def _known(pinned: Mapping[str, FileEntry], entry: WeightsEntry | None) -> Mapping[str, FileEntry]:
    # A later kexue may know hashes that the first pull did not: they win over the pin.
    return {**pinned, **(entry.files if entry else {})}


def _repo(entry: WeightsEntry, reference: Reference) -> str:
    """The Hub repository of a name with a revision.

    Raises:
        NotFoundError: It is not published, so it has no revisions.
    """
    if entry.repo is None:
        raise NotFoundError(
            f"{entry.name} is not published, so there is no revision {reference.revision}",
            hint=f"Use {entry.name} without one",
        )
    return entry.repo


def not_here(reference: Reference) -> NotFoundError | OfflineError:
    """The error for weights that are not on this machine, with where they would come from."""
    if reference.kind == "name":
        entry = load_registry().find(reference)
        if entry.repo is None and not url_mirrors(entry):
            looked = ", ".join(m for m in entry.mirrors) or "none named by the registry"
            return NotFoundError(
                f"{entry.name} is not published yet and no mirror here has it (looked in {looked})",
                hint="Set KEXUE_MIRROR to a folder or URL that has it, such as hub/ of the "
                "kexue repository",
            )
    return OfflineError(
        f"{reference} is not on this machine", hint=f"Pull it while online: kexue pull {reference}"
    )
