"""What a check is, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from kexue_core.errors import KexueError

__all__ = ["Check", "CheckFailure", "Outcome", "Status", "perform"]

#: ``recorded``: a fact worth knowing that is nobody's fault, such as "cannot be exported".
Status = Literal["passed", "failed", "recorded"]

_S = TypeVar("_S")


class CheckFailure(AssertionError):  # noqa: N818 - a verdict on a plugin
    """A promise that a plugin does not keep.

    Args:
        problem: What was seen, with the figures.
        remedy: What to change, in the plugin's own terms.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}. {remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Check(Generic[_S]):
    """One promise, and how to look whether it is kept.

    Attributes:
        name: A word or two joined by hyphens; part of the test's id.
        run: Raises :class:`CheckFailure`, or returns ``None`` (passed) or a line to record.
        applies: Whether the promise was made at all, from the subject's spec alone.
    """

    name: str
    run: Callable[[_S], str | None]
    applies: Callable[[_S], bool] = lambda subject: True

    @property
    def promise(self) -> str:
        """The first line of the check's docstring."""
        return (self.run.__doc__ or self.name).strip().partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check.

    Attributes:
        subject: ``plugin``, or kind and name of a spec: ``model:glow``.
        check: The check's name.
        status: Passed, failed, or recorded.
        detail: What to change, or what was recorded; empty where it passed.
        seconds: Wall time.
    """

    subject: str
    check: str
    status: Status
    detail: str
    seconds: float


def perform(subject: Any, label: str, check: Check[Any]) -> Outcome:
    """Run one check and contain what it raises: an error of the plugin is a failed check."""
    started = time.perf_counter()
    status: Status = "passed"
    detail = ""
    try:
        recorded = check.run(subject)
        if recorded is not None:
            status, detail = "recorded", recorded
    except KeyboardInterrupt:
        raise
    except CheckFailure as failure:
        status, detail = "failed", str(failure)
    except BaseException as error:  # SystemExit too: the code under test is not ours
        status, detail = "failed", explain(error, check)
    return Outcome(label, check.name, status, detail, time.perf_counter() - started)


def explain(error: BaseException, check: Check[Any]) -> str:
    """One line on an error that the plugin raised itself, with the innermost line of its code."""
    reason = " ".join(str(error).split()) or type(error).__name__
    prefix = "" if isinstance(error, KexueError) else f"{type(error).__name__}: "
    return f"{prefix}{reason} (at {_place(error)}). Mend this, so that: {check.promise}"


def _place(error: BaseException) -> str:
    """The last frame that belongs neither to torch nor to the kit: where the author should look."""
    frames: Sequence[tuple[str, int]] = []
    traceback = error.__traceback__
    while traceback is not None:
        frames = [*frames, (traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)]
        traceback = traceback.tb_next
    theirs = [
        f for f in frames if "/torch/" not in f[0] and "kexue_core/testing/" not in f[0]
    ] or frames
    path, line = theirs[-1] if theirs else ("?", 0)
    return f"{'/'.join(path.split('/')[-2:])}:{line}"
