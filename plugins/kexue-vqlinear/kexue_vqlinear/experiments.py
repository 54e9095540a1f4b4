"""What [1] and [2] claim of SimVQ, put to the test.

Five quantisers in the same small autoencoder of 32x32 faces, with 1,024 and with 65,536 codes, all
with the same steps, data and learning rates; two of them once more with a slower quantiser. The
experiments share these runs.

References:
    [1] Su Jianlin, https://kexue.fm/archives/10519
    [2] Zhu et al., Addressing Representation Collapse in Vector Quantized Models with One Linear
        Layer, 2024. arXiv 2411.02038
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, ClassVar

from kexue_core.experiments import (
    Comparison,
    Curve,
    Experiment,
    Results,
    RunContext,
    Verdict,
    compare,
)
from kexue_core.plots import figure, save
from kexue_core.training import Dataset, Split
from kexue_core.training.data import open_images
from kexue_core.training.records import ResultRecord, read_records
from kexue_vqlinear.recipes import SimVQCelebA, SimVQCelebAConfig

__all__ = ["Diagonal", "Frozen", "SmallCodec", "SmallCodecConfig", "Utilization"]

METRICS = ("mse", "utilization", "perplexity")

#: Variant -> quantiser, codes, and how much faster than the net the quantiser learns.
VARIANTS: Mapping[str, tuple[str, int, float]] = {
    f"{quantizer}-{size}": (quantizer, size, 10.0)
    for size in (1_024, 65_536)
    for quantizer in ("vq", "vq-ema", "simvq-diagonal", "simvq", "simvq-both")
} | {"vq-slow-1024": ("vq", 1_024, 1.0), "simvq-slow-1024": ("simvq", 1_024, 1.0)}

#: Largest difference between frozen and trained codes that is "about as well", as a part.
EQUAL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallCodecConfig(SimVQCelebAConfig):
    """A codec of 32x32 faces, 8x8 codes, that one core trains in a minute or two."""

    steps: int = 240
    evaluate_every: int = 80
    checkpoint_every: int = 120
    size: int = 32
    hidden: tuple[int, ...] = (32, 64)
    dim: int = 32
    blocks: int = 1
    warmup: int = 50


@functools.cache
def _images(source: str, split: Split, size: int, channels: int, crop: int | None) -> Dataset:
    """Decoded once for all runs of a process."""
    return open_images(source, split, size=size, channels=channels, crop=crop)


class SmallCodec(SimVQCelebA):
    """The recipe of every run."""

    Config = SmallCodecConfig
    config: SmallCodecConfig

    def data(self, source: str | None, split: Split) -> Dataset:
        """Images of faces."""
        c = self.config
        return _images(source or self.hub, split, c.size, c.channels, self.crop)


class _Study(Experiment):
    """A comparison of quantisers."""

    study = "simvq-study"
    post = 10519
    papers: ClassVar[tuple[str, ...]] = ("2411.02038",)

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        return asdict(self._config(variant, quick=quick))

    def identity(self, data: str | None) -> str:
        return SmallCodec(SmallCodecConfig()).data(data, "train").fingerprint

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        folder = context.train(
            SmallCodec(self._config(variant, quick=context.quick)),
            name=f"{self.study}-{variant}",
            model="kexue-vqlinear::vq-autoencoder",
            seed=seed,
        )
        records = {r.metric: r for r in read_records(folder / "results.jsonl")}
        final = [records[metric] for metric in (*METRICS, "psnr")]
        steps = self._config(variant, quick=context.quick).steps
        log = folder / "log.jsonl"
        return final, {m: [*_curve(log, m), (steps, records[m].value)] for m in METRICS}

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """A row a number of codes, a column a metric, a line a quantiser."""
        sizes = sorted({VARIANTS[v][1] for v in self.variants})
        drawn = figure(3.2 * len(METRICS) + 1.2, 0.4 + 2.6 * len(sizes))
        grid = drawn.subplots(len(sizes), len(METRICS), squeeze=False)
        for row, size in zip(grid, sizes, strict=True):
            for axes, metric in zip(row, METRICS, strict=True):
                for variant in [v for v in self.variants if VARIANTS[v][1] == size]:
                    _draw(axes, results, variant, metric)
                axes.set(xlabel="step", ylabel=metric)
                axes.set_title(f"K = {size:,}", fontsize="small")
                if metric == "perplexity":
                    axes.set_yscale("log")
                    axes.tick_params(which="minor", labelleft=False)
                axes.grid(alpha=0.3)
            row[-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
        drawn.suptitle(f"{self.claim}:\n{verdict}", fontsize="medium")
        save(drawn, path)

    @staticmethod
    def _config(variant: str, *, quick: bool) -> SmallCodecConfig:
        quantizer, size, faster = VARIANTS[variant]
        rate = SmallCodecConfig().learning_rate
        budget = {"steps": 20, "warmup": 5, "evaluate_every": 10} if quick else {}
        return SmallCodecConfig(
            quantizer=quantizer,
            num_embeddings=size,
            quantizer_learning_rate=faster * rate,
            **budget,  # type: ignore[arg-type]
        )


def _curve(log: Path, metric: str) -> list[tuple[float, float]]:
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [(row["step"], row[f"val/{metric}"]) for row in rows if f"val/{metric}" in row]


def _draw(axes: Any, results: Results, variant: str, metric: str) -> None:
    """The median over the seeds, in a band from the lowest to the highest."""
    points = list(zip(*(run.curves[metric] for run in results.of(variant).values()), strict=True))
    steps = [p[0][0] for p in points]
    values = [[y for _, y in p] for p in points]
    label = variant.rpartition("-")[0]
    [line] = axes.plot(steps, list(map(median, values)), marker=".", label=label)
    low, high = list(map(min, values)), list(map(max, values))
    axes.fill_between(steps, low, high, alpha=0.2, lw=0, color=line.get_color())


def _better(results: Results, better: str, worse: str, *metrics: str) -> list[Comparison]:
    return [
        compare(results, m, better=better, worse=worse, higher_is_better=m != "mse")
        for m in metrics
    ]


class Utilization(_Study):
    """[1], [2]: the map over the codes keeps them from collapse."""

    name = "simvq-utilization"
    claim = "SimVQ uses more of its codes than VQ, and reconstructs with a lower error"
    criterion = (
        "With 1,024 codes and with 65,536, after the same steps, utilisation and perplexity of "
        "simvq over the validation data are above those of vq and its squared error is below, "
        "each on every seed"
    )
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion; the moving averages are told beside it."""
        judged = [
            c
            for size in (1024, 65536)
            for c in _better(results, f"simvq-{size}", f"vq-{size}", *METRICS)
        ]
        beside = [
            c
            for better, worse in (
                ("simvq-1024", "vq-ema-1024"),
                ("simvq-65536", "vq-ema-65536"),
                ("simvq-1024", "simvq-slow-1024"),
                ("simvq-slow-1024", "vq-slow-1024"),
            )
            for c in _better(results, better, worse, *METRICS)
        ]
        told = tuple(f"beside the criterion: {c}" for c in beside)
        return Verdict(
            holds=all(c.holds for c in judged),
            because=(*map(str, judged), *told),
            comparisons=tuple(judged),
        )


class Diagonal(_Study):
    """[1]: a diagonal map that starts at ones lies between VQ and SimVQ."""

    name = "simvq-diagonal"
    claim = "A diagonal map lies between VQ and SimVQ"
    criterion = (
        "With 1,024 codes and with 65,536, the squared error of simvq is below that of "
        "simvq-diagonal, and that below vq's, each on every seed"
    )
    variants: ClassVar[tuple[str, ...]] = tuple(
        f"{q}-{size}" for size in (1024, 65536) for q in ("vq", "simvq-diagonal", "simvq")
    )

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        return Verdict.of(
            *(
                compare(results, "mse", better=f"{better}-{size}", worse=f"{worse}-{size}")
                for size in (1024, 65536)
                for better, worse in (("simvq", "simvq-diagonal"), ("simvq-diagonal", "vq"))
            )
        )


class Frozen(_Study):
    """[1]: training the codes beside the map works about as well as leaving them as drawn."""

    name = "simvq-frozen"
    claim = "It makes little difference whether the codes under the map are trained, too"
    criterion = (
        f"With 1,024 codes and with 65,536, the mean squared errors of simvq and simvq-both over "
        f"the seeds differ by at most {EQUAL:.0%} of the lower"
    )
    variants: ClassVar[tuple[str, ...]] = tuple(
        f"{q}-{size}" for size in (1024, 65536) for q in ("simvq", "simvq-both")
    )

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        parts, because = [], []
        for size in (1024, 65536):
            frozen, both = (
                fmean(run.value("mse") for run in results.of(f"{q}-{size}").values())
                for q in ("simvq", "simvq-both")
            )
            part = abs(frozen - both) / min(frozen, both)
            parts.append(part)
            because.append(
                f"K {size:,}: squared error {frozen:.5f} with frozen codes, {both:.5f} with "
                f"trained ones, {part:.1%} apart"
            )
        return Verdict(holds=max(parts) <= EQUAL, because=tuple(because))
