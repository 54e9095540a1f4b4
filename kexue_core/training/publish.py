"""From a trained module to a folder of weights with its results and model card."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kexue_core.cards import build_card
from kexue_core.folder import WEIGHTS_FILE
from kexue_core.loading import load_folder
from kexue_core.plugins import Declared
from kexue_core.saving import save_folder
from kexue_core.specs import ModelSpec
from kexue_core.training.data.sources import sha256_of
from kexue_core.training.recipe import Dataset, Recipe, Split
from kexue_core.training.records import (
    ResultRecord,
    append_records,
    device_name,
    read_records,
    versions,
)
from kexue_core.training.seeding import seed_everything

__all__ = ["measure", "publish"]


def publish(
    recipe: Recipe,
    model: nn.Module,
    declared: Declared,
    *,
    folder: Path,
    name: str,
    title: str,
    training: Dataset,
    validation: Dataset,
    seed: int,
    steps: int,
    command: str,
    device: torch.device,
) -> list[ResultRecord]:
    """Write ``folder/weights``, and append to ``folder/results.jsonl`` what it measures.

    The weights are rounded, written, read back and then measured, so that every figure is one of
    the file that is published, on a model built as a reader of it builds it. The records tell the
    recipe's ``name``, the card has the ``title``, which is what the weights are called.

    Returns:
        What was measured.

    Raises:
        StorageError: The folder cannot be written.
    """
    spec = declared.spec
    assert isinstance(spec, ModelSpec)
    if type(recipe).finish is not Recipe.finish:
        model = copy.deepcopy(model).eval()  # the run may go on
        with torch.no_grad():
            recipe.finish(model)

    def write(where: Path, card: str | None, records: list[ResultRecord]) -> Path:
        def beside(path: Path) -> None:
            recipe.extra_files(path)
            append_records(path / "results.jsonl", records)

        return save_folder(
            where,
            model,
            distribution=declared.distribution,
            model_name=spec.name,
            preprocess=recipe.preprocess(),
            sampler=recipe.sampler(),
            requires=recipe.requires(),
            card=card,
            half=True,
            extra_files=beside,
        )

    with tempfile.TemporaryDirectory(prefix=".weights-", dir=folder) as temporary:
        draft = write(Path(temporary) / "weights", None, [])
        sha256 = sha256_of(draft / WEIGHTS_FILE)
        records = measure(
            recipe,
            load_folder(draft, device=device, mmap=False),
            validation,
            split="val",
            seed=seed,
            command=command,
            weights=sha256,
            device=device,
            settings={"recipe": name, "steps": steps},
            distribution=declared.distribution,
        )
    known = read_records(folder / "results.jsonl")
    append_records(folder / "results.jsonl", [r for r in records if r not in known])
    # What `kexue eval --record` measured on these very weights, before they were written again.
    earlier = read_records(folder / "weights" / "results.jsonl")
    records += [r for r in earlier if r.weights == sha256 and r not in records]
    card = build_card(
        recipe.card,
        name=title,
        spec=spec,
        distribution=declared.distribution,
        config=asdict(recipe.config),
        seed=seed,
        steps=steps,
        command=command,
        trained_on=f"{training.name}, train: {len(training):,} samples, "
        f"sha256 `{training.fingerprint}`",
        records=records,
    )
    write(folder / "weights", card, records)
    return records


def measure(
    recipe: Recipe,
    model: nn.Module,
    data: Dataset,
    *,
    split: Split,
    seed: int,
    command: str,
    weights: str,
    device: torch.device,
    settings: Mapping[str, Any],
    distribution: str,
    limit: int | None = None,
) -> list[ResultRecord]:
    """Evaluate ``model``, read onto ``device`` from a file with the sha256 ``weights``.

    Returns:
        One record a metric, in the order of the recipe.
    """
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
            versions=versions(distribution),
            device=device_name(device),
            settings={**settings, "data": data.fingerprint},
        )
        for metric, value in values.items()
    ]
