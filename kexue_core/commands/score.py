"""``kexue score``: what a model thinks of each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kexue_core.commands import _output
from kexue_core.commands._options import (
    device_option,
    json_option,
    quiet_option,
    seed_option,
    weights_argument,
)
from kexue_core.commands._output import Column, progress
from kexue_core.commands._work import Loaded, load, read_inputs, working
from kexue_core.errors import DataError, UnsupportedError

__all__ = ["command", "scores"]

#: What a unit is called in a table, and in words.
UNITS = {"bits": "bits_per_dim", "nats": "log_prob", "energy": "energy"}


def scores(loaded: Loaded, x: Any, unit: str, seed: int, quiet: bool = True) -> list[float]:
    """One number a row of ``x``, (n, *data_shape) in [0, 1].

    Each row is scored by itself with the noise of ``seed``, so that its score does not depend on
    what else is scored.

    Raises:
        DataError: The model refuses a row: grey values, say, where it is of binary images.
    """
    import torch

    values = []
    with progress("scoring", len(x), quiet=quiet) as advance:
        for row in x:
            one = row[None].to(loaded.device)
            try:
                if unit == "bits":
                    generator = torch.Generator().manual_seed(seed)
                    value = loaded.model.bits_per_dim(one, generator=generator)
                elif unit == "nats":
                    value = loaded.model.log_prob(one)
                else:
                    value = loaded.model.energy(one)
            except ValueError as error:
                raise DataError(f"{loaded.spec.name} gives no {UNITS[unit]}: {error}") from error
            values.append(float(value))
            advance()
    return values


def choose_unit(loaded: Loaded, asked: str | None) -> str:
    """The unit that is asked for, or else the first that the model has.

    Raises:
        UnsupportedError: The model has another.
    """
    units = ["bits", "nats"] if "density" in loaded.spec.capabilities else []
    units += ["energy"] if "energy" in loaded.spec.capabilities else []
    if asked is not None and asked not in units:
        raise UnsupportedError(
            f"{loaded.spec.name} gives no {asked}", hint=f"Choose --unit {' or '.join(units)}"
        )
    return asked or units[0]


@click.command(name="score")
@weights_argument
@click.argument("images", nargs=-1, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A .npy array (n, *shape): uint8, or float in [0, 1]; or a folder.",
)
@click.option(
    "--unit",
    type=click.Choice(list(UNITS)),
    help="Bits per dimension, log-density in nats, or energy. Default: the first it has.",
)
@seed_option
@device_option
@json_option
@quiet_option
def command(
    *,
    name: str,
    images: tuple[Path, ...],
    data: Path | None,
    unit: str | None,
    seed: int,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Score images: bits per dimension (low is likely), log-density in nats, or energy.

    IMAGE is a picture, a folder of them, or a .npy array of inputs. Pictures are cropped and
    resized as the weights say. A score depends on the image, the seed and the weights alone.

    \b
    Examples:
      kexue score glow-celeba face.jpg cat.jpg
      kexue score glow-celeba photos/ | sort -t "$(printf '\\t')" -k2 -n
      kexue score glow-celeba --data test.npy --unit nats --json
    """
    paths = [*images, *([data] if data else [])]
    if not paths:
        raise click.UsageError("Name images, or an array with --data")
    loaded = load(name, "score", device)
    unit = choose_unit(loaded, unit)
    names, x = read_inputs(paths, loaded)
    with working(loaded.device):
        values = scores(loaded, x, unit, seed, quiet)
    metric = UNITS[unit]
    if as_json:
        rows = [{"file": n, metric: v} for n, v in zip(names, values, strict=True)]
        bound = loaded.spec.bound and unit != "energy"
        _output.json({"name": name, "metric": metric, "bound": bound, "seed": seed, "images": rows})
        return
    columns = (Column("file", least=16), Column(metric, align="right"))
    _output.table(columns, [(n, f"{v:.4f}") for n, v in zip(names, values, strict=True)])
    mean = sum(values) / len(values)
    kind = " (a bound)" if loaded.spec.bound and unit != "energy" else ""
    _output.note(f"mean of {len(values)}: {mean:.4f} {metric}{kind}", quiet=quiet)
