"""The truncation trick: latents from a normal distribution whose tails are cut off.

A generator has seen few latents far out, and fails there more often. Drawing from within
``truncation`` deviations gives up variety for fidelity [1, section 3.1]. Where [1] draws again what
falls outside, here every number is moved to its own quantile of the truncated normal: sample *i*
of a seed stays the same image, a little nearer the middle, and no generator of random numbers is
asked a number of times that depends on luck.

References:
    [1] Brock, Donahue & Simonyan, Large Scale GAN Training, 2019. https://arxiv.org/abs/1809.11096
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kexue_core.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

    from kexue_core.interfaces import Generator

__all__ = ["truncate", "truncated_prior"]


@torch.no_grad()
def truncated_prior(
    model: Generator,
    n: int,
    *,
    generator: torch.Generator,
    truncation: float = 1.5,
    batch_size: int = 16,
) -> Tensor:
    """Draw ``n`` samples from latents within ``truncation`` deviations of the prior N(0, I).

    Args:
        model: A generator whose prior is standard normal, as those of this plugin.
        n: Number of samples, >= 0.
        generator: Source of all randomness, on the CPU.
        truncation: Bound on every number of a latent, > 0, in standard deviations.
        batch_size: Samples decoded at once.

    Returns:
        Data in [0, 1], (n, *data_shape).

    Raises:
        ConfigError: ``n`` is negative, ``truncation`` not positive, or ``batch_size`` below 1.
        UnsupportedError: The model's latents are no single tensor.
    """
    if n < 0 or batch_size < 1 or not truncation > 0:
        raise ConfigError(
            f"Cannot draw n={n} in batches of {batch_size} with truncation {truncation}",
            hint="n must be >= 0, batch_size >= 1, truncation > 0",
        )
    batches = []
    for start in range(0, max(n, 1), batch_size):
        count = min(batch_size, n - start)
        latent = model.prior(count, generator=generator)
        if not isinstance(latent, torch.Tensor):
            raise UnsupportedError(
                f"{type(model).__name__} has latents in several parts",
                hint="Sample with latent-prior and a temperature below 1",
            )
        latent = truncate(latent, truncation)
        # A batch of one takes other convolution kernels, whose last bits differ: it gets company.
        alone = torch.cat([latent, latent]) if count == 1 else latent
        batches.append(model.decode(alone)[:count])
    return torch.cat(batches)


def truncate(z: Tensor, bound: float) -> Tensor:
    """Standard normal numbers at the same quantiles of the normal truncated to [-bound, bound].

    Phi^-1(Phi(-bound) + Phi(z) (Phi(bound) - Phi(-bound))), in float64.
    """
    edge = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64))
    # By |z|: beyond 8 deviations Phi(z) is 1 in any precision, and Phi(-z) is not.
    tail = torch.special.ndtr(-z.double().abs().cpu())
    moved = -torch.special.ndtri(edge + tail * (1 - 2 * edge)) * z.cpu().sign()
    bounded: Tensor = moved.clamp(-bound, bound).to(z)
    return bounded
