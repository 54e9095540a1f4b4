"""The folder of a run, and whether a run found there is the one that is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kexue_core.accidents import out_of_memory
from kexue_core.errors import ConfigError, KexueError, TrainingError
from kexue_core.training.recipe import Dataset, Recipe, RecipeConfig

__all__ = ["describe", "open_run", "settings_named", "write_json"]

#: What may change between a run and its continuation: it does not touch the weights.
_FREE = frozenset({"evaluate_every", "preview_every", "checkpoint_every"})


def describe(
    recipe: Recipe, name: str, train: Dataset, *, seed: int, source: str | None
) -> dict[str, Any]:
    """What makes a run this run, as run.json keeps it."""
    return {
        "format": 1,
        "recipe": name,
        "config": json.loads(json.dumps(asdict(recipe.config))),
        "seed": seed,
        "data": {
            "name": train.name,
            "source": source,
            "samples": len(train),
            "fingerprint": train.fingerprint,
        },
    }


@contextmanager
def settings_named(recipe: Recipe, name: str) -> Iterator[None]:
    """Blame what cannot be built on the settings that differ from the recipe's, if any do."""
    try:
        yield
    except (KexueError, OSError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        default = type(recipe.config)()
        changed = [
            f"{each}={value}"
            for each, value in asdict(recipe.config).items()
            if value != getattr(default, each) and each not in RecipeConfig.__dataclass_fields__
        ]
        if not changed:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{name} cannot be built with {', '.join(changed)}: {reason}",
            hint="Correct these settings; --debug shows the traceback",
        ) from error


def open_run(folder: Path, wanted: Mapping[str, Any], *, resume: bool | None) -> None:
    """Make a run's folder, or check that the one found there can go on.

    Args:
        folder: The run's folder.
        wanted: What :func:`describe` says of the run that is asked for.
        resume: ``True`` demands a run to go on with, ``False`` moves one that is there aside,
            ``None`` goes on where there is one.

    Raises:
        TrainingError: There is none to resume, or it is another run; names what differs.
    """
    file = folder / "run.json"
    if resume is False and folder.exists():
        _move_aside(folder)
    if not file.is_file():
        if resume:
            raise TrainingError(
                f"{folder} holds no run to resume", hint="Leave --resume away to start one"
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TrainingError(
                f"{folder} exists and is no run", hint="Name an empty or new folder with --out"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, wanted)
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        differing = _differences(found, wanted)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{file} cannot be read: {error}", hint="Start anew with --fresh"
        ) from error
    if differing and not _saved(folder):
        write_json(file, wanted)  # it failed before it had anything to lose
    elif differing:
        raise TrainingError(
            f"{folder} holds another run: {'; '.join(differing)}",
            hint="Give the same settings to go on with it, start anew with --fresh "
            "(it is kept beside), or name another folder with --out",
        )


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either the old or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    pairs = [(key, found[key], wanted[key]) for key in ("recipe", "seed")]
    old, new = found["config"], wanted["config"]
    pairs += [(key, old.get(key), new.get(key)) for key in sorted({*old, *new} - _FREE)]
    differing = [f"{key} was {a!r} and is {b!r}" for key, a, b in pairs if a != b]
    a, b = found["data"], wanted["data"]
    if a["fingerprint"] != b["fingerprint"]:
        differing.append(
            f"the data was {a['name']}, {a['samples']:,} samples, {a['fingerprint'][:12]}, "
            f"and is {b['name']}, {b['samples']:,} samples, {b['fingerprint'][:12]}"
        )
    return differing


def _saved(folder: Path) -> bool:
    """Whether anything of a run was saved: a checkpoint, or weights."""
    checkpoints = folder / "checkpoints"
    return (folder / "weights").exists() or (checkpoints.is_dir() and any(checkpoints.iterdir()))


def _move_aside(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not (folder / "run.json").is_file():
        raise TrainingError(
            f"{folder} exists and is no run", hint="Name an empty or new folder with --out"
        )
    number = 1
    while (old := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(old)
