"""What a recipe gives the loop, and what the loop gives a recipe.

The loop is a pure function of (config, data, seed): batch *t* is chosen by (seed, t) alone, and so
is every random number drawn in step *t*. Nothing about randomness has to be saved, a resumed run
continues bit for bit, and two processes with half the batch each draw what one would have drawn.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

__all__ = ["SPLITS", "Batch", "Card", "Dataset", "Recipe", "RecipeConfig", "Split", "StepContext"]

#: The parts of a data set: to train on, to watch and select by, to measure once at the end.
Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

#: Sizes and counts are below it: more is a slip, and too much for a C integer.
LARGEST = 2**31

#: Tensors of one batch by name; the first dimension is the sample.
Batch = Mapping[str, "Tensor"]


class Dataset(Protocol):
    """Data that is fetched by index, so that the order of batches is the loop's alone."""

    @property
    def name(self) -> str:
        """What result records and model cards call this data."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 over the content, so that a run cannot be resumed on other data."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """The samples at ``indices``, in that order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeConfig:
    """Settings that every recipe has. A subclass adds its own and overrides the defaults.

    Attributes:
        steps: Optimiser steps in all; schedules are laid over them.
        batch_size: Samples a step over all processes.
        ema: Decay of the weights' moving average in [0, 1), or 0 for none. The decay is ramped as
            min(ema, (1 + t) / (10 + t)), so that a short run is not held back by its start.
        evaluate_every: Steps between evaluations; also after the last step.
        preview_every: Steps between previews.
        checkpoint_every: Steps between checkpoints, on top of one every few minutes.

    The last three are 0 for never.

    Raises:
        ValueError: A value is out of range. Of a subclass's own settings these are checked too:
            ``size``, ``channels`` and what ends in ``_size`` or ``learning_rate`` is positive,
            ``warmup`` and what ends in ``_every`` or ``_decay`` is not negative.
    """

    steps: int = 10_000
    batch_size: int = 32
    ema: float = 0.999
    evaluate_every: int = 1_000
    preview_every: int = 1_000
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        # By name, because most settings of a recipe have one of a few meanings.
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if name in ("steps", "batch_size"):
                _demand(value >= 1, name, "at least 1", value)
                _demand(value < LARGEST, name, "below 2^31", value)
            elif name in ("size", "channels") or name.endswith("_size"):
                _demand(value > 0, name, "positive", value)
                _demand(value < LARGEST, name, "below 2^31", value)
            elif name.endswith("learning_rate"):
                _demand(0 < value < math.inf, name, "positive", value)
            elif name == "ema":
                _demand(0 <= value < 1, name, "in [0, 1)", value)
            elif name == "warmup" or name.endswith(("_every", "_decay")):
                _demand(0 <= value < math.inf, name, "at least 0", value)


def _demand(met: bool, name: str, what: str, value: float) -> None:
    if not met:
        raise ValueError(f"{name} must be {what}, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The part of a model card that only a person can write.

    Attributes:
        summary: What it is, in one or two sentences.
        data: Name, source and split of the training data.
        license: SPDX identifier, or ``LicenseRef-...`` where the data's terms bind.
        terms: What the data's terms allow and forbid, in a sentence.
        limits: What the weights are not good for.
    """

    summary: str
    data: str
    license: str
    terms: str
    limits: str


class StepContext(ABC):
    """What one step may ask of the loop."""

    step: int
    steps: int
    device: torch.device
    generator: torch.Generator

    @abstractmethod
    def noise(self, batch_rows: int, draw: str, *shape: int) -> Tensor:
        """Random numbers for this process's rows of the global batch, (batch_rows, *shape).

        ``draw`` is ``"normal"`` or ``"uniform"`` ([0, 1)). They are drawn for the whole global
        batch and sliced, so that the sum over processes does not depend on how many there are.
        """

    @abstractmethod
    def minimize(
        self, optimizer: str, loss: Tensor, *, clip: float | None = None
    ) -> Mapping[str, Tensor]:
        """Zero the gradients of ``optimizer``, back-propagate, clip the norm to ``clip``, step.

        Returns:
            ``{"grad_norm": scalar}``, the norm before clipping.

        Raises:
            NonFiniteLossError: ``loss`` or its gradient is NaN or infinite. Nothing was stepped.
        """


class Recipe(ABC):
    """One way to train one model. Subclassed in a plugin's ``recipes.py``.

    The loop makes it with its config, calls :meth:`build` under the run's seed, :meth:`start` once
    with the first batch of a new run, then :meth:`step` for every batch.
    """

    Config: ClassVar[type[RecipeConfig]] = RecipeConfig
    card: ClassVar[Card]

    def __init__(self, config: RecipeConfig) -> None:
        self.config = config

    @abstractmethod
    def data(self, source: str | None, split: Split) -> Dataset:
        """One split of the data.

        ``val`` is what a run is watched and selected by, ``test`` what is measured once at the end;
        no sample is in two of them. :func:`kexue_core.training.data.open_images` does this for
        images.

        Args:
            source: ``--data``: a path or Hub name; ``None`` for the recipe's public default.
            split: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            DataError: There is no such data, or it has no such split.
        """

    @abstractmethod
    def build(self) -> Mapping[str, nn.Module]:
        """The modules to train; ``"model"`` is the one that is published."""

    @abstractmethod
    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """The optimisers by name, over the parameters of ``modules``."""

    def learning_rate_scale(self, step: int) -> float:
        """Factor on every optimiser's learning rate at ``step`` (from 0). Constant by default."""
        return 1.0

    #: Samples that :meth:`start` wants; 0 for none.
    start_samples: ClassVar[int] = 0

    def start(self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext) -> None:
        """Data-dependent initialisation, once, before the first step. Nothing by default."""
        return

    @abstractmethod
    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """Train on one batch; return scalars to log. ``"loss"`` among them must stay finite.

        ``modules`` may be wrapped for several processes: call them, not their methods. A
        ``FloatingPointError`` ends the training like a loss that is not finite.
        """

    @abstractmethod
    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Metrics of ``model`` (the averaged weights) on ``data``, the first ``limit`` samples.

        A function of its arguments alone: any randomness has a fixed seed.
        """

    def finish(self, model: nn.Module) -> None:
        """Change a copy of the averaged model before it is published: what statistics of the
        training data say, for instance. Not part of a checkpoint; without randomness. Nothing by
        default.
        """
        return

    def preview(self, model: nn.Module) -> Tensor | None:
        """Images to look at, (n, 1 or 3, height, width) in [0, 1], or ``None``."""
        return None

    def preprocess(self) -> Mapping[str, Any]:
        """What goes into ``config.json`` under ``preprocess``: modality, size, range, crop."""
        return {}

    def sampler(self) -> tuple[str, Mapping[str, Any]] | None:
        """Default sampler of the weights and its options, or ``None``."""
        return None

    def requires(self) -> Sequence[str]:
        """References of weights that these cannot work without. None by default."""
        return ()

    def extra_files(self, folder: Path) -> None:
        """Write what belongs beside the weights (a vocabulary, say). Nothing by default."""
        return
