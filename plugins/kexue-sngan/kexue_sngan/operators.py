"""The norm of a layer as an operator on its real input, by Lanczos iteration.

A convolution is a linear map from images to images; its norm is not that of its weight reshaped to
a matrix (out, in * kernel), which misses how the shifts of the kernel add up: it may be anything
from 1/sqrt(k) to sqrt(k) times that for a kernel of k pixels. A random 3x3 convolution of 64
channels whose matrix has norm 1 has the norm 1.5.

Here the map A itself is used, forwards by the layer and backwards by autograd, so that padding,
stride, dilation, groups and the size of the input all count. Lanczos iteration finds the largest
eigenvalue of A^T A from the same products as power iteration, in a tenth of their number: singular
values of convolutions lie close together, where power iteration crawls.

This file needs nothing but torch: copy it out and it runs.

References:
    Golub & Van Loan, Matrix Computations, section 10.1 (Lanczos), 10.1.5 (its error bound).
    Tsuzuku, Sato & Sugiyama, 2018, arXiv 1802.04034, section 4 (the adjoint by autograd).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["largest_singular_value", "operator_norm"]


def operator_norm(
    layer: nn.Module,
    input_shape: Sequence[int],
    *,
    tolerance: float = 1e-6,
    rounds: int = 300,
) -> float:
    """Largest factor by which a layer stretches a difference of inputs, max |A x| / |x|.

    >>> operator_norm(nn.Conv2d(64, 64, 3, padding=1), (64, 32, 32))          # doctest: +SKIP

    Args:
        layer: Any affine module: a convolution (transposed, grouped, with any padding), a linear
            layer, average pooling, upsampling. It is run in evaluation mode.
        input_shape: Shape of one input, without the batch: (channels, height, width).
        tolerance: Relative accuracy; the result is never too large by more than rounding.
        rounds: Most products with A^T A.

    Returns:
        The norm; 0 for a layer that is constant.

    Raises:
        ValueError: The layer does not take such an input.
    """
    parameter = next(layer.parameters(), torch.empty(0))
    training = layer.training
    layer.eval()  # a weight under spectral normalisation must not move by being read here
    try:
        norm, _ = largest_singular_value(
            layer, tuple(input_shape), like=parameter, tolerance=tolerance, rounds=rounds
        )
    except RuntimeError as error:
        raise ValueError(
            f"{type(layer).__name__} does not take inputs of shape {tuple(input_shape)}: {error}"
        ) from error
    finally:
        layer.train(training)
    return norm


def largest_singular_value(
    apply: Callable[[Tensor], Tensor],
    input_shape: tuple[int, ...],
    *,
    like: Tensor,
    tolerance: float = 1e-6,
    rounds: int = 300,
) -> tuple[float, float]:
    """The norm of an affine map, from below, and from above as far as the residual tells.

    Args:
        apply: The map; takes (1, *input_shape).
        input_shape: As it says.
        like: A tensor of the number type and device to compute with.
        tolerance, rounds: As in :func:`operator_norm`.

    Returns:
        (sigma, bound): the square roots of the largest Ritz value theta of A^T A, and of theta
        plus the norm of its residual, within which a true eigenvalue lies.
    """
    # A fixed start, drawn so that no symmetry can make it orthogonal to what is looked for.
    start = torch.randn(input_shape, generator=torch.Generator().manual_seed(0))
    q = start.flatten().to(like)
    q /= q.norm()
    with torch.no_grad():
        constant = apply(torch.zeros_like(q).view(1, *input_shape))

    def gram(x: Tensor) -> Tensor:  # A^T A x
        with torch.enable_grad():
            x = x.view(1, *input_shape).requires_grad_()
            y = apply(x) - constant
            if not y.requires_grad:
                return torch.zeros_like(q)
            (pulled,) = torch.autograd.grad(y, x, y.detach(), materialize_grads=True)
        return pulled.flatten()

    steps = min(rounds, q.numel())
    basis = q.new_empty(steps, q.numel())
    diagonal: list[float] = []
    beside: list[float] = []
    theta = residual = 0.0
    for k in range(steps):
        basis[k] = q
        w = gram(q.clone())
        diagonal.append(float(w @ q))
        # Twice is enough: against all earlier ones, or rounding brings back what was found.
        for _ in range(2):
            w = w - basis[: k + 1].T @ (basis[: k + 1] @ w)
        beta = float(w.norm())
        values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside))
        theta = max(0.0, float(values[-1]))
        residual = beta * abs(float(vectors[-1, -1]))
        # theta is sigma^2, so half of this is the relative error of sigma.
        if residual <= tolerance * theta:  # also where both are 0
            break
        beside.append(beta)
        q = w / beta
    return theta**0.5, (theta + residual) ** 0.5


def _tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        off = torch.tensor(beside, dtype=torch.float64)
        matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    return matrix
