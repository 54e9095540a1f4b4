"""What a pull will do: which weights, from where, how many bytes, under which licence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from kexue_core.errors import ChecksumMismatch, NotFoundError, VerificationError
from kexue_core.hub.mirrors import in_folder_mirrors, url_mirrors
from kexue_core.hub.pins import Pin, read_pin
from kexue_core.hub.remote import MOST_FILES, list_revision
from kexue_core.hub.sources import MAIN, find_here, not_here
from kexue_core.hub.transfer import Expected, Run
from kexue_core.names import Reference, parse_reference
from kexue_core.registry import WeightsEntry, load_registry

__all__ = ["Plan", "follow", "plan"]

# What PyTorch cannot use: weights of other frameworks lie beside its own in many repositories.
_FOREIGN = (
    *("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.tflite", "*.ot", "*.mlmodel", "*.gguf"),
    *("onnx/*", "openvino/*", "coreml/*", "*.mlpackage/*", ".gitattributes", ".gitignore"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one reference is pulled.

    Attributes:
        reference: What was asked for, or what that requires.
        entry: Its registry entry, ``None`` for ``hf:``.
        origin: ``here`` (nothing to do), or ``remote``.
        repo: Hub repository, ``None`` where only mirrors have it.
        revision: Branch, tag or commit that was asked for.
        commit: What that is; ``None`` where only mirrors have it.
        urls: Folders of these weights on mirrors by URL, to be tried before the Hub.
        files: What each file must be.
        license: As the registry says; ``None`` where unknown.
        unpinned: The files are pinned once they are here.
        partial: They are only some of the repository's (``--include``).
    """

    reference: Reference
    entry: WeightsEntry | None
    origin: Literal["here", "remote"]
    repo: str | None = None
    revision: str | None = None
    commit: str | None = None
    urls: tuple[str, ...] = ()
    files: Mapping[str, Expected] = field(default_factory=dict)
    license: str | None = None
    unpinned: bool = False
    partial: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(expected.size or 0 for expected in self.files.values())


def follow(references: Iterable[Reference], *, parts: bool = True) -> list[Reference]:
    """Add what the weights require and, with ``parts``, what belongs to them, after what needs it.

    Each comes once.

    Raises:
        NotFoundError: A name that no registry knows; its hint says who requires it.
    """
    found: dict[str, Reference] = {}
    queue = [(reference, "") for reference in references]
    while queue:
        reference, because = queue.pop(0)
        if reference.kind != "name":
            found.setdefault(str(reference), reference)
            continue
        try:
            entry = load_registry().find(reference)
        except NotFoundError as error:
            raise NotFoundError(error.message + because, hint=error.hint) from None
        if f"{entry.qualified}@{reference.revision}" in found:
            continue
        found[f"{entry.qualified}@{reference.revision}"] = reference
        queue += [
            (parse_reference(name), f", which {entry.name} requires")
            for name in (*entry.requires, *(entry.parts if parts else ()))
        ]
    return list(found.values())


def plan(reference: Reference, run: Run, *, include: tuple[str, ...] = ()) -> Plan:
    """Decide how a reference is pulled; asks the Hub only where hashes are not known.

    Args:
        reference: A name or ``hf:owner/repo[@revision]``.
        run: Patience, and who to tell.
        include: Globs over file names of an ``hf:`` repository; all that PyTorch may use if empty.

    Raises:
        NotFoundError: No such name, or served by nobody.
        ChecksumMismatch: A revision is not what it was at the first pull.
        NetworkError, AccessError, OfflineError: The Hub does not answer, or refuses.
        VerificationError: It lists a file name that leads out of the folder.
    """
    try:
        here = find_here(reference)
    except ChecksumMismatch:
        # A bad file in the cache is fetched again. A mirror is someone else's to mend.
        if reference.kind == "name" and in_folder_mirrors(load_registry().find(reference)):
            raise
        here = None
    entry = load_registry().find(reference) if reference.kind == "name" else None
    license_ = entry.license if entry else None
    if here is not None and not include:
        files = {n: Expected(f.size, f.sha256) for n, f in entry.files.items()} if entry else {}
        return Plan(reference, entry, "here", files=files, license=license_)
    if entry is None or reference.revision not in (None, entry.revision) or not entry.files:
        repo = entry.repo if entry else reference.target
        if repo is None:
            raise not_here(reference)
        revision = reference.revision or (entry.revision if entry else None) or MAIN
        return _listed(reference, run, entry=entry, repo=repo, revision=revision, include=include)
    urls = tuple(f"{mirror}/{entry.name}" for mirror in url_mirrors(entry))
    commit = entry.revision if entry.repo else None
    if commit is None and not urls:
        raise not_here(reference)
    return Plan(
        reference,
        entry,
        "remote",
        repo=entry.repo,
        revision=commit,
        commit=commit,
        urls=urls,
        files={n: Expected(f.size, f.sha256) for n, f in entry.files.items()},
        license=license_,
    )


def _listed(
    reference: Reference,
    run: Run,
    *,
    entry: WeightsEntry | None,
    repo: str,
    revision: str,
    include: tuple[str, ...],
) -> Plan:
    """A plan for files that only the Hub knows, held against their pin."""
    listed = list_revision(repo, revision, run)
    wanted = {n: e for n, e in listed.files.items() if _wanted(n, include)}
    if len(wanted) > MOST_FILES:
        raise VerificationError(
            f"hf:{repo} lists {len(wanted)} files, which is no folder of weights",
            hint="Name the ones you mean: --include 'GLOB'",
        )
    if not wanted:
        raise NotFoundError(f"hf:{repo}@{revision} has no such files", hint="Check --include")
    pin = read_pin(repo, revision)
    if pin is not None:
        wanted = {n: _held(repo, revision, n, e, pin) for n, e in wanted.items()}
    return Plan(
        reference,
        entry,
        "remote",
        repo=repo,
        revision=revision,
        commit=listed.commit,
        files=wanted,
        license=entry.license if entry else None,
        unpinned=True,
        partial=bool(include),
    )


def _wanted(name: str, include: tuple[str, ...]) -> bool:
    if include:
        return any(fnmatchcase(name, glob) for glob in include)
    return not any(fnmatchcase(name, glob) for glob in _FOREIGN)


def _held(repo: str, revision: str, name: str, now: Expected, pin: Pin) -> Expected:
    """What a pinned file must be.

    Raises:
        ChecksumMismatch: The Hub declares something else now.
    """
    before = pin.files.get(name)
    if before is None:
        return now
    if now.sha256 is not None and now.sha256 != before.sha256:
        raise pin_error(repo, revision, name, before.sha256, f"sha256 {now.sha256}")
    if now.size is not None and now.size != before.size:
        raise pin_error(repo, revision, name, before.sha256, f"git sha-1 {now.git_sha1}")
    return Expected(before.size, before.sha256, now.git_sha1)


def pin_error(repo: str, revision: str, name: str, before: str, now: str) -> ChecksumMismatch:
    """The error for a file that is not what it was at the first pull; ``now`` names its hash."""
    return ChecksumMismatch(
        f"{name} of hf:{repo}@{revision} has changed: its sha256 was {before} at the first pull "
        f"and it is {now} now",
        hint=pin_hint(repo, revision),
    )


def pin_hint(repo: str, revision: str) -> str:
    """How to accept that a pinned revision has changed."""
    return f"If it is meant to change, run `kexue rm hf:{repo}@{revision}` and pull again"
