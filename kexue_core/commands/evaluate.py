"""``kexue eval``: measure weights, and keep the result as a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kexue_core.commands import _output
from kexue_core.commands._options import WeightsName, json_option
from kexue_core.commands._output import Column
from kexue_core.commands.train import make_recipe
from kexue_core.errors import DataError, NotFoundError
from kexue_core.specs import RecipeSpec

if TYPE_CHECKING:
    from kexue_core.folder import WeightsConfig
    from kexue_core.hub import Located
    from kexue_core.plugins import Declared
    from kexue_core.training.recipe import Split
    from kexue_core.training.records import ResultRecord

__all__ = ["choose_recipe", "command", "evaluate"]

COLUMNS = (
    Column("metric"),
    Column("value", align="right"),
    Column("split"),
    Column("n", align="right"),
    Column("dataset", least=10),
)


def evaluate(
    name: str,
    *,
    data: str | None = None,
    split: Split = "val",
    limit: int | None = None,
    recipe: str | None = None,
    settings: tuple[str, ...] = (),
    device: str | None = None,
) -> list[ResultRecord]:
    """Measure weights as a recipe measures them; one record a metric.

    Args:
        name: A reference to weights.
        data: Path or Hub name; ``None`` for the recipe's public default.
        split: What to measure on.
        limit: Only the first samples.
        recipe: Name of the recipe; ``None`` finds the one of the weights.
        settings: ``key=value`` settings of the recipe, over those that the weights were trained
            with where these are known, and its defaults where not.
        device: Where to measure; the CPU where ``None``.

    Raises:
        NotFoundError: No such weights, or no recipe to measure them with.
        DataError: The data is missing, broken, or has no such split.
    """
    from kexue_core.folder import WEIGHTS_FILE, WeightsConfig
    from kexue_core.hub import locate
    from kexue_core.hub.receipts import hash_file
    from kexue_core.loading import as_device, load_folder
    from kexue_core.training.publish import measure
    from kexue_core.training.records import command_line

    place = as_device(device)
    located = locate(name)
    config = WeightsConfig.read(located.folder)
    declared = choose_recipe(located, config, recipe)
    maker = make_recipe(declared, settings, _trained_with(located.folder, declared.spec.name))
    samples = maker.data(data, split)
    model = load_folder(located.folder, device=place)
    return measure(
        maker,
        model,
        samples,
        split=split,
        seed=0,
        command=command_line(
            "eval",
            name,
            {
                "data": data,
                "split": split,
                "limit": limit,
                "recipe": recipe,
                "set": settings,
                "device": device,
            },
        ),
        weights=hash_file(located.folder / WEIGHTS_FILE),
        device=place,
        settings={"recipe": declared.spec.name},
        distribution=config.plugin,
        limit=limit,
    )


def choose_recipe(located: Located, config: WeightsConfig, asked: str | None) -> Declared:
    """The recipe that says how weights are measured.

    That which is asked for; else the one that a result of the weights names; else the one of the
    same name; else the only one for this model.

    Raises:
        NotFoundError: There is none, or several; they are listed.
    """
    from kexue_core.plugins import discover

    plugins = discover()
    fitting = [
        d
        for d in plugins.declared("recipe")
        if isinstance(d.spec, RecipeSpec)
        and d.spec.model == config.model
        and d.distribution == config.plugin
    ]
    if asked is not None:
        found = plugins.find("recipe", asked)
        if found in fitting:
            return found
        raise NotFoundError(
            f"The recipe {asked} is not for {config.plugin}::{config.model}", hint=_choice(fitting)
        )
    results = located.entry.results if located.entry is not None else ()
    named = [r.get("settings", {}).get("recipe") for r in results]
    run = _run_of(located.folder)
    preferred = [*named, run.get("recipe"), located.entry.name if located.entry else None]
    for wanted in preferred:
        for declared in fitting:
            if declared.spec.name == wanted:
                return declared
    if len(fitting) == 1:
        return fitting[0]
    raise NotFoundError(
        f"{len(fitting) or 'No'} recipes can measure {config.plugin}::{config.model}",
        hint=_choice(fitting),
    )


def _choice(fitting: list[Declared]) -> str:
    if not fitting:
        return "`kexue list --kind recipe` shows all recipes"
    return f"Name one with --recipe: {', '.join(d.spec.name for d in fitting)}"


def _run_of(folder: Path) -> dict[str, Any]:
    """``run.json`` beside a folder of weights that `kexue train` wrote; empty elsewhere."""
    try:
        content = json.loads((folder.resolve().parent / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _trained_with(folder: Path, recipe: str) -> dict[str, Any]:
    run = _run_of(folder)
    found = run.get("config") if run.get("recipe") == recipe else None
    return found if isinstance(found, dict) else {}


@click.command(name="eval")
@click.argument("name", type=WeightsName(), metavar="NAME")
@click.option("--data", metavar="PATH|HUB", help="Folder or file, or owner/name on the Hub.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="val",
    show_default=True,
    help="What to measure on; test is for the final figure.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N samples.")
@click.option("--recipe", metavar="RECIPE", help="How to measure. Default: the weights' own.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Setting of it.")
@click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1. Default: cpu.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads on the CPU.")
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append the result records to this .jsonl file.",
)
@json_option
def command(
    *,
    name: str,
    data: str | None,
    split: Split,
    limit: int | None,
    recipe: str | None,
    settings: tuple[str, ...],
    device: str | None,
    threads: int | None,
    record: Path | None,
    as_json: bool,
) -> None:
    """Measure the weights NAME on a data set, as their recipe does.

    The figures are made as those of the model card: by the same recipe, on the published file.
    `--record` keeps them with all that is needed to measure them again; in results.jsonl beside
    the weights, `kexue push` finds them.

    \b
    Examples:
      kexue eval glow-celeba --data path/to/celeba
      kexue eval glow-fashion --data path/to/fashion --split test --json
      kexue eval file:runs/glow-celeba/weights --limit 512
      kexue eval file:out --split test --record out/results.jsonl
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if record is not None and record.exists():
        from kexue_core.training.records import read_records

        read_records(record)  # a file of something else is refused before the work, not after
    records = evaluate(
        name,
        data=data,
        split=split,
        limit=limit,
        recipe=recipe,
        settings=settings,
        device=device,
    )
    if not records:
        raise DataError("The recipe measures nothing on this data")
    if record is not None:
        from kexue_core.training.records import append_records

        append_records(record, records)
    if as_json:
        _output.json([r.to_dict() for r in records])
    else:
        _output.table(
            COLUMNS, [(r.metric, f"{r.value:.6g}", r.split, r.n, r.dataset) for r in records]
        )
    if record is not None:
        _output.note(f"recorded in {record}")
