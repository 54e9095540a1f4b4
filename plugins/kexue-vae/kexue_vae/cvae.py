"""A VAE whose prior has one mean a class: asking for a class is drawing from its prior.

    KL(N(mean, sigma^2) || N(mu_Y, 1)) = 1/2 sum (mean - mu_Y)^2 + sigma^2 - log sigma^2 - 1     [1]

The label enters by mu_Y alone, a learned row of a table; encoder and decoder do not see it. Without
a label the prior is the mixture of all classes, each as likely as the others.

References:
    [1] Su Jianlin, https://kexue.fm/archives/5253, the section on CVAE
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kexue_vae.centres import centre_of, draw_around
from kexue_vae.vae import VAE, Posterior, VAEConfig, log_normal

__all__ = ["CVAE", "CVAEConfig", "cvae_example_input"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CVAEConfig(VAEConfig):
    """A VAE's config.

    Args:
        classes: number of classes; labels are 0 to classes - 1.
    """

    classes: int = 10

    def __post_init__(self) -> None:
        # slots=True makes a second class, which leaves super() without arguments behind.
        super(CVAEConfig, self).__post_init__()
        if self.classes < 1:
            raise ValueError(f"classes must be at least 1, got {self.classes}")


class CVAE(VAE):
    """A VAE with a class-wise prior. The condition of all its methods is labels, (n,), int64."""

    config: CVAEConfig

    def __init__(self, config: CVAEConfig) -> None:
        super().__init__(config)
        # Apart from the start: means that are equal would have to be told apart first.
        self.prior_mean = nn.Parameter(torch.randn(config.classes, config.latent))

    def log_prior(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """log p(z|label) of z (n, k, d), or log p(z) where there is no label: (n, k) nats."""
        if condition is not None:
            return log_normal(z, centre_of(condition, self.prior_mean)[:, None])
        each = log_normal(z[:, :, None], self.prior_mean)  # (n, k, classes)
        return torch.logsumexp(each, dim=2) - math.log(self.config.classes)

    def kl(self, posterior: Posterior, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """KL to the prior of the label a dimension, (n, d) [1]; it has no form without a label."""
        if condition is None:
            raise ValueError("the KL to a class-wise prior needs labels: give condition (n,)")
        mean, log_var = posterior
        squares = (mean - centre_of(condition, self.prior_mean)).square()
        return 0.5 * (squares + log_var.exp() - log_var - 1)

    @torch.no_grad()
    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Latents (n, d) of N(mu_label, temperature^2); labels that are not given are drawn too.

        Drawn on the CPU one after the other: latent i is the same however many are drawn.
        """
        return draw_around(
            self.prior_mean, n, temperature=temperature, labels=condition, generator=generator
        )


def cvae_example_input(model: CVAE, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images and labels of the conformance kit."""
    images = torch.empty(n, *model.data_shape)
    for one in images:
        one.uniform_(generator=generator)
    return images, torch.arange(n) % model.config.classes
