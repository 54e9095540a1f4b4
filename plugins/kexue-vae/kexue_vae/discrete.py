"""How the VAEs with discrete latents are trained: clusters, and categories.

References:
    [1] Su Jianlin, https://kexue.fm/archives/5887 and https://kexue.fm/archives/6705
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from kexue_core.training import Batch, Card, Dataset, RecipeConfig, StepContext
from kexue_vae.cluster import ClusterVAE, ClusterVAEConfig
from kexue_vae.gumbel import GumbelVAE, GumbelVAEConfig, gumbel
from kexue_vae.recipes import EVALUATION_BATCH, VAEMnist, VAEMnistConfig
from kexue_vae.vae import VAE

__all__ = ["ClusterMnist", "ClusterMnistConfig", "GumbelMnist", "GumbelMnistConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterMnistConfig(VAEMnistConfig):
    """Binarised MNIST in clusters.

    Attributes:
        clusters: Number of them.
        hidden: Width of the hidden layer of q(y|z).
    """

    steps: int = 20_000
    latent: int = 10
    iwae_steps: int = 0
    evaluation_samples: int = 100
    clusters: int = 10
    hidden: int = 256


class ClusterMnist(VAEMnist):
    """A VAE that clusters binarised MNIST."""

    Config: ClassVar[type[RecipeConfig]] = ClusterMnistConfig
    config: ClusterMnistConfig
    card: ClassVar[Card] = replace(
        VAEMnist.card,
        summary="VAE with ten class centres (normal latents, a softmax that assigns them) of "
        "binary MNIST digits. `kexue classify` names the cluster of an image.",
    )

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """The bounds and, where labels are known, the purity of the clusters."""
        found = dict(super().evaluate(model, data, limit=limit))
        if (share := purity(model, data, limit=limit)) is not None:
            found["cluster_purity"] = share
        return found

    def _model(self) -> VAE:
        c = self.config
        return ClusterVAE(ClusterVAEConfig(**self._shape(), clusters=c.clusters, hidden=c.hidden))


@dataclass(frozen=True, slots=True, kw_only=True)
class GumbelMnistConfig(VAEMnistConfig):
    """Binarised MNIST in categories.

    Attributes:
        latent: Number of categorical variables.
        categories: Values of each.
        tau: Temperature of the relaxation at the start and at the end, between them geometric.
    """

    steps: int = 20_000
    learning_rate: float = 1e-3
    latent: int = 30
    iwae_steps: int = 0
    evaluation_samples: int = 100
    categories: int = 10
    tau: tuple[float, float] = (1.0, 0.01)


class GumbelMnist(VAEMnist):
    """A VAE of binarised MNIST with categorical latents."""

    Config: ClassVar[type[RecipeConfig]] = GumbelMnistConfig
    config: GumbelMnistConfig
    card: ClassVar[Card] = replace(
        VAEMnist.card,
        summary="VAE with thirty categorical latents of ten values, trained through the Gumbel "
        "softmax, of binary MNIST digits.",
    )

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """As ever, at the temperature of the step."""
        model = modules["model"]
        bare = getattr(model, "module", model)  # wrapped where there are several processes
        assert isinstance(bare, GumbelVAE)
        bare.tau = self.tau(context.step)
        return super().step(modules, batch, context)

    def tau(self, step: int) -> float:
        """Temperature of the relaxation at `step`."""
        start, end = self.config.tau
        return float(start * (end / start) ** (step / max(1, self.config.steps - 1)))

    def _model(self) -> VAE:
        return GumbelVAE(GumbelVAEConfig(**self._shape(), categories=self.config.categories))

    def _noise(self, rows: int, samples: int, context: StepContext) -> Tensor:
        c = self.config
        return gumbel(context.noise(rows, "uniform", samples, c.latent, c.categories))


def purity(model: nn.Module, data: Dataset, *, limit: int | None = None) -> float | None:
    """Share of images with the commonest label of their cluster; ``None`` without labels.

    At least the share of the commonest label, and 1 for clusters of a single image: to be compared
    at an equal number of clusters only.
    """
    assert isinstance(model, ClusterVAE)
    n = min(len(data), limit or len(data))
    first = next(model.parameters())
    clusters, labels = [], []
    for start in range(0, n, EVALUATION_BATCH):
        batch = data.batch(range(start, min(n, start + EVALUATION_BATCH)))
        if "label" not in batch:
            return None
        image = batch["image"].to(first.device, first.dtype)
        clusters.append(model.clusters(image).argmax(1).cpu())
        labels.append(batch["label"])
    cluster, label = torch.cat(clusters), torch.cat(labels)
    table = torch.zeros(model.config.clusters, int(label.max()) + 1, dtype=torch.int64)
    table.index_put_((cluster, label), torch.ones_like(label), accumulate=True)
    return float(table.amax(1).sum()) / n
