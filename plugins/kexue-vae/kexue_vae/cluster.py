"""Clustering by a VAE whose latent is a class and a point near the class's centre.

    log p(x) >= E_q(z|x) [log p(x|z) - log q(z|x)
                          + sum_y q(y|z) (log p(z|y) + log p(y) - log q(y|z))]           [1, eq 7]

with p(z|y) = N(mu_y, I) around learned centres, p(y) uniform, and q(y|z) a softmax network. The
bound is that of the mixture prior where q(y|z) is the exact p(y|z), and below it by KL(q || p)
otherwise.

References:
    [1] Su Jianlin, https://kexue.fm/archives/5887
    [2] Jiang et al., Variational Deep Embedding, 2016. https://arxiv.org/abs/1611.05148
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kexue_vae.centres import draw_around
from kexue_vae.networks import dense
from kexue_vae.vae import VAE, Posterior, VAEConfig, log_normal

__all__ = ["ClusterVAE", "ClusterVAEConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterVAEConfig(VAEConfig):
    """A VAE's config.

    Args:
        clusters: number of clusters.
        hidden: width of the hidden layer of q(y|z); 0 for a linear one.
    """

    clusters: int = 10
    hidden: int = 256

    def __post_init__(self) -> None:
        # slots=True makes a second class, which leaves super() without arguments behind.
        super(ClusterVAEConfig, self).__post_init__()
        if self.clusters < 1 or self.hidden < 0:
            raise ValueError(
                f"clusters must be at least 1 and hidden at least 0, "
                f"got {self.clusters} and {self.hidden}"
            )


class ClusterVAE(VAE):
    """A VAE with class centres and a softmax q(y|z): `prior` alone takes labels, those it found."""

    config: ClusterVAEConfig

    def __init__(self, config: ClusterVAEConfig) -> None:
        super().__init__(config)
        self.centres = nn.Parameter(torch.randn(config.clusters, config.latent))
        widths = [config.hidden] if config.hidden else []
        self.assign = nn.Sequential(*dense([config.latent, *widths, config.clusters]))

    def log_prior(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """sum_y q(y|z) (log p(z|y) + log p(y) - log q(y|z)) of z (n, k, d), (n, k).

        At most log p(z), the logarithm of the mixture.
        """
        self._refuse(condition)
        log_q = self.assign(z).log_softmax(2)  # (n, k, clusters)
        joint = log_normal(z[:, :, None], self.centres) - math.log(self.config.clusters)
        bound: Tensor = (log_q.exp() * (joint - log_q)).sum(2)
        return bound

    def kl(self, posterior: Posterior, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The KL by parts, (n, d + 1): of each dimension of z, and of y.

        Of a dimension, given y, the closed form of a normal to N(mu_y, 1), weighted by q(y|z) at
        the samples z (n, k, d); of y, KL(q(y|z) || uniform). Together, an estimate of the KL of
        (y, z), which has no closed form.
        """
        self._refuse(condition)
        _, log_var = posterior
        log_q = self.assign(z).log_softmax(2)
        q = log_q.exp()
        # sum_y q(y|z) (z - mu_y)^2, the mean of which holds sigma^2 already.
        squares = z.square() - 2 * z * (q @ self.centres) + q @ self.centres.square()
        of_z = 0.5 * (squares.mean(1) - log_var - 1)
        of_y = (q * (log_q + math.log(self.config.clusters))).sum(2).mean(1)
        return torch.cat([of_z, of_y[:, None]], dim=1)

    @torch.no_grad()
    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Latents (n, d) of N(mu_y, temperature^2), with y as the condition (n,) says, or drawn.

        Drawn on the CPU one after the other: latent i is the same however many are drawn.
        """
        return draw_around(
            self.centres, n, temperature=temperature, labels=condition, generator=generator
        )

    @torch.no_grad()
    def clusters(self, x: Tensor) -> Tensor:
        """q(y|z) at the mean of q(z|x), (n, clusters), of images in [0, 1]."""
        probabilities: Tensor = self.assign(self.to_latent(x)).softmax(1)
        return probabilities

    def classify(self, x: Tensor) -> list[list[tuple[str, float]]]:
        """For each image its clusters ("0", "1", ...) with their probabilities, best first.

        The numbers of clusters mean nothing but being the same or not.
        """
        scores, order = self.clusters(x).float().sort(dim=1, descending=True, stable=True)
        return [
            [(str(y), score) for y, score in zip(ys, row, strict=True)]
            for ys, row in zip(order.tolist(), scores.clamp(0, 1).tolist(), strict=True)
        ]
