"""``kexue push DIR REPO``: publish a folder of weights on the Hub, and check what arrived."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kexue_core.errors import KexueError, NetworkError, NotFoundError, VerificationError
from kexue_core.folder import CARD_FILE
from kexue_core.hub.mirroring import check_loads, push_to_mirror
from kexue_core.hub.mirrors import in_folder_mirrors
from kexue_core.hub.network import Patience, check_online, classify, endpoint
from kexue_core.hub.receipts import git_sha1
from kexue_core.hub.registry_file import read_entry, write_entry
from kexue_core.hub.remote import list_revision
from kexue_core.hub.stanza import Described, describe
from kexue_core.hub.transfer import Run
from kexue_core.names import check_name
from kexue_core.registry import CORE_REGISTRY, read_registry

__all__ = ["Pushed", "push", "push_all"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push to the Hub did, or with ``dry_run`` would do.

    Attributes:
        name: The weights.
        repo: ``owner/name`` on the Hub.
        tag: The tag on the commit.
        entry: The registry's entry; with ``revision`` once it is published.
    """

    name: str
    repo: str
    tag: str
    entry: Mapping[str, Any]


def push(
    folder: Path,
    repo: str,
    *,
    name: str | None = None,
    registry: Path = CORE_REGISTRY,
    write: bool = False,
    tag: str | None = None,
    private: bool = False,
    given: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Check a folder of weights, upload it, tag the commit and describe it for the registry.

    The repository is made where it is missing and then holds exactly these files. What the Hub
    lists afterwards is compared with what was sent.

    Args:
        folder: ``config.json``, ``model.safetensors``, ``README.md`` and what belongs to them.
        repo: ``owner/name`` on the Hub.
        name: Name of the weights; the repository's where ``None``.
        registry: The registry.yaml with the entry so far.
        write: Write the new entry into it.
        tag: Tag for the commit; named by the content where ``None``.
        private: Make a new repository private.
        given: Fields of the entry that win over everything found.
        dry_run: Check and describe, send nothing.

    Raises:
        WeightsFormatError: The folder or its card lacks something, or does not fit the model.
        PluginError: The plugin that declares the model is not installed.
        AccessError: Not logged in, or not allowed to write there.
        NetworkError: The Hub cannot be reached.
        VerificationError: The Hub lists other bytes than were sent.
    """
    folder = folder.resolve()
    name = check_name(name or repo.rpartition("/")[2].lower().replace("_", "-").replace(".", "-"))
    earlier = read_entry(registry, name)
    described = describe(folder, name, earlier=earlier, given=given or {})
    check_loads(folder)
    files = described.entry["files"]
    tag = tag or f"kexue-{files['model.safetensors']['sha256'][:12]}"
    if dry_run:
        entry = _published(described, repo, None)
        return Pushed(name, repo, tag, entry)
    check_online(f"hf:{repo}")
    commit = _asked(f"hf:{repo}", lambda: _upload(folder, repo, described, tag, private))
    if (wrong := _difference(folder, repo, commit, described)) is not None:
        raise VerificationError(
            f"{wrong} arrived at hf:{repo}@{commit[:12]} as something else than was sent",
            hint="Push again; the registry was not changed",
        )
    entry = _published(described, repo, commit)
    if write:
        write_entry(registry, name, entry)
    return Pushed(name, repo, tag, entry)


def push_all(
    owner: str,
    *,
    registry: Path = CORE_REGISTRY,
    private: bool = False,
    dry_run: bool = False,
) -> Iterator[Pushed]:
    """Publish every weight that a folder mirror of the registry holds, as ``owner/name``.

    The card in the mirror is brought up to date first, so that the mirror stays what the Hub has.
    The entries are written into the registry, one after each upload.

    Raises:
        NotFoundError: No mirror holds any weights.
        KexueError: As :func:`push`; what was published before is in the registry.
    """
    weights, _, _ = read_registry(registry)
    found = [(e, folder) for e in weights if (folder := in_folder_mirrors(e)) is not None]
    if not found:
        raise NotFoundError(
            f"No mirror of {registry} holds any weights",
            hint="Fill one: kexue push DIR --mirror FOLDER",
        )
    for entry, folder in found:
        push_to_mirror(folder, folder.parent, name=entry.name, registry=registry, dry_run=dry_run)
        yield push(
            folder,
            f"{owner}/{entry.name}",
            name=entry.name,
            registry=registry,
            write=True,
            private=private,
            dry_run=dry_run,
        )


def _published(described: Described, repo: str, commit: str | None) -> dict[str, Any]:
    """The entry of weights that are on the Hub, in the order of the described one."""
    where = {"repo": repo, "revision": commit, "status": "published"}
    entry: dict[str, Any] = {}
    for key, value in described.entry.items():
        if key in ("repo", "revision"):
            continue
        if key == "status":
            entry |= {k: v for k, v in where.items() if v is not None}
        else:
            entry[key] = value
    return entry


def _upload(folder: Path, repo: str, described: Described, tag: str, private: bool) -> str:
    """Create, commit and tag; returns the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(endpoint=endpoint(), library_name="kexue")
    api.create_repo(repo, exist_ok=True, private=private or None)
    names = list(described.entry["files"])
    info = api.model_info(repo)
    there = {s.rfilename for s in info.siblings or []}
    complete = there <= {*names, ".gitattributes"}
    if info.sha and complete and _difference(folder, repo, info.sha, described) is None:
        api.create_tag(repo, tag=tag, revision=info.sha, exist_ok=True)
        return info.sha  # pushed before: nothing is to be said again
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(n, described.card if n == CARD_FILE else folder / n) for n in names
    ]
    operations += [
        CommitOperationDelete(n) for n in sorted(there - set(names) - {".gitattributes"})
    ]
    done = api.create_commit(
        repo, operations, commit_message="Publish weights with kexue", revision="main"
    )
    api.create_tag(repo, tag=tag, revision=done.oid, exist_ok=True)
    return str(done.oid)


def _difference(folder: Path, repo: str, commit: str, described: Described) -> str | None:
    """The first file that the Hub lists otherwise than it was described, or ``None``."""
    listed = list_revision(repo, commit, Run(Patience.from_environment())).files
    for name, sent in described.entry["files"].items():
        found = listed.get(name)
        if found is None or found.size != sent["size"]:
            return str(name)
        if found.sha256 is not None:
            if found.sha256 != sent["sha256"]:
                return str(name)
            continue
        if name == CARD_FILE:  # which may differ from the folder's own
            head = b"blob %d\0" % len(described.card)
            sha1 = hashlib.sha1(head + described.card, usedforsecurity=False).hexdigest()
        else:
            sha1 = git_sha1(folder / name)
        if found.git_sha1 != sha1:
            return str(name)
    return None


def _asked(what: str, ask: Callable[[], T]) -> T:
    """Run a question that changes something: huggingface_hub retries what may be repeated."""
    try:
        return ask()
    except KexueError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        assert isinstance(cause, Exception)
        reason = classify(cause, what, parsing=True)
        if isinstance(reason, KexueError):
            raise reason from error
        raise NetworkError(
            str(reason), hint="Push again: what has arrived is not sent twice"
        ) from error
