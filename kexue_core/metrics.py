"""Metrics of any weights that have a capability, beside what their own recipe measures.

A plugin subclasses :class:`Metric` and names the class in the entry-point group ``kexue.metrics``,
from whose metadata they are listed without an import::

    [project.entry-points."kexue.metrics"]
    sample-quality = "kexue_metrics.evaluation:SampleQualityMetric"

``kexue eval NAME --metrics sample-quality`` makes result records of what it measures.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from kexue_core.distributions import entry_points
from kexue_core.errors import AmbiguousNameError, DataError, NotFoundError, PluginError
from kexue_core.names import did_you_mean, normalize

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from kexue_core.folder import WeightsConfig
    from kexue_core.training.data import Images
    from kexue_core.training.recipe import Split

__all__ = ["GROUP", "Found", "Measurement", "Metric", "Subject", "find_metric", "metric_names"]

#: Entry-point group of metrics: ``name = "module:Class"``.
GROUP = "kexue.metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a metric measures, and on what.

    Attributes:
        name: The reference that was asked for.
        model: The weights, loaded and in eval mode.
        config: Their ``config.json``.
        source: ``--data``: a path or Hub name.
        split: What to compare with or to measure on.
        limit: Samples asked for, or ``None``.
        device: Where the model is.
    """

    name: str
    model: nn.Module
    config: WeightsConfig
    source: str | None
    split: Split
    limit: int | None
    device: torch.device

    def images(self, split: Split) -> Images:
        """Real images of one split, prepared as the ``preprocess`` of the weights says.

        Raises:
            DataError: No data was named, it has no such split, or the weights are not of images.
        """
        from kexue_core.training.data import open_images

        prepare = self.config.preprocess
        shape = tuple(getattr(self.model, "data_shape", ()))
        shape = shape if len(shape) == 3 else (3, None, None)
        channels, size = prepare.get("channels", shape[0]), prepare.get("size", shape[1])
        if prepare.get("modality", "image") != "image" or not isinstance(size, int):
            raise DataError(
                f"{self.name} says of no size that images should have, so none can be compared"
            )
        if self.source is None:
            raise DataError(f"Real images to hold {self.name} against are needed: --data PATH")
        crop = prepare.get("crop")
        return open_images(
            self.source,
            split,
            size=size,
            channels=channels,
            crop=crop if isinstance(crop, int) else None,
            fit="pad" if prepare.get("fit") == "pad" else "crop",
        )

    def sample(
        self,
        n: int,
        *,
        seed: int,
        sampler: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Draw ``n`` samples, as :func:`kexue_core.sample` does.

        Returns:
            The samples on the CPU, and what a record says of how they were drawn: the sampler's
            name and all its options.
        """
        from kexue_core import api

        chosen, settings = api.sampling(self.model, sampler=sampler, **(options or {}))
        drawn = api.sample(self.model, n, seed=seed, sampler=sampler, **(options or {}))
        return drawn.detach().cpu(), {"sampler": chosen.name, "options": settings}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a metric found; each value becomes a result record.

    Attributes:
        values: Metric -> value, in the order in which they are shown.
        floors: Metric -> what real data get in place of samples, for those that have it.
        n: Samples behind them.
        seed: Seed of everything random.
        dataset: Name of the real data.
        settings: Whatever else the values depend on. Where a classifier's features are compared,
            ``features`` is its name and the sha256 of its weights, ``name@sha256``: tables and
            cards show it, and the ``sampler`` with its ``options``.
    """

    values: Mapping[str, float]
    n: int
    seed: int
    dataset: str
    floors: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


class Metric(ABC):
    """One way to measure weights. Subclassed in a plugin, made with its settings.

    Attributes:
        Config: Frozen dataclass of the settings that ``--set`` gives.
        verb: What the weights must be able to do.
    """

    Config: ClassVar[type[Any]]
    verb: ClassVar[str] = "sample"

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Measure.

        Raises:
            KexueError: The data, the settings or the weights do not suffice; it is said why.
        """


class Found(NamedTuple):
    """A metric with who brings it."""

    name: str
    distribution: str
    factory: type[Metric]


def metric_names() -> list[str]:
    """The metrics of the installed distributions, by name. Imports none of them."""
    return sorted({entry.name for entry in entry_points(GROUP)})


def find_metric(name: str) -> Found:
    """Import a metric; ``name`` may be qualified as ``distribution::name``.

    Raises:
        NotFoundError: Nothing installed brings it.
        AmbiguousNameError: Several distributions do.
        PluginError: It does not import, or is no metric.
    """
    qualifier, _, bare = name.rpartition("::")
    known = entry_points(GROUP)
    found = [e for e in known if e.name == bare and normalize(qualifier) in ("", e.distribution)]
    if not found:
        names = ", ".join(metric_names())
        raise NotFoundError(
            f"No installed plugin brings the metric {name!r}",
            hint=did_you_mean(bare, {e.name for e in known})
            or (f"There are {names}" if names else "`kexue install kexue-metrics` brings some"),
        )
    if len(found) > 1:
        forms = " or ".join(f"{e.distribution}::{e.name}" for e in found)
        raise AmbiguousNameError(f"Several plugins bring {bare!r}", hint=f"Write {forms}")
    [entry] = found
    module, _, attribute = entry.value.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may do anything while it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(
            f"The metric {bare!r} of {entry.distribution} cannot be loaded: {reason}",
            hint=f"Update it: pip install --upgrade {entry.distribution}",
        ) from error
    if not isinstance(factory, type) or not issubclass(factory, Metric):
        raise PluginError(
            f"{entry.value} of {entry.distribution} is no subclass of kexue_core.metrics.Metric",
            hint="Correct the entry point",
        )
    return Found(bare, entry.distribution, factory)
