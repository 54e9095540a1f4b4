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

__all__ = ["choose_recipe", "command", "evaluate", "evaluate_metric"]

COLUMNS = (
    Column("metric"),
    Column("value", align="right"),
    Column("floor", align="right"),
    Column("split"),
    Column("n", align="right"),
    Column("dataset", least=10),
    Column("conditions", least=10),
)
#: Shown where any result has them: what real data get in place of samples; and how samples were
#: drawn and whose features were compared.
SOMETIMES = [column for column in COLUMNS if column.name in ("floor", "conditions")]
#: Digits of a classifier's hash in a table; records have all 64.
DIGITS = 12


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


def evaluate_metric(
    name: str,
    metric: str,
    *,
    data: str | None = None,
    split: Split = "val",
    limit: int | None = None,
    settings: tuple[str, ...] = (),
    device: str | None = None,
) -> list[ResultRecord]:
    """Measure weights by a metric that a plugin brings; one record a value.

    Args:
        name: A reference to weights.
        metric: Name of the metric, see :mod:`kexue_core.metrics`.
        data, split, limit: The real data, and how many samples.
        settings: ``key=value`` settings of the metric.
        device: Where to measure; the CPU where ``None``.

    Raises:
        NotFoundError: No such weights or metric.
        UnsupportedError: The weights cannot do what the metric needs.
        DataError: The data is missing, broken, or has no such split.
    """
    from kexue_core.commands._weights import require_verb
    from kexue_core.configs import build_config, parse_settings
    from kexue_core.metrics import Subject, find_metric

    found = find_metric(metric)
    config = build_config(found.factory.Config, parse_settings(found.factory.Config, settings))
    require_verb(name, found.factory.verb)

    from kexue_core import api
    from kexue_core.folder import WEIGHTS_FILE
    from kexue_core.hub.receipts import hash_file
    from kexue_core.loading import as_device
    from kexue_core.training.records import ResultRecord, command_line, device_name, versions

    place = as_device(device)
    model = api.load(name, device=place)
    known = api.provenance(model)
    assert known is not None
    measured = found.factory(config).measure(
        Subject(
            name=name,
            model=model,
            config=known.config,
            source=data,
            split=split,
            limit=limit,
            device=place,
        )
    )
    options = {
        "metrics": metric,
        "data": data,
        "split": split,
        "limit": limit,
        "set": settings,
        "device": device,
    }
    return [
        ResultRecord(
            metric=key,
            value=float(value),
            floor=None if (floor := measured.floors.get(key)) is None else float(floor),
            dataset=measured.dataset,
            split=split,
            n=measured.n,
            seed=measured.seed,
            command=command_line("eval", name, options),
            weights=hash_file(known.folder / WEIGHTS_FILE),
            versions=versions(known.config.plugin, found.distribution),
            device=device_name(place),
            settings={"metrics": found.name, **measured.settings},
        )
        for key, value in measured.values.items()
    ]


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
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Only N samples.")
@click.option("--metrics", metavar="METRICS", help="Measure by these of a plugin; see below.")
@click.option("--recipe", metavar="RECIPE", help="How to measure. Default: the weights' own.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Setting of them.")
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
    metrics: str | None,
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

    With --metrics the weights are measured by a plugin's metrics instead, with real images prepared
    as theirs were: `sample-quality` and `class-agreement` come with kexue-metrics.

    \b
    Examples:
      kexue eval glow-celeba --data path/to/celeba
      kexue eval glow-fashion --data path/to/fashion --split test --json
      kexue eval file:runs/glow-celeba/weights --limit 512
      kexue eval file:out --split test --record out/results.jsonl
      kexue eval glow-fashion --metrics sample-quality --set features=classifier-fashion \\
          --data path/to/fashion --split test -n 10000
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if record is not None and record.exists():
        from kexue_core.training.records import read_records

        read_records(record)  # a file of something else is refused before the work, not after
    if metrics is not None and recipe is not None:
        raise click.UsageError("--metrics and --recipe are two ways to measure: give one")
    if metrics is not None:
        records = evaluate_metric(
            name,
            metrics,
            data=data,
            split=split,
            limit=limit,
            settings=settings,
            device=device,
        )
    else:
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
        raise DataError(f"The {'metrics measure' if metrics else 'recipe measures'} nothing here")
    if record is not None:
        from kexue_core.training.records import append_records

        append_records(record, records)
    if as_json:
        _output.json([r.to_dict() for r in records])
    else:
        from kexue_core.training.records import conditions

        rows = [
            {
                "metric": r.metric,
                "value": f"{r.value:.6g}",
                "floor": None if r.floor is None else f"{r.floor:.6g}",
                "split": r.split,
                "n": r.n,
                "dataset": r.dataset,
                "conditions": conditions(r.settings, digits=DIGITS) or None,
            }
            for r in records
        ]
        wanted = [c for c in COLUMNS if c not in SOMETIMES or any(row[c.name] for row in rows)]
        _output.table(wanted, [[row[c.name] for c in wanted] for row in rows])
    if record is not None:
        _output.note(f"recorded in {record}")
