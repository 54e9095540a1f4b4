"""What can go wrong in a plugin's code, said in one line, and what must not be contained.

An exception of a plugin is as foreign as the rest of it: its ``__str__`` may raise too. And a
``KeyboardInterrupt`` is the user's only where a SIGINT arrived; one that a plugin raises by itself
is an accident like any other, or it would end every command.
"""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import dataclass
from types import FrameType

__all__ = [
    "SLOW_IMPORT",
    "NamedWhileSlow",
    "Problem",
    "UserInterrupts",
    "diagnose",
    "one_line",
    "out_of_memory",
]

#: Seconds after which a plugin that is still importing is named on stderr.
SLOW_IMPORT = 2.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a plugin: one line each of cause and remedy.

    Attributes:
        cause: What is wrong.
        fix: What to do about it.
        fatal: Whether nothing of the plugin is used.
    """

    cause: str
    fix: str
    fatal: bool = True


def one_line(error: BaseException) -> str:
    """``Kind: message`` of any exception, even of one whose message cannot be read."""
    kind = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except BaseException as second:  # whatever it is, the first error is the one to tell of
        text = f"(its message cannot be read: {type(second).__name__})"
    return f"{kind}: {text}" if text else kind


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: Python's, a GPU's, or that of torch's CPU allocator, whose
    ``RuntimeError`` has no class of its own.
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in one_line(error)
    )


def diagnose(error: BaseException, module: str, distribution: str) -> Problem:
    """Say what went wrong in one line, and what to do about it. Never raises."""
    try:
        if isinstance(error, ModuleNotFoundError) and isinstance(error.name, str):
            return _missing(error.name, module, distribution)
        cause = one_line(error)
    except BaseException:  # an exception can be hostile in more ways than by its message
        cause = "raises an exception that cannot be described"
    return Problem(
        cause,
        f"Update it: pip install --upgrade {distribution}. "
        f"Traceback: KEXUE_PLUGINS={distribution} KEXUE_STRICT_PLUGINS=1 kexue list --debug",
    )


def _missing(name: str, module: str, distribution: str) -> Problem:
    """A module that does not exist: the plugin's own, or one that it imports."""
    if module == name or module.startswith(f"{name}."):
        return Problem(
            f"its entry point names the module {module}, which does not exist",
            f"Reinstall it: pip install --force-reinstall {distribution}",
        )
    return Problem(
        f"cannot import {name}",
        f"Run `pip install {name}`, or remove it: pip uninstall {distribution}",
    )


class NamedWhileSlow:
    """Name a plugin on stderr while loading it takes longer than :data:`SLOW_IMPORT`."""

    def __init__(self, name: str) -> None:
        self.timer = threading.Timer(SLOW_IMPORT, self._say, [name])
        self.timer.daemon = True

    @staticmethod
    def _say(name: str) -> None:
        print(f"kexue: {name} is still loading after {SLOW_IMPORT:.0f} s", file=sys.stderr)

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *exc: object) -> None:
        self.timer.cancel()


class UserInterrupts:
    """Let through the user's Ctrl-C alone, and not a ``KeyboardInterrupt`` that a plugin raises.

    The block inside of ``with`` contains every exception. Where the handler of SIGINT was called
    and raised ``KeyboardInterrupt``, that is raised again at the block's end, whatever has become
    of it: a plugin may have swallowed it. Outside of the main thread no interrupt is the user's.

    Raises:
        KeyboardInterrupt: At the end of the block, where the user interrupted it.
    """

    def __init__(self) -> None:
        self.came = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        assert callable(self._former)
        try:
            self._former(number, frame)
        except KeyboardInterrupt:
            self.came = True
            raise

    def __enter__(self) -> None:
        self._former = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        self._installed = main and callable(self._former)
        if self._installed:
            signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *exc: object) -> None:
        # A plugin that set a handler of its own keeps it.
        if self._installed and signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, self._former)
        if self.came:
            raise KeyboardInterrupt
