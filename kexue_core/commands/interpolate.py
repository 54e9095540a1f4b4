"""``kexue interpolate``: a walk through latent space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kexue_core.commands import _output
from kexue_core.commands._options import (
    device_option,
    json_option,
    out_option,
    quiet_option,
    weights_argument,
)
from kexue_core.commands._work import (
    BATCH,
    Loaded,
    default_out,
    is_images,
    load,
    read_inputs,
    working,
    write_image,
)
from kexue_core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

    from kexue_core.interfaces import Latent

__all__ = ["command", "ends_of_images", "ends_of_seeds", "walk"]


def ends_of_seeds(loaded: Loaded, seeds: tuple[int, int], temperature: float) -> list[Latent]:
    """The latent of sample 0 of two seeds."""
    import torch

    return [
        loaded.model.prior(
            1, temperature=temperature, generator=torch.Generator().manual_seed(seed)
        )
        for seed in seeds
    ]


def ends_of_images(loaded: Loaded, images: tuple[Path, Path]) -> list[Latent]:
    """The latents of two images."""
    _, x = read_inputs(images, loaded)
    return [loaded.model.to_latent(x[i : i + 1].to(loaded.device)) for i in range(2)]


def walk(loaded: Loaded, ends: list[Latent], steps: int) -> Tensor:
    """Decode ``steps`` points from one latent to the other: (steps, *data_shape)."""
    import torch

    from kexue_core.latents import slerp

    latent = slerp(ends[0], ends[1], steps)
    batches = []
    for start in range(0, steps, BATCH):
        part = slice(start, start + BATCH)
        piece = tuple(z[part] for z in latent) if isinstance(latent, tuple) else latent[part]
        batches.append(loaded.model.decode(piece).cpu())
    return torch.cat(batches)


@click.command(name="interpolate")
@weights_argument
@click.argument("images", nargs=-1, type=click.Path(path_type=Path), metavar="[A B]")
@click.option(
    "--seeds", nargs=2, type=int, metavar="S T", help="Walk between samples. Default: 0 1"
)
@click.option(
    "--steps",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    help="Points of the walk, both ends included.",
)
@click.option("--temperature", type=float, help="Of the samples. Default: as `kexue sample`.")
@out_option("interpolate")
@click.option("--columns", type=click.IntRange(min=1), help="Images a row; default: all in one.")
@device_option
@json_option
@quiet_option
def command(
    *,
    name: str,
    images: tuple[Path, ...],
    seeds: tuple[int, int] | None,
    steps: int,
    temperature: float | None,
    out: Path | None,
    columns: int | None,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Walk between two images A and B, or between two samples, and print the path of the PNG.

    The walk follows the great circle in latent space, which keeps to radii that the prior has.
    Both ends are on it: for images, as the model reconstructs them.

    \b
    Examples:
      kexue interpolate glow-celeba
      kexue interpolate glow-celeba --seeds 3 14 --steps 10
      kexue interpolate glow-celeba anna.jpg bert.jpg --out walk.png
    """
    if len(images) not in (0, 2):
        raise click.UsageError(f"Name two images, not {len(images)}")
    if images and (seeds or temperature is not None):
        raise click.UsageError("--seeds and --temperature are for walks between samples")
    loaded = load(name, "interpolate", device)
    from kexue_core import api

    with working(loaded.device):
        if images:
            ends = ends_of_images(loaded, (images[0], images[1]))
            between = f"{images[0]} and {images[1]}"
        else:
            _, settings = api.sampling(loaded.model)
            heat = temperature if temperature is not None else settings.get("temperature", 1.0)
            seeds = seeds or (0, 1)
            ends = ends_of_seeds(loaded, seeds, heat)
            between = f"samples of the seeds {seeds[0]} and {seeds[1]}, temperature {heat}"
        data = walk(loaded, ends, steps)
    if not is_images(data):
        raise UnsupportedError(f"{name} gives no images, so there is nothing to show of a walk")
    from kexue_core.images import grid

    out = out or default_out(name, "interpolate")
    write_image(grid(data, columns or steps), out)
    if as_json:
        _output.json({"name": name, "between": between, "steps": steps, "out": out})
    else:
        _output.note(f"{steps} steps between {between}", quiet=quiet)
        click.echo(out)
