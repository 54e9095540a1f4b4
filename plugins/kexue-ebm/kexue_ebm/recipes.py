"""How the weights of this plugin are trained.

Contrastive divergence with persistent chains after [1], at a size that one core trains in three
quarters of an hour. Nearly all of the time goes into the chains, so their network runs in bfloat16,
whose rounding is far below their noise; the pass that the weights learn from is in float32.

References:
    [1] Du & Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019.
        https://arxiv.org/abs/1903.08689
    [2] Su Jianlin, https://kexue.fm/archives/6612
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kexue_core.errors import NonFiniteLossError
from kexue_core.training import (
    Batch,
    Card,
    Dataset,
    Recipe,
    RecipeConfig,
    Split,
    StepContext,
)
from kexue_core.training.data import open_images
from kexue_ebm.chains import DivergedChainError, Field, frozen
from kexue_ebm.dynamics import igebm_chain
from kexue_ebm.energy import EBM, Activation, EBMConfig
from kexue_ebm.losses import ContrastiveDivergence
from kexue_ebm.ood import GaussianScore, compare_scores, grey_fraction, images_of
from kexue_ebm.replay import ReplayBuffer, dequantize
from kexue_ebm.samplers import igebm_langevin

__all__ = [
    "EBMFashion",
    "EBMFashionQuick",
    "EBMMnist",
    "EBMMnistQuick",
    "EBMQuickConfig",
    "EBMTrainingConfig",
]

#: Beyond this a run never came back to its senses, in the experience of those who trained such
#: models (the authors of JEM stop there).
LARGEST_LOSS = 1e8
PREVIEW_IMAGES = 32
PREVIEW_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EBMTrainingConfig(RecipeConfig):
    """Settings of an energy's training.

    Attributes:
        size: Side of the images in pixels.
        channels: 3 for RGB, 1 for grey.
        width: Channels of the first convolution; [1] has 64, for an accelerator.
        net, activation, spectral_norm: See :class:`kexue_ebm.energy.EBMConfig`.
        learning_rate: Adam's at its height, with beta1 = 0: momentum would chase samples that have
            moved on.
        warmup: Optimiser steps over which it rises; then it falls to a tenth as a cosine.
        clip: Bound on the gradient's norm.
        l2: Weight of the squared energies.
        data_noise: Deviation of what is added to data, on top of dequantisation.
        chain_steps: Length of the chains of a step.
        step_size, noise_scale, gradient_clip: Of the chains, in images of [0, 1].
        buffer: Size of the replay buffer; 0 starts all chains from noise.
        restart: Share of chains that start from noise all the same.
        kept: Of the buffer, how many are published with the weights.
        sample_steps: Length of the chains that start from noise, in the published settings.
        chain_dtype: Number type of the network in the chains.
        outside: Path or Hub name of images of another kind, which evaluation tells from the data;
            uniform noise alone where empty.
    """

    steps: int = 9_000
    batch_size: int = 64
    ema: float = 0.998
    evaluate_every: int = 1_500
    preview_every: int = 1_500
    checkpoint_every: int = 500
    size: int = 28
    channels: int = 1
    width: int = 16
    net: Literal["conv", "resnet"] = "conv"
    activation: Activation = "swish"
    spectral_norm: bool = False
    learning_rate: float = 5e-4
    warmup: int = 100
    clip: float = 1.0
    l2: float = 0.1
    data_noise: float = 0.02
    chain_steps: int = 20
    step_size: float = 2.5
    noise_scale: float = 0.005
    gradient_clip: float = 0.06
    buffer: int = 2_500
    restart: float = 0.05
    kept: int = 128
    sample_steps: int = 400
    chain_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    outside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EBMQuickConfig(EBMTrainingConfig):
    """A minute or so of one core: to see that everything runs, not to look at."""

    steps: int = 300
    batch_size: int = 32
    evaluate_every: int = 0
    preview_every: int = 0
    checkpoint_every: int = 100
    width: int = 8
    warmup: int = 20
    chain_steps: int = 10
    buffer: int = 500
    kept: int = 32
    sample_steps: int = 100


class EBMMnist(Recipe):
    """A convolutional energy of MNIST."""

    Config: ClassVar[type[RecipeConfig]] = EBMTrainingConfig
    config: EBMTrainingConfig
    #: Public data that a stranger can train on.
    hub: ClassVar[str] = "ylecun/mnist"
    card: ClassVar[Card] = Card(
        summary="Energy-based model of MNIST at 28x28, trained by contrastive divergence with a "
        "replay buffer. Samples are the ends of chains that follow its gradient, from noise or "
        "from the small buffer in the weights; its energy scores images.",
        data="MNIST (LeCun, Cortes & Burges; yann.lecun.com/exdb/mnist)",
        license="MIT",
        terms="MNIST is free to use; these weights are under the MIT licence.",
        limits="Small, and trained for three quarters of an hour of one core. Chains hold only "
        "with the settings of these weights, which come with them. The energy is no likelihood. "
        "As a detector it is worth something only where its `auroc_` exceeds both figures that "
        "need no training: `_grey` (share of grey pixels, better direction) and `_gaussian` (one "
        "Gaussian of the training images), on the same images; where it does not, use those.",
    )

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        self._opened = False
        self._source: str | None = None
        self._gaussian: GaussianScore | None = None

    def data(self, source: str | None, split: Split) -> Dataset:
        """Images, resized to the config's size."""
        self._opened, self._source = True, source
        c = self.config
        return open_images(source or self.hub, split, size=c.size, channels=c.channels)

    def build(self) -> Mapping[str, nn.Module]:
        """A new energy, and a replay buffer full of noise."""
        c = self.config
        model = EBM(
            EBMConfig(
                size=c.size,
                channels=c.channels,
                width=c.width,
                net=c.net,
                activation=c.activation,
                spectral_norm=c.spectral_norm,
                replay=min(c.kept, c.buffer),
            )
        )
        model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Without a buffer there still is one, whose entries are always started afresh.
        restart = c.restart if c.buffer else 1.0
        replay = ReplayBuffer(max(1, c.buffer), model.data_shape, restart=restart)
        return {"model": model, "replay": replay}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """Adam without momentum."""
        parameters = modules["model"].parameters()
        return {
            "model": torch.optim.Adam(parameters, lr=self.config.learning_rate, betas=(0.0, 0.999))
        }

    def learning_rate_scale(self, step: int) -> float:
        """A linear rise, then half a cosine down to a tenth."""
        c = self.config
        rise = min(1.0, (step + 1) / c.warmup) if c.warmup else 1.0
        return rise * (0.1 + 0.45 * (1 + math.cos(math.pi * step / c.steps)))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """Run the chains on, then lower the energy of data and raise that of their ends."""
        image = batch["image"]
        rows, shape = len(image), image.shape[1:]
        data = dequantize(255 * image, context.noise(rows, "uniform", *shape))
        data += self.config.data_noise * context.noise(rows, "normal", *shape)
        samples = self._chains(modules, rows, context)
        # One pass over both: spectral normalisation advances once a step, and so do both energies.
        energies = modules["model"](torch.cat([data, samples]))
        below, above = energies.split(rows)
        loss = ContrastiveDivergence(self.config.l2)(below, above)
        if loss.detach().abs() > LARGEST_LOSS:
            raise NonFiniteLossError(
                f"The loss is {float(loss.detach()):.3g} at step {context.step:,}: it diverges"
            )
        return {
            "loss": loss,
            "energy_data": below.mean(),
            "energy_samples": above.mean(),
            **context.minimize("model", loss, clip=self.config.clip),
        }

    def _chains(self, modules: Mapping[str, nn.Module], rows: int, context: StepContext) -> Tensor:
        """Chains from the buffer and back into it; their ends, (rows, C, H, W)."""
        c = self.config
        model = getattr(modules["model"], "module", modules["model"])
        replay = modules["replay"]
        assert isinstance(model, EBM)
        assert isinstance(replay, ReplayBuffer)
        shape = model.data_shape
        x, entries = replay.start(
            context.noise(rows, "uniform", 2), context.noise(rows, "uniform", *shape)
        )
        with frozen(model):
            field = Field(model, torch.bfloat16 if c.chain_dtype == "bfloat16" else None)
            try:
                igebm_chain(
                    field,
                    x,
                    _StepNoise(context, rows, shape),
                    steps=c.chain_steps,
                    step_size=c.step_size,
                    noise_scale=c.noise_scale,
                    clip=c.gradient_clip,
                )
            except DivergedChainError as error:
                raise NonFiniteLossError(
                    f"{error.message} of the chains of training step {context.step:,}"
                ) from error
        # Every process keeps the whole buffer, so that a checkpoint of one is that of all.
        replay.put(_of_all(entries), _of_all(x))
        model.replay.copy_(replay.data[: len(model.replay)])
        return x

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """How well the energy, and two scores that need no training, tell data from what is not.

        Areas under the curve, of uniform noise (``auroc_uniform``) and of ``outside`` images
        (``auroc_outside``), each beside ``_grey`` and ``_gaussian``.
        """
        assert isinstance(model, EBM)
        c = self.config
        device = next(model.parameters()).device
        n = min(len(data), limit or len(data))
        inside = list(images_of(data, n))
        generator = torch.Generator().manual_seed(0)
        outside = {"uniform": [torch.rand(x.shape, generator=generator) for x in inside]}
        if c.outside:
            split: Split = getattr(data, "split", "val")
            other = open_images(c.outside, split, size=c.size, channels=c.channels)
            outside["outside"] = list(images_of(other, min(n, len(other))))
        scores: dict[str, Any] = {
            "": lambda x: model.energy(x.to(device)),
            "grey": grey_fraction,
        }
        if self._opened:
            scores["gaussian"] = self._fitted()
        areas = compare_scores(scores, inside, outside)
        return {
            f"auroc_{name}{f'_{score}' if score else ''}": areas[name, score]
            for name in reversed(outside)
            for score in scores
        }

    def _fitted(self) -> GaussianScore:
        """A Gaussian of the training images, of the source that was opened last."""
        if self._gaussian is None:
            self._gaussian = GaussianScore.fit(self.data(self._source, "train"))
        return self._gaussian

    def preview(self, model: nn.Module) -> Tensor:
        """Chains from noise, then as many from the kept buffer."""
        assert isinstance(model, EBM)
        options = {**self.sampler()[1], "batch_size": PREVIEW_BATCH}
        rows = []
        for start in ("uniform", "replay") if len(model.replay) else ("uniform",):
            generator = torch.Generator().manual_seed(0)
            drawn = igebm_langevin(
                model, PREVIEW_IMAGES, generator=generator, **{**options, "start": start}
            )
            rows.append(drawn)
        return torch.cat(rows)

    def preprocess(self) -> Mapping[str, Any]:
        """What ``config.json`` says of the images."""
        c = self.config
        return {"modality": "image", "size": c.size, "channels": c.channels, "range": [0, 1]}

    def sampler(self) -> tuple[str, Mapping[str, Any]]:
        """The chains of training, long enough to come from noise."""
        c = self.config
        return "igebm-langevin", {
            "steps": c.sample_steps,
            "step_size": c.step_size,
            "noise_scale": c.noise_scale,
            "clip": c.gradient_clip,
            "start": "uniform",
            "batch_size": PREVIEW_BATCH,
        }


class EBMFashion(EBMMnist):
    """A convolutional energy of Fashion-MNIST."""

    hub: ClassVar[str] = "zalando-datasets/fashion_mnist"
    card: ClassVar[Card] = Card(
        summary=EBMMnist.card.summary.replace("MNIST", "Fashion-MNIST"),
        data="Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017; arXiv 1708.07747)",
        license="MIT",
        terms="Fashion-MNIST is under the MIT licence, and so are these weights.",
        limits=f"{EBMMnist.card.limits} Digits of MNIST get lower energies than clothes do "
        "(`auroc_outside` is below both): images simpler than the data are not told from it.",
    )


class EBMMnistQuick(EBMMnist):
    """The same in a minute."""

    Config: ClassVar[type[RecipeConfig]] = EBMQuickConfig


class EBMFashionQuick(EBMFashion):
    """The same in a minute."""

    Config: ClassVar[type[RecipeConfig]] = EBMQuickConfig


class _StepNoise:
    """The noise of a training step as chains ask for it: drawn for all processes, keyed by step."""

    def __init__(self, context: StepContext, rows: int, shape: tuple[int, ...]) -> None:
        self._context, self._rows, self._shape = context, rows, shape

    def normal(self) -> Tensor:
        """Standard normal, (rows, *shape)."""
        return self._context.noise(self._rows, "normal", *self._shape)

    def uniform(self) -> Tensor:
        """Uniform in [0, 1), (rows,)."""
        return self._context.noise(self._rows, "uniform")


def _of_all(x: Tensor) -> Tensor:
    """The rows of all processes, in their order."""
    if not torch.distributed.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)
