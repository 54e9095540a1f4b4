"""An attribute of a face as a direction in latent space.

The direction is the difference of two means, of latents of images with the attribute and without,
and it was never trained. Images of the data set are encoded and measured; what is shown is samples
of the prior that were moved along the direction.

References:
    [1] Kingma & Dhariwal, Glow, 2018, section 6. https://arxiv.org/abs/1807.03039
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kexue_core.errors import DataError
from kexue_core.experiments import Curve, Results, RunContext, Verdict
from kexue_core.images import grid
from kexue_core.statistics import area_under_curve
from kexue_core.training.data.celeba import FRAME_BOX, FRAMES
from kexue_core.training.data.images import Images
from kexue_core.training.data.npz import read_npz
from kexue_core.training.data.sources import Indices
from kexue_core.training.recipe import Split
from kexue_core.training.records import ResultRecord
from kexue_flow.pictures import BATCH, Pictures

__all__ = ["Attributes"]

#: Columns of ``attrs5`` in the pack; the fifth, adult, nearly all have.
ATTRIBUTES = ("bangs", "eyeglasses", "beard", "smiling")

#: Images with the attribute, and as many without, at most.
IMAGES, QUICK_IMAGES = 1_000, 40

#: 0.5 is chance. A direction that ranks two of three pairs correctly has something to do with it.
LEAST = 2 / 3


class Attributes(Pictures):
    """[1, section 6]: adding the difference of means to a latent changes the attribute."""

    name = study = "glow-attributes"
    claim = "An attribute is a direction of latent space: the difference of two means finds it"
    criterion = (
        "for each of the four attributes, the direction found on training images ranks validation "
        "images with it above those without at an area under the curve of at least 2/3"
    )
    variants: ClassVar[tuple[str, ...]] = ATTRIBUTES
    metric: ClassVar[str] = "area_under_curve"
    #: Multiples of the difference of means by which samples are moved.
    moves: ClassVar[tuple[float, ...]] = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """The weights and the number of images."""
        return {"weights": self.sha256, "images": QUICK_IMAGES if quick else IMAGES}

    def identity(self, data: str | None) -> str:
        """sha256 of the pack."""
        return next(iter(read_npz(_pack(data)).values())).identity

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Find one direction, keep it in the run's folder, and measure it."""
        n = QUICK_IMAGES if context.quick else IMAGES
        pack = _pack(context.data)
        have, lack = self._encode_pairs(pack, variant, "train", seed=seed, n=n)
        direction = have.mean(0) - lack.mean(0)
        have, lack = self._encode_pairs(pack, variant, "val", seed=seed, n=n)
        area = area_under_curve(have @ direction, lack @ direction)
        save_file({"direction": direction}, context.folder / "direction.safetensors")
        record = self.record(self.metric, area, len(have) + len(lack), seed, context, images=n)
        return [replace(record, dataset="CelebA frames", split="val")], {}

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        areas = {run.variant: run.value(self.metric) for run in results}
        because = tuple(f"{variant}: {area:.3f}" for variant, area in areas.items())
        return Verdict(holds=min(areas.values()) >= LEAST, because=because)

    @torch.no_grad()
    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """A row an attribute: one sample, moved from without to with."""
        rows = []
        for number, run in enumerate(r for r in results if r.seed == results[0].seed):
            assert run.folder is not None
            direction = load_file(run.folder / "direction.safetensors")["direction"]
            [latents] = self.latents(run.seed, 0.7, number + 1)
            start = torch.cat([z[number].flatten() for z in latents])
            moved = torch.stack([start + move * direction for move in self.moves])
            parts = torch.split(moved, [z[0].numel() for z in latents], dim=1)
            shaped = [p.reshape(-1, *z.shape[1:]) for p, z in zip(parts, latents, strict=True)]
            rows.append(self.glow.decode(tuple(shaped)))
        grid(torch.cat(rows), len(self.moves)).save(path, optimize=True)

    def _encode_pairs(self, pack: Path, variant: str, split: Split, **which: int) -> list[Tensor]:
        """Latents (n, d) of images with the attribute, and of as many without."""
        channels, size, _ = self.glow.data_shape
        raw = replace(read_npz(pack, name="CelebA")[split], box=FRAME_BOX)
        encoded = []
        for positions in _pairs(pack, raw.indices, variant, **which):
            images = Images([raw.subset(positions)], size=size, channels=channels, split=split)
            encoded.append(self._encode(images))
        return encoded

    def _encode(self, images: Images) -> Tensor:
        """Latents (n, d), all levels as one vector."""
        encoded = []
        for first in range(0, len(images), BATCH):
            batch = images.batch(range(first, min(len(images), first + BATCH)))["image"]
            encoded.append(torch.cat([z.flatten(1) for z in self.glow.to_latent(batch)], 1))
        return torch.cat(encoded)


def _pack(data: str | None) -> Path:
    if data is None:
        raise DataError(
            f"The attributes are in {FRAMES}, which has no public copy",
            hint="Name its folder with --data",
        )
    path = Path(data) / FRAMES if Path(data).is_dir() else Path(data)
    if not path.is_file():
        raise DataError(f"{path} does not exist", hint="Check the path given with --data")
    return path


def _pairs(
    pack: Path, indices: Indices, attribute: str, *, seed: int, n: int
) -> tuple[Indices, Indices]:
    """Positions among ``indices`` of ``n`` images with the attribute, and of as many without."""
    with np.load(pack, allow_pickle=False) as file:
        if "attrs5" not in file:
            raise DataError(f"{pack} holds no attributes", hint="It needs an array attrs5")
        labels = file["attrs5"][indices, ATTRIBUTES.index(attribute)]
    chosen = [np.flatnonzero(labels == value) for value in (1, 0)]
    n = min(n, *map(len, chosen))
    rng = np.random.default_rng(seed)
    have, lack = (np.sort(rng.permutation(positions)[:n]) for positions in chosen)
    return have, lack
