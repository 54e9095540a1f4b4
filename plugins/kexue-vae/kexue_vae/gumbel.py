"""A VAE with categorical latents, trained through the Gumbel-softmax relaxation.

A sample of a categorical q is the argmax of log q + g, g standard Gumbel noise; its relaxation is
softmax((log q + g) / tau) [1, eq 2], which has a gradient and becomes one-hot as tau goes to 0.
The KL to uniform categories is exact: sum_c q_c (log q_c + log K).

References:
    [1] Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2016.
        https://arxiv.org/abs/1611.01144
    [2] Su Jianlin, https://kexue.fm/archives/6705
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_vae.vae import VAE, Posterior, VAEConfig

__all__ = ["GumbelVAE", "GumbelVAEConfig", "gumbel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GumbelVAEConfig(VAEConfig):
    """A VAE's config, `latent` being the number of categorical variables.

    Args:
        categories: values of each variable.
    """

    latent: int = 30
    categories: int = 10

    def __post_init__(self) -> None:
        # slots=True makes a second class, which leaves super() without arguments behind.
        super(GumbelVAEConfig, self).__post_init__()
        if self.categories < 2:
            raise ValueError(f"categories must be at least 2, got {self.categories}")


class GumbelVAE(VAE):
    """A VAE with uniform categorical latents; they are categories, (n, latent), int64.

    In training mode samples are relaxed at the temperature `tau`, an attribute that training lowers
    from 1; in eval mode they are one-hot, and bounds are those of the discrete model.
    """

    config: GumbelVAEConfig

    def __init__(self, config: GumbelVAEConfig) -> None:
        super().__init__(config)
        self.tau = 1.0

    @property
    def encoder_outputs(self) -> int:
        """A logit a category."""
        return self.config.latent * self.config.categories

    @property
    def decoder_inputs(self) -> int:
        """All one-hot vectors, one after the other."""
        return self.config.latent * self.config.categories

    def posterior(self, x: Tensor) -> Posterior:
        """log q(z|x) of every category, (n, latent, categories)."""
        logits = self._run(self.encoder, x)
        shape = (len(x), self.config.latent, self.config.categories)
        return (logits.view(shape).log_softmax(2),)

    def sample(self, posterior: Posterior, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One-hot or relaxed z, (n, k, latent, categories), and log q(z|x) in nats, (n, k).

        log q of a relaxed z is the linear function that is right where z is one-hot.
        """
        (log_q,) = posterior
        perturbed = log_q[:, None] + noise
        if self.training:
            z = (perturbed / self.tau).softmax(3)
        else:
            z = F.one_hot(perturbed.argmax(3), self.config.categories).to(noise.dtype)
        return z, (z * log_q[:, None]).sum((2, 3))

    def log_prior(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """log p(z), the same for all z: (n, k)."""
        self._refuse(condition)
        value = -self.config.latent * math.log(self.config.categories)
        return z.new_full(z.shape[:2], value)

    def kl(self, posterior: Posterior, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """KL of each variable to uniform categories, (n, latent), exactly."""
        self._refuse(condition)
        (log_q,) = posterior
        return (log_q.exp() * (log_q + math.log(self.config.categories))).sum(2)

    def noise(self, n: int, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard Gumbel noise on the CPU, (n, samples, latent, categories)."""
        uniform = torch.empty(n, samples, self.config.latent, self.config.categories)
        for rows in uniform if generator is not None else [uniform]:
            rows.uniform_(generator=generator)
        return gumbel(uniform)

    @torch.no_grad()
    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Uniform categories (n, latent), drawn on the CPU one after the other.

        There is no spread to lower: `temperature` is accepted and changes nothing.
        """
        self._refuse(condition)
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        codes = torch.empty(n, self.config.latent, dtype=torch.int64)
        for one in codes:
            one.random_(self.config.categories, generator=generator)
        return codes.to(next(self.parameters()).device)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Categories (n, latent) -> the mean of p(x|z), (n, C, H, W) in [0, 1]."""
        c = self.config
        if z.ndim != 2 or z.shape[1] != c.latent or z.is_floating_point():
            raise ValueError(
                f"latents must be whole numbers (n, {c.latent}), not {z.dtype} {tuple(z.shape)}"
            )
        if z.numel() and not (z.min() >= 0 and z.max() < c.categories):
            raise ValueError(
                f"categories must be in 0..{c.categories - 1}, got {int(z.min())}..{int(z.max())}"
            )
        first = next(self.parameters())
        one_hot = F.one_hot(z.to(first.device), c.categories).to(first.dtype)
        return self.likelihood.mean(self._run(self.decoder, one_hot.flatten(1)))

    @torch.no_grad()
    def to_latent(self, x: Tensor) -> Tensor:
        """Images in [0, 1] -> the most probable categories, (n, latent)."""
        self.check(x, quantized=False)
        return self.posterior(x)[0].argmax(2)


def gumbel(uniform: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) as standard Gumbel noise, -log(-log u), always finite."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -(-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()
