"""Spectral normalisation: divide a layer's weight by its largest singular value.

    W_bar = W / sigma(W),    sigma(W) = max |W h| / |h| = u^T W v

with the singular vectors u, v found by power iteration, one round a training step, kept from step
to step. The gradient flows through sigma, with u and v as constants [1, equation 12].

The weight of a convolution is taken as the matrix of shape (out, in * kernel): its norm is *not*
that of the convolution as an operator on images (see :mod:`kexue_sngan.operators`), so a
layer that is normalised here is not 1-Lipschitz; its constant is bounded, and stays put.

This file needs nothing but torch: copy it out and it runs.

References:
    [1] Miyato et al., Spectral Normalization for GANs, 2018. https://arxiv.org/abs/1802.05957
    [2] Su Jianlin, https://kexue.fm/archives/6051
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "LAYERS",
    "SpectralNorm",
    "as_matrix",
    "bake",
    "power_iterate",
    "sigmas",
    "spectral_norm",
]

#: Layers whose ``weight`` is a linear map, with the dimension of their outputs in it.
LAYERS: dict[type[nn.Module], int] = {
    nn.Linear: 0,
    nn.Conv1d: 0,
    nn.Conv2d: 0,
    nn.Conv3d: 0,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 1,
    nn.ConvTranspose3d: 1,
    nn.Embedding: 0,
}


def as_matrix(weight: Tensor, dim: int = 0) -> Tensor:
    """A weight as the matrix (its size along ``dim``, everything else)."""
    return weight.movedim(dim, 0).flatten(1)


class SpectralNorm(nn.Module):
    """A parametrisation that gives W / sigma(W). :func:`spectral_norm` puts it on layers.

    One round of power iteration is made for each *value* that the weight takes while it is being
    trained: when it is read in training mode, with gradients recorded and asked for, and has
    changed since the last round. So u moves once a training step however often the step reads the
    weight (D of real and of generated images, several micro-batches), and it does not move in
    evaluation, under ``torch.no_grad``, or while the layer is frozen (the generator's step).
    Torch's own parametrisation moves it with every read.

    A change is seen by the weight's version counter, which in-place operations raise, and by the
    steps of torch optimisers that hold it, since fused ones leave the counter alone.

    The names of the buffers, their order of updates and their start are torch's: state dicts can be
    exchanged, and one read a step gives the same numbers.

    Args:
        weight: The weight, (..., at least two dimensions).
        dim: Dimension of its outputs: 0, or 1 for transposed convolutions.
        rounds: Rounds of power iteration a training step.
        warmup: Rounds at the start, from random vectors.
        eps: Smallest norm that is divided by.
    """

    _u: Tensor
    _v: Tensor

    def __init__(
        self, weight: Tensor, *, dim: int = 0, rounds: int = 1, warmup: int = 15, eps: float = 1e-12
    ) -> None:
        super().__init__()
        if weight.ndim < 2 or rounds < 1:
            raise ValueError(
                f"spectral norm needs a matrix and rounds >= 1, not a weight of shape "
                f"{tuple(weight.shape)} and rounds={rounds}"
            )
        self.dim = dim
        self.rounds = rounds
        self.eps = eps
        with torch.no_grad():
            matrix = as_matrix(weight, dim)
            self.register_buffer("_u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0, eps=eps))
            self.register_buffer("_v", F.normalize(torch.randn_like(matrix[0]), dim=0, eps=eps))
            self._iterate(matrix, warmup)
        #: The value of the weight that the last round was made for.
        self._seen: tuple[int, int] | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """W / sigma(W), of the shape of ``weight``."""
        matrix = as_matrix(weight.detach(), self.dim)
        due = self._is_due(weight)
        # Low precision would be fast here and wrong: sigma divides everything.
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            if due:
                sigma = self._iterate(matrix, self.rounds)
                self._seen = _value_of(weight)
            else:
                sigma = torch.vdot(self._u, torch.mv(matrix, self._v))
            sigma = sigma.clamp(min=self.eps)
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return weight / sigma
        # Copies, since the next round writes into the buffers while this graph may be alive.
        u, v = self._u.clone(), self._v.clone()
        normalized: Tensor = _Normalize.apply(weight, u, v, sigma, self.dim)  # type: ignore[no-untyped-call]  # torch has no types here
        return normalized

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is assigned becomes the weight before normalisation."""
        return weight

    def sigma(self, weight: Tensor) -> Tensor:
        """u^T W v with the present vectors: a scalar, differentiable in ``weight``."""
        return torch.vdot(self._u, torch.mv(as_matrix(weight, self.dim), self._v))

    def _is_due(self, weight: Tensor) -> bool:
        trained = self.training and weight.requires_grad and torch.is_grad_enabled()
        return trained and _value_of(weight) != self._seen

    def _iterate(self, matrix: Tensor, rounds: int) -> Tensor:
        """u <- norm(W v), v <- norm(W^T u); returns sigma = u^T W v, which is |W^T u| by then."""
        sigma = matrix.new_zeros(())
        for _ in range(rounds):
            F.normalize(torch.mv(matrix, self._v), dim=0, eps=self.eps, out=self._u)
            # (u W, not W^T u: the transpose of a matrix that lies row by row.)
            pulled = torch.mv(matrix.t(), self._u)
            sigma = torch.linalg.vector_norm(pulled)
            torch.div(pulled, sigma.clamp(min=self.eps), out=self._v)
        return sigma

    def extra_repr(self) -> str:
        """Its settings."""
        return f"dim={self.dim}, rounds={self.rounds}"


#: Weights under spectral normalisation -> steps of optimisers that held them.
_steps: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()


def _value_of(weight: Tensor) -> tuple[int, int]:
    """Something that changes whenever the weight's value does."""
    return weight._version, _steps.setdefault(weight, 0)


def _count_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
    for group in optimizer.param_groups if _steps else ():
        for parameter in group["params"]:
            if parameter in _steps:
                _steps[parameter] += 1


register_optimizer_step_post_hook(_count_step)


class _Normalize(torch.autograd.Function):
    """W / sigma with dsigma = <u v^T, dW>, in as few passes over the weight as there can be.

    With W_bar = W / sigma and the gradient G of W_bar, that of W is [1, equation 12]

        (G - <G, W_bar> u v^T) / sigma.
    """

    @staticmethod
    def forward(weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, dim: int) -> Tensor:
        return weight / sigma

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        # The weight is not among what is saved: a step may change it before this graph is used.
        ctx.weight, u, v, sigma, ctx.dim = inputs
        ctx.version = ctx.weight._version
        ctx.save_for_backward(output, u, v, sigma)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        normalized, u, v, sigma = ctx.saved_tensors
        [gradient] = gradients
        if torch.is_grad_enabled():  # to be differentiated again, so sigma must know its weight
            if ctx.weight._version != ctx.version:
                raise RuntimeError("a normalised weight was changed before its second derivative")
            sigma = torch.vdot(u, torch.mv(as_matrix(ctx.weight, ctx.dim), v))
            normalized = ctx.weight / sigma
        matrix = as_matrix(gradient, ctx.dim)
        along = torch.dot(matrix.flatten(), as_matrix(normalized, ctx.dim).flatten()) / sigma
        result = (matrix / sigma).addr_(along * u, v, alpha=-1)
        rest = [s for d, s in enumerate(gradient.shape) if d != ctx.dim]
        result = result.unflatten(1, rest).movedim(0, ctx.dim)
        return result, None, None, None, None


def spectral_norm(
    module: nn.Module, *, rounds: int = 1, warmup: int = 15, eps: float = 1e-12
) -> nn.Module:
    """Normalise every linear, convolutional and embedding layer of a module.

    >>> critic = spectral_norm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 1)))

    Args:
        module: Any module; one such layer is a module too. Layers that are normalised already are
            left alone.
        rounds, warmup, eps: See :class:`SpectralNorm`.

    Returns:
        ``module`` itself, changed.

    Raises:
        ValueError: There is no such layer in it.
    """
    found = False
    for layer, dim in _layers(module):
        found = True
        if not _is_normalized(layer):
            rule = SpectralNorm(layer.weight, dim=dim, rounds=rounds, warmup=warmup, eps=eps)
            with torch.no_grad():  # registering reads the weight, which is no step
                parametrize.register_parametrization(layer, "weight", rule)
    if not found:
        raise ValueError(f"{type(module).__name__} holds no layer whose weight is a linear map")
    return module


def bake(module: nn.Module) -> nn.Module:
    """Replace every normalised weight by its value, W / sigma(W), for export.

    The result holds plain layers: it needs neither this file nor parametrisations.

    Returns:
        ``module`` itself, changed.
    """
    for layer, _ in _layers(module):
        if _is_normalized(layer):
            with torch.no_grad():
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module


@torch.no_grad()
def power_iterate(module: nn.Module, rounds: int = 1) -> nn.Module:
    """Make rounds of power iteration in every normalised layer, whatever the mode."""
    for layer, _ in _layers(module):
        for rule in _rules(layer):
            rule._iterate(as_matrix(layer.parametrizations.weight.original, rule.dim), rounds)
    return module


def sigmas(module: nn.Module) -> dict[str, float]:
    """Layer name -> present estimate of the largest singular value of its weight's matrix."""
    return {
        name: float(rule.sigma(layer.parametrizations.weight.original.detach()))
        for name, layer in module.named_modules()
        for rule in _rules(layer)
    }


def _layers(module: nn.Module) -> Iterator[tuple[Any, int]]:
    for layer in list(module.modules()):
        for kind, dim in LAYERS.items():
            if isinstance(layer, kind):
                yield layer, dim


def _rules(layer: Any) -> list[SpectralNorm]:
    if not parametrize.is_parametrized(layer, "weight"):
        return []
    return [rule for rule in layer.parametrizations.weight if isinstance(rule, SpectralNorm)]


def _is_normalized(layer: nn.Module) -> bool:
    return bool(_rules(layer))
