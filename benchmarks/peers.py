"""The peers, built as their own examples build them."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["normflows_glow"]


def normflows_glow(
    *,
    size: int = 32,
    channels: int = 3,
    levels: int = 3,
    steps: int = 16,
    hidden: int = 256,
    scale: bool = True,
    use_lu: bool = True,
) -> Any:
    """The Glow of normflows' examples/glow.ipynb, without classes; images are in [-0.5, 0.5].

    Its actnorms are started from a random batch, and then every parameter is moved a little, so
    that nothing is at a value where a mistake would not show.
    """
    import normflows as nf

    priors, flows, merges = [], [], []
    for level in range(levels):
        width = channels * 2 ** (levels + 1 - level)
        blocks = [
            nf.flows.GlowBlock(width, hidden, split_mode="channel", scale=scale, use_lu=use_lu)
            for _ in range(steps)
        ]
        flows.append([*blocks, nf.flows.Squeeze()])
        if level > 0:
            merges.append(nf.flows.Merge())
            side = size // 2 ** (levels - level)
            priors.append(nf.distributions.GlowBase((channels * 2 ** (levels - level), side, side)))
        else:
            side = size // 2**levels
            priors.append(nf.distributions.GlowBase((width, side, side)))
    model = nf.MultiscaleFlow(priors, flows, merges, class_cond=False)
    with torch.no_grad():
        model.log_prob(torch.rand(8, channels, size, size) - 0.5, None)
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model
