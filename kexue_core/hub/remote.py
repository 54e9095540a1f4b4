"""What the Hub says of a repository: commits, files, and where their bytes are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kexue_core.errors import ChecksumMismatch, NetworkError, VerificationError
from kexue_core.hub.files import safe_name
from kexue_core.hub.layout import COMMIT
from kexue_core.hub.network import check_online, endpoint, same_origin, with_retries
from kexue_core.hub.transfer import Expected, Run, Source

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

__all__ = ["MOST_FILES", "RemoteFile", "RemoteRevision", "file_source", "list_revision"]

#: Files of a repository beyond which a pull asks to be told which ones are meant.
MOST_FILES = 1000

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RemoteRevision:
    """A revision as the Hub lists it: its commit, and what each file should be."""

    commit: str
    files: Mapping[str, Expected]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as the Hub answers for it.

    Attributes:
        key: Name of its bytes in the cache: sha256 or git sha-1, which is also its etag.
        expected: What is known of it, from the registry, the listing and this answer.
        source: Where its bytes are.
    """

    key: str
    expected: Expected
    source: Source


def list_revision(repo: str, revision: str, run: Run) -> RemoteRevision:
    """Ask for the commit of a revision and for all its files.

    Raises:
        NotFoundError, AccessError, NetworkError, OfflineError: No answer, or a refusal.
        VerificationError: It lists a name that leads out of the folder, or no real commit.
    """
    check_online(f"hf:{repo}")
    from huggingface_hub import HfApi

    what = f"hf:{repo}@{revision}"

    def ask() -> RemoteRevision:
        info = HfApi(endpoint=endpoint()).model_info(
            repo, revision=revision, files_metadata=True, timeout=run.patience.stall_timeout
        )
        files = {}
        for each in info.siblings or []:
            name = safe_name(each.rfilename, source=what)
            if each.lfs is not None:
                files[name] = Expected(each.lfs.size, sha256=each.lfs.sha256)
            else:
                files[name] = Expected(each.size, git_sha1=each.blob_id)
        return RemoteRevision(str(info.sha), files)

    found = with_retries(ask, what, run.patience, run.stop)
    if not COMMIT.fullmatch(found.commit) or (
        COMMIT.fullmatch(revision) and revision != found.commit
    ):
        raise VerificationError(
            f"{what}: the answer is of the commit {found.commit!r}",
            hint="Check HF_ENDPOINT: this is not the Hub's answer",
        )
    for name, expected in found.files.items():
        if not _declared(expected):
            raise VerificationError(
                f"{what}: no hash is declared for {name}", hint="Check HF_ENDPOINT"
            )
    return found


def _declared(expected: Expected) -> bool:
    if expected.sha256 is not None:
        return bool(_SHA256.fullmatch(expected.sha256))
    return expected.git_sha1 is not None and bool(_SHA1.fullmatch(expected.git_sha1))


def file_source(repo: str, commit: str, file: str, known: Expected, run: Run) -> RemoteFile:
    """Ask where a file is; hold the answer against what is known of the file.

    Args:
        repo: ``owner/name``.
        commit: 40-hex revision.
        file: Name in the repository.
        known: What the registry or the listing says of it.
        run: Patience, and who to tell.

    Raises:
        ChecksumMismatch: The Hub declares another sha256 than the registry.
        NotFoundError, AccessError, NetworkError, OfflineError: No answer, or a refusal.
        VerificationError: The answer is of another commit.
    """
    check_online(f"hf:{repo}")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # public, not listed

    what = f"{file} of hf:{repo}@{commit[:12]}"
    url = hf_hub_url(repo, file, revision=commit, endpoint=endpoint())

    def ask() -> HfFileMetadata:
        return get_hf_file_metadata(url, endpoint=endpoint(), timeout=run.patience.stall_timeout)

    found = with_retries(ask, what, run.patience, run.stop)
    if found.commit_hash != commit:
        raise VerificationError(
            f"{what}: the answer is of the commit {found.commit_hash!r}",
            hint="Check HF_ENDPOINT: this is not the Hub's answer",
        )
    etag = found.etag or ""
    if known.sha256 and _SHA256.fullmatch(etag) and etag != known.sha256:
        raise ChecksumMismatch(
            f"{what}: the Hub declares sha256 {etag}, expected is {known.sha256}",
            hint="Do not use it; tell whoever publishes it",
        )
    if known.git_sha1 and _SHA1.fullmatch(etag) and etag != known.git_sha1:
        raise ChecksumMismatch(
            f"{what}: the Hub declares git sha-1 {etag}, and {known.git_sha1} in its listing",
            hint="Try again later; if it stays so, tell whoever publishes it",
        )
    headers = build_hf_headers(library_name="kexue")
    if not same_origin(url, found.location):
        headers.pop("authorization", None)  # a token is for the Hub, not for its storage
    key = etag if _SHA256.fullmatch(etag) or _SHA1.fullmatch(etag) else _key(known)
    if key is None:
        raise NetworkError(f"{what}: the Hub declares no hash", hint="Check HF_ENDPOINT")
    expected = Expected(
        size=known.size if known.size is not None else found.size,
        sha256=known.sha256 or (etag if _SHA256.fullmatch(etag) else None),
        git_sha1=known.git_sha1 or (etag if _SHA1.fullmatch(etag) else None),
    )

    def renew() -> Source:
        return file_source(repo, commit, file, known, run).source

    return RemoteFile(key, expected, Source(what, found.location, headers, renew))


def _key(known: Expected) -> str | None:
    return known.sha256 or known.git_sha1
