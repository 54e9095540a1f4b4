"""``kexue train``: run a recipe, or go on with a run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kexue_core.commands import _output
from kexue_core.commands._options import seed_option
from kexue_core.errors import KexueError
from kexue_core.specs import RecipeSpec, import_object

if TYPE_CHECKING:
    from kexue_core.plugins import Declared
    from kexue_core.training.recipe import Recipe

__all__ = ["command", "make_recipe"]


def make_recipe(
    declared: Declared, settings: tuple[str, ...] = (), values: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe that a spec names, with ``values`` for its config and ``key=value`` over them.

    Raises:
        ConfigError: An unknown setting, or a value that the config refuses.
        PluginError: The factory cannot be imported.
    """
    from kexue_core.configs import build_config, parse_settings

    factory = import_object(declared.spec.factory)
    given = parse_settings(factory.Config, settings)
    config = build_config(factory.Config, {**(values or {}), **given})
    recipe: Recipe = factory(config)
    return recipe


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Under ``torchrun``, let an error that another rank has said already end this one silently.

    What differs from all that was said is said, so that a rank that fails alone is heard.
    """
    try:
        yield
    except KexueError as error:
        if _is_said(str(error)):
            raise click.exceptions.Exit(error.exit_code) from error
        raise


def _is_said(line: str) -> bool:
    """Whether another rank claimed this line before; if not, it is claimed for this one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    try:
        # The launcher's own store: unlike one of the ranks' it is there before they meet, and
        # when one of them has gone.
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=5),
        )
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        key = f"kexue/said/{restart}/{hashlib.sha256(line.encode()).hexdigest()}"
        return int(store.add(key, 1)) > 1
    except (KeyError, ValueError, RuntimeError):  # torch's own store errors are RuntimeErrors
        return False


@click.command(name="train")
@click.argument("recipe_name", metavar="RECIPE")
@click.option("--data", metavar="PATH|HUB", help="Folder or file, or owner/name on the Hub.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Default: runs/RECIPE."
)
@click.option("--steps", type=click.IntRange(min=1), help="Short for --set steps=N.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop training after this time; checkpoint and weights are written.",
)
@seed_option
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="A setting of the recipe; repeatable.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of one process on the CPU.")
@click.option(
    "--resume/--fresh",
    default=None,
    help="Demand a run to go on with, or start anew (a run that is there is kept beside). "
    "Default: go on where there is one.",
)
@_said_once()
def command(
    *,
    recipe_name: str,
    data: str | None,
    out: Path | None,
    steps: int | None,
    max_minutes: float | None,
    seed: int,
    settings: tuple[str, ...],
    device: str,
    threads: int | None,
    resume: bool | None,
) -> None:
    """Train the weights of RECIPE, or go on with a run that was stopped.

    The folder of the run gets checkpoints, previews, log.jsonl, TensorBoard files, result records
    and, at the end or when time is up, a folder of weights. The same command goes on where a
    stopped run was; on the CPU the weights are the same bit for bit. Ctrl-C saves first.
    `kexue list --kind recipe` shows recipes, and an unknown --set key those that there are.
    On several GPUs: torchrun (below).

    \b
    Examples:
      kexue train glow-celeba --data path/to/images --max-minutes 60
      kexue train glow-celeba --set batch_size=16 --set ema=0.9995 --seed 1 --out runs/second
      kexue train glow-celeba --fresh
      torchrun --nproc-per-node 4 -m kexue_core train glow-celeba
      tensorboard --logdir runs
    """
    from kexue_core.plugins import discover

    plugins = discover()
    declared = plugins.find("recipe", recipe_name)
    spec = declared.spec
    assert isinstance(spec, RecipeSpec)
    model = plugins.find("model", spec.model, declared.distribution)

    import torch

    from kexue_core.training.loop import TrainingInterrupted, train
    from kexue_core.training.records import command_line

    if threads is not None:
        torch.set_num_threads(threads)
    recipe = make_recipe(declared, (*settings, f"steps={steps}") if steps else settings)
    try:
        folder = train(
            recipe,
            name=spec.name,
            model=model,
            weights=spec.weights,
            data=data,
            out=out,
            seed=seed,
            max_minutes=max_minutes,
            device=device,
            resume=resume,
            command=command_line(
                "train",
                recipe_name,
                {"data": data, "steps": steps, "seed": seed or None, "set": settings},
            ),
        )
    except TrainingInterrupted as interrupted:
        again = shlex.join(["kexue", *sys.argv[1:]])
        _output.note(f"{interrupted.message}. Go on with: {again}")
        click.get_current_context().exit(128 + interrupted.signal)
    if os.environ.get("RANK", "0") == "0":
        _output.note(f"weights are in {folder / 'weights'}")
