"""Traversal: what each latent dimension does, one row of images a dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kexue_core.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

    from kexue_core.interfaces import Generator

__all__ = ["latent_traversal"]

#: Images that are decoded at once.
BATCH = 64


@torch.no_grad()
def latent_traversal(
    model: Generator,
    n: int,
    *,
    generator: torch.Generator,
    points: int = 9,
    reach: float = 3.0,
    temperature: float = 0.0,
    first: int = 0,
) -> Tensor:
    """Move one draw of the prior along its latent dimensions, those that change most first.

    Samples are rows of ``points``: in row r, dimension number ``first + r`` goes from ``-reach`` to
    ``+reach`` around the draw. Dimensions are ordered by the squared difference of the images at
    the two ends. Let ``n`` be a multiple of ``points`` and show as many columns.

    Args:
        model: Anything with ``prior`` and ``decode`` whose latents are (n, d), real.
        n: Number of samples, >= 0.
        generator: Source of the draw, on the CPU.
        points: Images a row, at least 2.
        reach: Half the length of the walk, in the latent's units.
        temperature: Of the draw; 0 starts from the prior's mean.
        first: Rows begin with this dimension of the order, from 0.

    Returns:
        Data in [0, 1], (n, *data_shape).

    Raises:
        ConfigError: An option is out of range.
        UnsupportedError: The latent is no vector of real numbers.
    """
    if n < 0 or points < 2 or not reach > 0 or first < 0:
        raise ConfigError(
            f"Cannot draw n={n} with points={points}, reach={reach}, first={first}",
            hint="n and first must be >= 0, points >= 2, reach > 0",
        )
    start = model.prior(1, temperature=temperature, generator=generator)
    if not isinstance(start, torch.Tensor) or start.ndim != 2 or not start.is_floating_point():
        raise UnsupportedError("A traversal needs latents that are vectors of real numbers")
    axes = torch.eye(start.shape[1], dtype=start.dtype, device=start.device)
    ends = _decode(model, torch.cat([start - reach * axes, start + reach * axes]))
    below, above = ends.flatten(1).chunk(2)
    change = (above - below).double().square().sum(1)
    order = change.argsort(descending=True, stable=True)
    number = torch.arange(n, device=start.device)
    dimension = order[(first + number // points) % len(order)]
    move = reach * (2 * (number % points) / (points - 1) - 1)
    return _decode(model, start + move[:, None].to(start.dtype) * axes[dimension])


def _decode(model: Generator, latents: Tensor) -> Tensor:
    return torch.cat([model.decode(part) for part in torch.split(latents, BATCH)])
