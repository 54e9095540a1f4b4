"""pip in the environment that kexue runs in, or the exact command where there is none."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from kexue_core.errors import KexueError

__all__ = ["command_line", "run_pip"]


def command_line(arguments: Sequence[str]) -> str:
    """What a person types to do the same, for this very interpreter."""
    verb, *rest = arguments
    if importlib.util.find_spec("pip") is None:
        # Environments made by uv have no pip; its own takes the interpreter and never asks.
        rest = [argument for argument in rest if argument != "--yes"]
        return shlex.join(["uv", "pip", verb, "--python", sys.executable, *rest])
    return shlex.join([sys.executable, "-m", "pip", verb, *rest])


def run_pip(arguments: Sequence[str]) -> None:
    """Run pip, its output on stderr.

    Raises:
        KexueError: There is no pip here (the hint is the command to run), or it failed.
    """
    if importlib.util.find_spec("pip") is None:
        raise KexueError(
            f"There is no pip in the environment of {sys.executable}",
            hint=f"Run `{command_line(arguments)}`",
        )
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        stdout=2,  # stdout is for results
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=False,
    )
    if done.returncode:
        raise KexueError(
            f"pip {arguments[0]} failed with exit code {done.returncode}",
            hint=f"Its message is above. To repeat it: {command_line(arguments)}",
        )
