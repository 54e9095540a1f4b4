"""From trained modules to a folder of weights with its results and model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from kexue_core.cards import build_card
from kexue_core.errors import TrainingError
from kexue_core.plugins import Declared
from kexue_core.specs import ModelSpec
from kexue_core.training.checkpoint import write_tensors
from kexue_core.training.data.sources import sha256_of
from kexue_core.training.recipe import Dataset, Recipe
from kexue_core.training.records import ResultRecord, append_records, device_name, versions
from kexue_core.training.seeding import seed_everything

__all__ = ["measure", "publish"]


def publish(
    recipe: Recipe,
    model: nn.Module,
    declared: Declared,
    *,
    folder: Path,
    name: str,
    validation: Dataset,
    seed: int,
    steps: int,
    command: str,
    device: torch.device,
) -> Path:
    """Write ``folder/weights``, and append to ``folder/results.jsonl`` what it measures.

    The weights are rounded, written, read back and then measured: every figure is one of the file
    that is published. The folder is made beside and renamed when it is complete.

    Raises:
        TrainingError: The weights are not finite.
        OSError: The disk is full.
    """
    spec = declared.spec
    assert isinstance(spec, ModelSpec)
    final, partial = folder / "weights", folder / ".partial-weights"
    shutil.rmtree(partial, ignore_errors=True)
    _save(partial, recipe, model, declared)
    recipe.extra_files(partial)
    tensors = partial / "model.safetensors"
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(load_file(tensors, device=str(device)))
    try:
        model.eval()
        records = measure(
            recipe,
            model,
            validation,
            split="val",
            seed=seed,
            command=command,
            weights=sha256_of(tensors),
            device=device,
            settings={"recipe": name, "steps": steps, "of_steps": recipe.config.steps},
            distributions=(declared.distribution,),
        )
    finally:
        model.load_state_dict(kept)
    card = build_card(
        recipe.card,
        name=name,
        spec=spec,
        distribution=declared.distribution,
        config=asdict(recipe.config),
        seed=seed,
        steps=steps,
        command=command,
        records=records,
    )
    (partial / "README.md").write_text(card, encoding="utf-8")
    append_records(folder / "results.jsonl", records)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    return final


def measure(
    recipe: Recipe,
    model: nn.Module,
    data: Dataset,
    *,
    split: str,
    seed: int,
    command: str,
    weights: str,
    device: torch.device,
    settings: Mapping[str, Any],
    distributions: tuple[str, ...],
    limit: int | None = None,
) -> list[ResultRecord]:
    """Evaluate and return one record a metric."""
    seed_everything(0)
    with torch.no_grad():
        values = recipe.evaluate(model, data, limit=limit)
    return [
        ResultRecord(
            metric=metric,
            value=float(value),
            dataset=data.name,
            split=split,
            n=len(data) if limit is None else min(limit, len(data)),
            seed=seed,
            command=command,
            weights=weights,
            versions=versions(*distributions),
            device=device_name(device),
            settings={**settings, "data": data.fingerprint},
        )
        for metric, value in values.items()
    ]


def _save(folder: Path, recipe: Recipe, model: nn.Module, declared: Declared) -> None:
    spec = declared.spec
    assert isinstance(spec, ModelSpec)
    folder.mkdir(parents=True)
    rounded = {}
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise TrainingError(f"{key} holds NaN or infinite values", hint="Nothing was published")
        if value.dtype == torch.float32 and not any(fnmatchcase(key, g) for g in spec.float32):
            half = value.half()
            rounded[key] = half if torch.isfinite(half).all() else value
        else:
            rounded[key] = value
    write_tensors(folder / "model.safetensors", rounded)
    sampler = recipe.sampler()
    config = {
        "format": 1,
        "model": spec.name,
        "plugin": declared.distribution,
        "config": asdict(model.config),  # type: ignore[call-overload]
        "preprocess": dict(recipe.preprocess()),
        "sampler": {"name": sampler[0], "options": dict(sampler[1])} if sampler else None,
        "requires": [],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
