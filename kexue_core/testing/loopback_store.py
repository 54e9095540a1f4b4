"""Repositories in memory: what a :class:`~kexue_core.testing.loopback_hub.LoopbackHub` serves."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Blob", "Repo", "Store"]

#: Extensions that the Hub keeps as large files whatever their size (git-lfs).
_LARGE = (
    *(".safetensors", ".bin", ".pt", ".ckpt", ".h5", ".npz", ".parquet"),
    ".data-00000-of-00001",
)


class Blob:
    """The content of one file; a ``Path`` is read when it is asked for, not before."""

    def __init__(self, content: bytes | Path, *, large: bool) -> None:
        self.content = content
        self.large = large
        self.size = len(content) if isinstance(content, bytes) else content.stat().st_size
        sha256 = hashlib.sha256()
        sha1 = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        if isinstance(content, bytes):
            sha256.update(content)
            sha1.update(content)
        else:
            with content.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    sha256.update(chunk)
                    sha1.update(chunk)
        self.sha256 = sha256.hexdigest()
        self.git_sha1 = sha1.hexdigest()

    @property
    def etag(self) -> str:
        """Name of the content in the Hub's and the cache's terms."""
        return self.sha256 if self.large else self.git_sha1

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``."""
        if isinstance(self.content, bytes):
            return self.content[start:stop]
        with self.content.open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)

    def listed(self, path: str) -> dict[str, object]:
        """The blob as the Hub's tree lists it."""
        entry: dict[str, object] = {
            "type": "file",
            "path": path,
            "size": self.size,
            "oid": self.git_sha1,
        }
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry

    def sibling(self, path: str) -> dict[str, object]:
        """The blob as the Hub's information on a repository lists it."""
        entry: dict[str, object] = {
            "rfilename": path,
            "size": self.size,
            "blobId": self.git_sha1,
        }
        if self.large:
            entry["lfs"] = {"sha256": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


@dataclass
class Repo:
    """A repository: commits, and the branches and tags that name them.

    Attributes:
        private: Seen with a token only.
        gated: Its files need accepted terms, which nobody has accepted.
    """

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, Blob | None], *, branch: str = "main") -> str:
        """Add a commit on top of a branch; files that it does not name stay, ``None`` goes."""
        merged = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        tree = {path: blob for path, blob in merged.items() if blob is not None}
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(f"{self.name} {self.refs.get(branch)} {len(self.commits)}".encode())
        for path in sorted(tree):
            digest.update(f"{path} {tree[path].git_sha1}\n".encode())
        commit = digest.hexdigest()
        self.commits[commit] = tree
        self.refs[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag or commit."""
        return self.refs.get(revision, revision if revision in self.commits else None)


class Store:
    """All repositories, uploaded objects and tokens of one server.

    Attributes:
        repos: ``owner/name`` -> repository; ``datasets/owner/name`` for one of data.
        objects: sha256 -> content of an uploaded large file.
        tokens: Token -> user. A request with another token is refused with 401.
        mirrors: Path under ``/mirror/`` -> content.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {"hf_loopback": "tester"}
        self.mirrors: dict[str, Blob] = {}
        self.lock = threading.Lock()

    def add(
        self,
        name: str,
        files: Mapping[str, bytes | Path],
        *,
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Commit files to the branch ``main`` of a repository, made where it is missing.

        Returns:
            The commit, 40 hex digits.
        """
        repo = self.repos.setdefault(name, Repo(name))
        repo.private, repo.gated = private, gated
        return repo.commit({path: self.blob(path, data) for path, data in files.items()})

    @staticmethod
    def blob(path: str, content: bytes | Path) -> Blob:
        """Content as the Hub would keep it under this name: large files by their extension."""
        return Blob(content, large=path.endswith(_LARGE))

    def add_mirror(self, name: str, files: Mapping[str, bytes | Path]) -> None:
        """Serve files under ``/mirror/<name>/``."""
        for path, data in files.items():
            self.mirrors[f"{name}/{path}"] = self.blob(path, data)
