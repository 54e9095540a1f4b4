"""Ancestral sampling: draw from the latent prior, decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from kexue_core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from kexue_core.interfaces import Latent, LatentModel

__all__ = ["latent_prior"]


@torch.no_grad()
def latent_prior(
    model: LatentModel,
    n: int,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    batch_size: int = 16,
    labels: int | Sequence[int] | None = None,
    condition: Tensor | None = None,
) -> Tensor:
    """Draw ``n`` samples by decoding latents of the prior.

    Latents are drawn one sample after the other from ``generator``, so that batches only bound the
    memory: they never change a sample.

    Args:
        model: Anything with ``prior`` and ``decode``.
        n: Number of samples, >= 0.
        generator: Source of all randomness, on the CPU.
        temperature: Factor on the prior's standard deviation. Below 1 trades variety for fidelity
            (Glow, arXiv 1807.03039, section 6; post 5807).
        batch_size: Samples decoded at once.
        labels: Class of all samples, or classes that are asked for in turn, for a conditional
            prior over classes: the condition in words that a command line can say.
        condition: Condition of each sample, (n, ...), for a conditional prior.

    Returns:
        Data in [0, 1], (n, *data_shape).

    Raises:
        ConfigError: ``n`` or ``temperature`` is negative, ``batch_size`` below 1, or ``labels``
            are no classes of this model.
    """
    if n < 0 or batch_size < 1 or not temperature >= 0:
        raise ConfigError(
            f"Cannot draw n={n} in batches of {batch_size} at temperature {temperature}",
            hint="n and temperature must be >= 0, batch_size >= 1",
        )
    if labels is not None:
        if condition is not None:
            raise ConfigError("labels are a condition: give one of the two")
        condition = _in_turn(labels, n)
    batches = []
    for start in range(0, max(n, 1), batch_size):
        count = min(batch_size, n - start)
        part = None if condition is None else condition[start : start + count]
        try:
            latent = model.prior(
                count, temperature=temperature, condition=part, generator=generator
            )
        except ValueError as error:
            if labels is None:
                raise
            raise ConfigError(f"Cannot draw labels={labels}: {error}") from error
        # A batch of one takes other convolution kernels, whose last bits differ: it gets company.
        batches.append(model.decode(_twice(latent))[:1] if count == 1 else model.decode(latent))
    return torch.cat(batches)


def _in_turn(labels: int | Sequence[int], n: int) -> Tensor:
    """``n`` labels, (n,), int64: sample i has the same one whatever ``n``."""
    every = [labels] if isinstance(labels, int) else labels
    if not isinstance(every, (list, tuple)) or not every or any(type(y) is not int for y in every):
        raise ConfigError(
            f"labels must be a class such as 3, or several such as [0,1,2], not {labels!r}"
        )
    return torch.tensor([every[i % len(every)] for i in range(n)], dtype=torch.int64)


def _twice(latent: Latent) -> Latent:
    """A latent of one sample, as one of two."""
    if isinstance(latent, tuple):
        return tuple(torch.cat([z, z]) for z in latent)
    return torch.cat([latent, latent])
