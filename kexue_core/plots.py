"""Plots of experiments. matplotlib is a dependency of experiments alone, imported when drawing."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kexue_core.errors import PluginError

if TYPE_CHECKING:
    from kexue_core.experiments import Results

__all__ = ["figure", "plot_curves", "save"]


def figure(width: float = 6.4, height: float = 4.0) -> Any:
    """A figure of ``width`` x ``height`` inches that needs no display.

    Raises:
        PluginError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PluginError(
            "Plots need matplotlib", hint="Run `pip install matplotlib`; finished runs are kept"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def save(drawn: Any, path: Path) -> None:
    """Write a figure as PNG: small, and the same bytes for the same figure."""
    drawn.savefig(path, dpi=110, metadata={"Software": None})


def plot_curves(
    results: Results,
    metric: str,
    path: Path,
    *,
    variants: tuple[str, ...],
    title: str,
    xlabel: str = "step",
    ylabel: str | None = None,
) -> None:
    """One line a variant: the median over its seeds, in a band from the lowest to the highest.

    The axis fits the medians: one seed's spike would flatten all curves, and is cut off instead.
    """
    drawn = figure()
    axes = drawn.subplots()
    shown: list[float] = []
    for variant in variants:
        curves = [run.curves[metric] for run in results.of(variant).values()]
        # Seeds are measured at the same steps; a shorter curve would be a run that stopped early.
        points = list(zip(*curves, strict=True))
        steps = [p[0][0] for p in points]
        values = [[y for _, y in p] for p in points]
        medians = [statistics.median(v) for v in values]
        shown += medians
        [line] = axes.plot(steps, medians, label=variant, marker=".")
        axes.fill_between(
            steps,
            [min(v) for v in values],
            [max(v) for v in values],
            alpha=0.2,
            lw=0,
            color=line.get_color(),
        )
    axes.set_title(title, fontsize="medium")
    axes.set(xlabel=xlabel, ylabel=ylabel or metric)
    margin = 0.05 * (max(shown) - min(shown)) or 1.0
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.grid(alpha=0.3)
    axes.legend()
    save(drawn, path)
