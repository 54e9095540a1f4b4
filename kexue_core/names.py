"""The grammar of references, and suggestions for misspelt ones.

A reference names weights in one of three ways::

    [distribution::]name[@revision]      glow-celeba, kexue-flow::glow-celeba, glow-celeba@v1
    hf:owner/repo[@revision]             a repository on the Hugging Face Hub
    file:path                            a folder of weights on this machine

A name is lower-case words of letters and digits joined by single hyphens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kexue_core.errors import InvalidReferenceError

__all__ = ["Reference", "check_name", "did_you_mean", "normalize", "parse_reference"]

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# As git: no `..` and no empty component, which would lead out of the cache's folder of revisions.
_REVISION = re.compile(r"(?!.*(\.\.|//))[A-Za-z0-9][A-Za-z0-9._/-]*")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a user wrote, taken apart.

    Attributes:
        kind: ``name`` (in the registry), ``hf`` (a Hub repository) or ``file`` (a folder).
        target: The name, ``owner/repo``, or the path as written.
        distribution: The qualifier before ``::``, normalised; only for ``name``.
        revision: What follows ``@``; never for ``file``.
    """

    kind: Literal["name", "hf", "file"]
    target: str
    distribution: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        prefix = {"name": "", "hf": "hf:", "file": "file:"}[self.kind]
        qualifier = f"{self.distribution}::" if self.distribution else ""
        return f"{prefix}{qualifier}{self.target}" + (f"@{self.revision}" if self.revision else "")


def parse_reference(text: str) -> Reference:
    """Take a reference apart.

    Raises:
        InvalidReferenceError: ``text`` is no reference. A path is refused with the form that works.
    """
    if text.startswith("file:"):
        if not text[len("file:") :]:
            raise InvalidReferenceError("'file:' names no path", hint="Write file:path/to/folder")
        return Reference("file", text[len("file:") :])
    if text.startswith("hf:"):
        repo, _, revision = text[len("hf:") :].partition("@")
        if not _REPO.fullmatch(repo) or ("@" in text and not _REVISION.fullmatch(revision)):
            raise InvalidReferenceError(
                f"{text!r} is no Hub reference",
                hint="Write hf:owner/repo or hf:owner/repo@revision",
            )
        return Reference("hf", repo, revision=revision or None)
    qualified, _, revision = text.partition("@")
    distribution, separator, name = qualified.rpartition("::")
    if separator:
        distribution = normalize(distribution)
    if "/" in text or "\\" in text or text.startswith("."):
        hint = f"For a folder write file:{text}"
        if _REPO.fullmatch(qualified):
            hint += f", for a Hub repository hf:{text}"
        raise InvalidReferenceError(f"{text!r} looks like a path, not a name", hint=hint)
    if (
        not NAME.fullmatch(name)
        or (separator and not NAME.fullmatch(distribution))
        or ("@" in text and not _REVISION.fullmatch(revision))
    ):
        raise InvalidReferenceError(
            f"{text!r} is no valid name",
            hint="Names are lower-case letters and digits joined by hyphens: glow-celeba, "
            "kexue-flow::glow-celeba, glow-celeba@revision",
        )
    return Reference("name", name, distribution or None, revision or None)


def check_name(name: object) -> str:
    """Return ``name`` if the grammar admits it.

    Raises:
        InvalidReferenceError: It is no string, or not of the form ``[a-z0-9]+(-[a-z0-9]+)*``.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidReferenceError(
            f"{name!r} is no valid name", hint="Use lower-case letters and digits joined by hyphens"
        )
    return name


def normalize(distribution: str) -> str:
    """The canonical form of a distribution's name (PEP 503): ``Kexue_Flow`` -> ``kexue-flow``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A sentence that offers the closest known names, or ``None`` where none is close."""
    import difflib  # only a mistake pays for it

    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else None
