"""The training losses: the negative evidence lower bound and the negative IWAE bound.

Every reduction is over images. Sums over values and dimensions were made before, in nats: an image
of 784 values has a loss near 100, not near 0.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ELBO", "IWAE", "elbo_example", "iwae_example"]

REDUCTIONS = ("mean", "sum", "none")


class ELBO(nn.Module):
    """-E log p(x|z) + beta KL(q(z|x) || p(z)) [1, eq 3].

    Args:
        beta: Weight of the KL. Below 1 it is relaxed while z is being learned; anything but 1 is
            no bound of log p(x) [2].
        free_bits: Nats a dimension that cost nothing: where the mean KL of a dimension over the
            batch is below, that constant takes its place and its gradient is zero [3, eq 15].
        reduction: "mean", "sum" or "none" over the images.

    Raises:
        ValueError: beta or free_bits is negative, or reduction none of the three.

    References:
        [1] Kingma & Welling, 2013. https://arxiv.org/abs/1312.6114
        [2] Higgins et al., beta-VAE, ICLR 2017
        [3] Kingma et al., Inverse Autoregressive Flow, 2016. https://arxiv.org/abs/1606.04934

    Example:
        >>> terms = vae(x)  # doctest: +SKIP
        >>> loss = ELBO()(terms.log_likelihood, terms.kl)  # doctest: +SKIP
    """

    def __init__(
        self, *, beta: float = 1.0, free_bits: float = 0.0, reduction: str = "mean"
    ) -> None:
        super().__init__()
        if not beta >= 0 or not free_bits >= 0:
            raise ValueError(f"beta {beta} and free_bits {free_bits} must be at least 0")
        self.beta, self.free_bits = beta, free_bits
        self.reduction = _checked(reduction)

    def forward(self, log_likelihood: Tensor, kl: Tensor) -> Tensor:
        """log p(x|z) (n, k) and the KL by dimensions (n, d), in nats -> a scalar, or (n,)."""
        if self.free_bits > 0:
            bought = kl.mean(0) >= self.free_bits
            kl = torch.where(bought, kl, self.free_bits)
        return _reduce(self.beta * kl.sum(1) - log_likelihood.mean(1), self.reduction)


class IWAE(nn.Module):
    """-log 1/k sum_i p(x, z_i) / q(z_i|x) [1, eq 8]; with k = 1 the ELBO by one sample.

    Args:
        reduction: "mean", "sum" or "none" over the images.

    Raises:
        ValueError: reduction is none of the three.

    References:
        [1] Burda et al., Importance Weighted Autoencoders, 2015. https://arxiv.org/abs/1509.00519

    Example:
        >>> terms = vae(x, noise=torch.randn(len(x), 5, 40))  # doctest: +SKIP
        >>> loss = IWAE()(terms.log_weights)  # doctest: +SKIP
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = _checked(reduction)

    def forward(self, log_weights: Tensor) -> Tensor:
        """log p(x, z) - log q(z|x) of k samples each, (n, k), in nats -> a scalar, or (n,)."""
        bound = torch.logsumexp(log_weights, dim=1) - math.log(log_weights.shape[1])
        return _reduce(-bound, self.reduction)


def elbo_example(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Four images, three samples each, five dimensions."""
    log_likelihood = -90 + 5 * torch.randn(4, 3, generator=generator)
    return log_likelihood, torch.rand(4, 5, generator=generator)


def iwae_example(generator: torch.Generator) -> tuple[Tensor]:
    """Four images, three samples each."""
    return (-90 + 5 * torch.randn(4, 3, generator=generator),)


def _checked(reduction: str) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return reduction


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()
