"""An exponential moving average of a model's weights, kept as a second module."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """The averaged model: w <- d w + (1 - d) w_t after every step, buffers copied.

    d is ramped as min(decay, (1 + t) / (10 + t)), so that a short run is not held back by its
    initial weights (the ramp of TensorFlow's ``ExponentialMovingAverage``).

    Args:
        model: The model that is trained, not wrapped.
        decay: In [0, 1). With 0 there is no second module: ``module`` is ``model`` itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.source = model
        self.module = model
        if decay:
            self.module = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, t: int) -> None:
        """Take in the weights after step ``t`` (from 0)."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + t) / (10 + t))
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(self.source.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        self._copy_buffers()

    @torch.no_grad()
    def reset(self) -> None:
        """Take over the model's weights as they are (after a data-dependent start)."""
        if self.decay:
            self.module.load_state_dict(self.source.state_dict())

    def _copy_buffers(self) -> None:
        for ours, theirs in zip(self.module.buffers(), self.source.buffers(), strict=True):
            ours.copy_(theirs)
