"""The standard Hugging Face cache layout, read without huggingface_hub.

::

    models--owner--name/
        blobs/<sha256 of a large file | git sha-1 of a small one>
        refs/<branch or tag>            the commit it meant at the last pull
        snapshots/<commit>/<file>       a link to its blob
    .locks/models--owner--name/<blob>.lock
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kexue_core.hub.home import hf_cache

__all__ = ["COMMIT", "RepoFolder", "repo_folder"]

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RepoFolder:
    """Paths of one model repository in the cache; nothing need exist."""

    cache: Path
    repo: str

    @property
    def name(self) -> str:
        """Folder name, ``models--owner--name``."""
        return "--".join(("models", *self.repo.split("/")))

    @property
    def path(self) -> Path:
        """The repository's folder."""
        return self.cache / self.name

    @property
    def blobs(self) -> Path:
        """Folder of the files' contents."""
        return self.path / "blobs"

    @property
    def locks(self) -> Path:
        """Folder of the locks that huggingface_hub takes too."""
        return self.cache / ".locks" / self.name

    def snapshot(self, commit: str) -> Path:
        """Folder of one commit's files."""
        return self.path / "snapshots" / commit

    def ref(self, revision: str) -> Path:
        """File that holds the commit of a branch or tag."""
        return self.path / "refs" / revision

    def commit(self, revision: str) -> str | None:
        """The commit that ``revision`` meant at the last pull, or ``None``."""
        if COMMIT.fullmatch(revision):
            return revision
        try:
            found = self.ref(revision).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return found if COMMIT.fullmatch(found) else None


def repo_folder(repo: str) -> RepoFolder:
    """The folder of ``owner/name`` in the user's cache."""
    return RepoFolder(hf_cache(), repo)
