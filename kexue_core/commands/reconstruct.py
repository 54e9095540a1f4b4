"""``kexue reconstruct``: images through a model and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kexue_core.commands import _output
from kexue_core.commands._options import (
    device_option,
    json_option,
    out_option,
    quiet_option,
    weights_argument,
)
from kexue_core.commands._output import Column
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

__all__ = ["command", "reconstruct"]

COLUMNS = (
    Column("file", least=16),
    Column("max_error", align="right"),
    Column("psnr_db", align="right"),
)


def reconstruct(loaded: Loaded, x: Any) -> Any:
    """Encode and decode (n, *data_shape): by latents where the model has them, else by codes."""
    import torch

    model, batches = loaded.model, []
    for batch in x.split(BATCH):
        there = batch.to(loaded.device)
        if "latent" in loaded.spec.capabilities:
            back = model.decode(model.to_latent(there))
        else:
            back = model.from_codes(model.to_codes(there))
        batches.append(back.cpu())
    return torch.cat(batches)


@click.command(name="reconstruct")
@weights_argument
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE..."
)
@out_option("reconstruct")
@click.option("--columns", type=click.IntRange(min=1), help="Pairs a row; default: up to 4.")
@device_option
@json_option
@quiet_option
def command(
    *,
    name: str,
    images: tuple[Path, ...],
    out: Path | None,
    columns: int | None,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Encode and decode images: each beside its reconstruction in one PNG, and their errors.

    IMAGE is a picture, a folder of them, or a .npy array of inputs. Pictures are cropped and
    resized as the weights say; errors are against that: the largest absolute error of values in
    [0, 1], and the peak signal-to-noise ratio in dB.

    \b
    Examples:
      kexue reconstruct glow-celeba face.jpg
      kexue reconstruct simvq-fashion photos/ --out pairs.png --json
    """
    loaded = load(name, "reconstruct", device)
    names, x = read_inputs(images, loaded)
    from kexue_core.latents import max_error, psnr

    with working(loaded.device):
        y = reconstruct(loaded, x)
    rows = [
        {"file": file, "max_error": error, "psnr_db": ratio}
        for file, error, ratio in zip(names, max_error(x, y), psnr(x, y), strict=True)
    ]
    if is_images(x):
        import torch

        from kexue_core.images import grid

        out = out or default_out(name, "reconstruct")
        pairs = torch.stack([x, y], 1).flatten(0, 1)
        write_image(grid(pairs, 2 * (columns or min(len(x), 4))), out)
    elif out is not None:
        raise click.UsageError(f"{name} has no images to put into {out}")
    if as_json:
        _output.json({"name": name, "out": out, "images": rows})
        return
    _output.table(
        COLUMNS, [(r["file"], f"{r['max_error']:.2e}", f"{r['psnr_db']:.1f}") for r in rows]
    )
    if out is not None:
        _output.note(f"pairs of input and reconstruction are in {out}", quiet=quiet)
