"""What verbs compute with latents and images: walks between latents, and errors of images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from kexue_core.interfaces import Latent

__all__ = ["max_error", "psnr", "slerp"]


def slerp(a: Latent, b: Latent, steps: int) -> Latent:
    """Points on the great circle between two latents, both ends included.

    A straight line between draws of a high-dimensional Gaussian passes through radii that the
    prior hardly ever has; the great circle keeps to those it has. The angle is that between the
    whole latents: all parts of a tuple are one vector.

        sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b,    cos(w) = <a, b> / (|a| |b|)

    Parts of whole numbers (classes, codes) cannot be mixed: each point has those of the nearer end.

    Args:
        a: A tensor (1, ...), or a tuple of them.
        b: The same shapes.
        steps: Number of points, at least 2.

    Returns:
        Like ``a``, with ``steps`` in place of 1. The first and last are ``a`` and ``b`` exactly.

    References:
        Sampling Generative Networks, White 2016, arXiv:1609.04468, section 2.1.
    """
    if steps < 2:
        raise ValueError(f"a walk has at least 2 points, not {steps}")
    first, last = _parts(a), _parts(b)
    if [p.shape for p in first] != [p.shape for p in last]:
        raise ValueError("the ends of a walk must have the same shapes")
    flat_a, flat_b = _flat(first), _flat(last)
    norms = flat_a.norm() * flat_b.norm()
    cosine = float((flat_a @ flat_b / norms).clamp(-1, 1)) if norms > 0 else 1.0
    angle = math.acos(cosine)
    points = []
    for x, y in zip(first, last, strict=True):
        walk = []
        for k in range(steps):
            t = k / (steps - 1)
            if k == 0 or (not x.is_floating_point() and t < 0.5):
                walk.append(x)
            elif k == steps - 1 or not x.is_floating_point():
                walk.append(y)
            elif math.sin(angle) < 1e-6:
                # Parallel, or one of them is zero: the great circle is the line, or undefined.
                walk.append((1 - t) * x + t * y)
            else:
                walk.append(
                    (math.sin((1 - t) * angle) * x + math.sin(t * angle) * y) / math.sin(angle)
                )
        points.append(torch.cat(walk))
    return tuple(points) if isinstance(a, tuple) else points[0]


def max_error(x: Tensor, y: Tensor) -> list[float]:
    """Largest absolute difference of each pair in two batches (n, ...)."""
    return [float(d) for d in (x.double() - y.double()).abs().flatten(1).amax(1)]


def psnr(x: Tensor, y: Tensor) -> list[float]:
    """Peak signal-to-noise ratio of each pair of images in [0, 1], in dB; infinite where equal.

    -10 log10 of the mean squared error.
    """
    errors = (x.double() - y.double()).square().flatten(1).mean(1)
    return [math.inf if e == 0 else -10 * math.log10(float(e)) for e in errors]


def _parts(latent: Latent) -> tuple[Tensor, ...]:
    return latent if isinstance(latent, tuple) else (latent,)


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    """The parts that can be mixed, as one vector of doubles."""
    mixed = [p.detach().double().flatten().cpu() for p in parts if p.is_floating_point()]
    return torch.cat(mixed) if mixed else torch.zeros(1, dtype=torch.float64)
