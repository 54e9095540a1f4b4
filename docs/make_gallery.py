"""Draw every picture of ``gallery.yaml`` from published weights into ``images/``.

    python docs/make_gallery.py [PICTURE ...]

Weights that are not published yet are named and skipped; any other trouble is an error. The same
weights give the same file.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor

import kexue_core as kexue
from kexue_core import api
from kexue_core.errors import KexueError, NetworkError, NotFoundError, PluginError
from kexue_core.images import grid
from kexue_core.latents import slerp

HERE = Path(__file__).parent
IMAGES = HERE / "images"

#: Bytes of one picture: a page of documentation should load at once.
LARGEST = 300_000

KEYS = {
    "samples": {"rows", "columns", "temperature"},
    "temperatures": {"rows", "temperatures"},
    "interpolation": {"rows", "columns", "temperature"},
    "chains": {"rows", "columns", "start"},
}


def draw(picture: Mapping[str, Any]) -> tuple[Tensor, int]:
    """Images (n, C, H, W) of one entry and how many stand in a row.

    Raises:
        NotFoundError: The weights are not in the registry.
        NetworkError: They are nowhere on this machine and cannot be fetched.
    """
    kind = picture["kind"]
    if unknown := set(picture) - KEYS[kind] - {"weights", "kind", "seed"}:
        raise ValueError(f"a picture of {kind} has no {', '.join(sorted(unknown))}")
    model: Any = kexue.load(picture["weights"], device="cpu")
    if kind == "chains":  # of an energy, by the sampler of the weights
        number, start = picture["rows"] * picture["columns"], picture["start"]
        return kexue.sample(model, number, seed=picture["seed"], start=start), picture["columns"]
    _, options = api.sampling(model)
    rows, seed = picture.get("rows", 4), picture.get("seed", 0)
    temperature = picture.get("temperature", options.get("temperature", 1.0))

    if not hasattr(model, "prior"):  # nothing to decode: its own sampler draws
        temperatures = picture.get("temperatures", [temperature])
        number = picture["rows"] * (1 if kind == "temperatures" else picture["columns"])
        drawn = [kexue.sample(model, number, seed=seed, temperature=t) for t in temperatures]
        many = len(drawn) if kind == "temperatures" else picture["columns"]
        return torch.stack(drawn, 1).flatten(0, 1), many

    def latents(n: int, temperature: float) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return model.prior(n, temperature=temperature, generator=generator)

    def sample(n: int, i: int, z: Any) -> Any:
        return tuple(x[i : i + n] for x in z) if isinstance(z, tuple) else z[i : i + n]

    if kind == "temperatures":
        columns = [model.decode(latents(rows, t)) for t in picture["temperatures"]]
        return torch.stack(columns, 1).flatten(0, 1), len(columns)
    columns = picture.get("columns", 8)
    if kind == "interpolation":
        ends = latents(2 * rows, temperature)
        walks = [
            slerp(sample(1, 2 * i, ends), sample(1, 2 * i + 1, ends), columns) for i in range(rows)
        ]
    else:
        every = latents(rows * columns, temperature)
        walks = [sample(columns, i * columns, every) for i in range(rows)]
    return torch.cat([model.decode(z) for z in walks]), columns


def encode(image: Image.Image) -> bytes:
    """The picture as PNG, of few enough colours to stay below :data:`LARGEST`."""
    for colours in (None, 256, 128, 64):
        reduced = image if colours is None else image.quantize(colours, dither=Image.Dither.NONE)
        file = io.BytesIO()
        reduced.save(file, "PNG", optimize=True)
        if file.tell() < LARGEST:
            return file.getvalue()
    raise ValueError(f"{file.tell():,} bytes are too many: take fewer rows")


def main() -> int:
    """Draw what was asked for; return the exit code."""
    pictures: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "gallery.yaml").read_text())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="PICTURE", help="default: all")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - set(pictures)):
        parser.error(f"gallery.yaml has no {', '.join(unknown)}")
    IMAGES.mkdir(exist_ok=True)
    failed = 0
    for name in names or pictures:
        try:
            with torch.no_grad():
                images, columns = draw(pictures[name])
        except (NotFoundError, NetworkError, PluginError) as error:
            print(f"{name}: skipped: {error}")
            continue
        except (KexueError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
            continue
        data = encode(grid(images, columns))
        path = IMAGES / f"{name}.png"
        path.write_bytes(data)
        print(f"{name}: {path.relative_to(HERE.parent)}, {len(data) / 1000:.0f} kB")
    return failed


if __name__ == "__main__":
    sys.exit(main())
