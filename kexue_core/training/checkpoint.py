"""Checkpoints without pickle: every tensor in safetensors, the rest in JSON.

A checkpoint is a folder ``step-00001000`` with ``tensors.safetensors`` and ``state.json``. It is
written under another name, flushed to the disk and renamed: a folder with the right name is whole,
whenever the process was killed. The one before is deleted only after that, so a disk that runs
full costs nothing but the time since.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kexue_core.errors import TrainingError
from kexue_core.training.data.sources import sha256_of

__all__ = ["Checkpoints", "flatten", "unflatten", "write_tensors"]

_STEP = re.compile(r"step-(\d{8,})")
_TENSORS, _STATE = "tensors.safetensors", "state.json"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they lie; made when the first is saved.
        keep: How many to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps that were saved, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_STEP.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint after ``step`` steps."""
        return self.folder / f"step-{step:08d}"

    def save(
        self,
        step: int,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> Path:
        """Save the state after ``step`` steps; afterwards delete all but the last few.

        Raises:
            TrainingError: The disk is full or refuses. Earlier checkpoints are as they were.
        """
        tensors: dict[str, Tensor] = {}
        for name, module in modules.items():
            for key, value in module.state_dict().items():
                tensors[f"module.{name}.{key}"] = value
        trees = {
            name: flatten(optimizer.state_dict(), f"optimizer.{name}", tensors)
            for name, optimizer in optimizers.items()
        }
        final = self.path(step)
        partial = self.folder / f".partial-{final.name}"
        try:
            self.clean()
            partial.mkdir(parents=True)
            write_tensors(partial / _TENSORS, tensors)
            state = {
                "format": 1,
                "step": step,
                "optimizers": trees,
                "sha256": sha256_of(partial / _TENSORS),
            }
            with (partial / _STATE).open("w", encoding="utf-8") as file:
                json.dump({**state, "own_sha256": _digest(state)}, file)
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(partial)
            if final.exists():  # a run that went back to an earlier checkpoint comes by again
                shutil.rmtree(final)
            partial.rename(final)
            _sync_folder(self.folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            last = self.steps()
            raise TrainingError(
                f"The checkpoint of step {step:,} could not be written to {self.folder}: "
                f"{error.strerror or error}",
                hint=(f"That of step {last[-1]:,} is whole. " if last else "")
                + "Make room and run the same command again",
            ) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)
        return final

    def restore(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> int:
        """Load the newest checkpoint that is whole, and return its step; 0 where there is none.

        Raises:
            TrainingError: None of them can be read, or they do not fit the modules.
        """
        problems: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                state = json.loads((path / _STATE).read_text(encoding="utf-8"))
                if state.pop("own_sha256") != _digest(state):
                    raise ValueError(f"{path / _STATE} does not match its sha256")
                if sha256_of(path / _TENSORS) != state["sha256"]:
                    raise ValueError(f"{path / _TENSORS} does not match its sha256")
                tensors = load_file(path / _TENSORS)  # load_state_dict moves them
            except (OSError, ValueError, safetensors.SafetensorError) as error:
                problems.append(f"{path}: {error}")
                continue
            except (KeyError, TypeError, AttributeError):
                problems.append(f"{path / _STATE} is no state of a run")
                continue
            try:
                for name, module in modules.items():
                    prefix = f"module.{name}."
                    module.load_state_dict(
                        {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                    )
                for name, optimizer in optimizers.items():
                    optimizer.load_state_dict(unflatten(state["optimizers"][name], tensors))
            except (RuntimeError, ValueError, KeyError) as error:
                raise TrainingError(
                    f"{path} does not fit the recipe as it is now: {_first_line(error)}",
                    hint="Start anew with --fresh, or name another folder with --out",
                ) from error
            return step
        if problems:
            raise TrainingError(
                f"No checkpoint can be read: {problems[0]}",
                hint="Start anew with --fresh, or name another folder with --out",
            )
        return 0

    def clean(self) -> None:
        """Remove what a killed process left half written."""
        if self.folder.is_dir():
            for path in self.folder.glob(".partial-*"):
                shutil.rmtree(path, ignore_errors=True)


def _digest(state: Mapping[str, Any]) -> str:
    """sha256 of a state; floats are written so that they read back bit for bit."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file and flush it to the disk.

    Raises:
        OSError: The disk is full or refuses. safetensors reports it as an error of its own, with
            the number of the system's error in the text.
    """
    seen: set[int] = set()
    owned: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        # Tied weights share their storage, which the format does not know: each gets a copy.
        value = tensor.detach().contiguous()
        owned[key] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    try:
        save_file(owned, path)
    except safetensors.SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flatten(tree: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a state dict into JSON, moving its tensors to ``tensors`` under ``prefix``.

    Dictionaries become lists of pairs, since the keys of an optimiser's state are numbers and JSON
    would make them strings. Python writes floats so that they read back bit for bit.
    """
    if isinstance(tree, Tensor):
        tensors[prefix] = tree
        return {"tensor": prefix}
    if isinstance(tree, Mapping):
        return {"dict": [[k, flatten(v, f"{prefix}.{k}", tensors)] for k, v in tree.items()]}
    if isinstance(tree, (list, tuple)):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [flatten(v, f"{prefix}.{i}", tensors) for i, v in enumerate(tree)]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TrainingError(
        f"The state {prefix} holds a {type(tree).__name__}, which a checkpoint cannot keep",
        hint="Keep tensors, numbers, strings, lists and dictionaries in an optimiser's state",
    )


def unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`flatten`."""
    if not isinstance(tree, dict):
        return tree
    [(kind, value)] = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {k: unflatten(v, tensors) for k, v in value}
    items = [unflatten(v, tensors) for v in value]
    return tuple(items) if kind == "tuple" else items


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
