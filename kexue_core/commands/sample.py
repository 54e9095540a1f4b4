"""``kexue sample``: draw from weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kexue_core.commands import _output
from kexue_core.commands._options import (
    device_option,
    json_option,
    out_option,
    parse_options,
    quiet_option,
    seed_option,
    weights_argument,
)
from kexue_core.commands._work import default_out, is_images, load, working, write_image
from kexue_core.errors import DataError

__all__ = ["command", "write_samples"]


@click.command(name="sample")
@weights_argument
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="How many samples.",
)
@seed_option
@click.option("--temperature", type=float, help="Short for -o temperature=...")
@click.option("--sampler", metavar="NAME", help="Another sampler than that of the weights.")
@click.option("-o", "--option", "pairs", metavar="KEY=VALUE", multiple=True, help="Of the sampler.")
@out_option("sample", ".npy", ".txt")
@click.option("--columns", type=click.IntRange(min=1), help="Images a row; default: a square.")
@click.option(
    "--separate",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each image into DIR instead, as 00000.png and so on.",
)
@device_option
@json_option
@quiet_option
def command(
    *,
    name: str,
    number: int,
    seed: int,
    temperature: float | None,
    sampler: str | None,
    pairs: tuple[str, ...],
    out: Path | None,
    columns: int | None,
    separate: Path | None,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw samples from the weights NAME and print the path of the file.

    Images become one PNG (or a .npy, if --out says so), other arrays a .npy, texts a .txt. Sample i
    of a seed is the same however many are drawn. `kexue show NAME` lists the sampler's options.

    \b
    Examples:
      kexue sample glow-celeba
      kexue sample glow-celeba -n 64 --columns 8 --temperature 0.7 --out faces.png
      kexue sample ebm-mnist -o steps=200 -o step_size=0.01
      kexue sample cvae-fashion -o labels=3
      kexue sample cvae-fashion -n 30 --columns 10 -o labels=[0,1,2,3,4,5,6,7,8,9]
      kexue sample glow-celeba -n 100 --separate faces/
    """
    options = parse_options(pairs)
    if temperature is not None:
        if "temperature" in options:
            raise click.UsageError("temperature is given twice")
        options["temperature"] = temperature
    if separate and (out or columns):
        raise click.UsageError("--separate writes no grid: leave out --out and --columns")
    loaded = load(name, "sample", device)
    from kexue_core import api

    chosen, settings = api.sampling(loaded.model, sampler=sampler, **options)
    words = ", ".join(f"{key}={value}" for key, value in settings.items())
    _output.note(f"{chosen.name}({words}), seed {seed}, on {loaded.device}", quiet=quiet)
    with working(loaded.device, gradients=True):
        data = api.sample(loaded.model, number, seed=seed, sampler=sampler, **options)
    paths = write_samples(data, name, out=out, columns=columns, separate=separate)
    if as_json:
        _output.json(
            {
                "name": name,
                "n": number,
                "seed": seed,
                "sampler": chosen.name,
                "settings": settings,
                "device": str(loaded.device),
                "files": paths,
            }
        )
    else:
        for path in paths:
            click.echo(path)


def write_samples(
    data: Any,
    name: str,
    *,
    out: Path | None = None,
    columns: int | None = None,
    separate: Path | None = None,
) -> list[Path]:
    """Write samples as what they are: a picture, an array, or lines of text.

    Raises:
        DataError: The ending of ``out`` is of another kind, or the file cannot be written.
    """
    if is_images(data) and (out is None or out.suffix != ".npy"):
        from kexue_core.images import grid

        if separate is None:
            out = out or default_out(name, "sample")
            write_image(grid(data, columns), out)
            return [out]
        paths = [separate / f"{i:05d}.png" for i in range(len(data))]
        for path, image in zip(paths, data, strict=True):
            write_image(grid(image[None], padding=0, upscale=1), path)
        return paths
    is_text = isinstance(data, (list, tuple)) and all(isinstance(x, str) for x in data)
    suffix = ".txt" if is_text else ".npy"
    out = out or default_out(name, "sample", suffix)
    if separate or columns or out.suffix != suffix:
        raise DataError(
            f"These samples of {name} make no picture", hint=f"Name a {suffix} file with --out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if is_text:
        out.write_text("".join(f"{line}\n" for line in data), encoding="utf-8")
    else:
        import numpy as np

        np.save(out, data.detach().cpu().numpy())
    return [out]
