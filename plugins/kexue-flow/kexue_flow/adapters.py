"""Foreign checkpoints of flows -> our state dicts.

References:
    [1] Stimper et al., normflows, 2023. https://github.com/VincentStimper/normalizing-flows
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kexue_core.errors import ConfigError, WeightsFormatError
from kexue_flow.glow import LOGSCALE_FACTOR

__all__ = ["from_normflows"]

_NET = "flows.0.flows.1.param_map.net"


def from_normflows(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a Glow of normflows [1], built as in its examples, into ours: an equal density.

    That is a ``MultiscaleFlow`` of ``GlowBlock``s (scale map "sigmoid" or none, ``leaky`` 0, no
    ``net_actnorm``), each level ending in a ``Squeeze``, with ``GlowBase`` priors. Its images are
    in [-0.5, 0.5], ours in [0, 1]: log p(x) here is log p(x - 0.5) there.

    Args:
        tensors: ``state_dict()`` of the ``MultiscaleFlow``.
        config: ``size``, and ``bits`` where they are not the default; the rest is read off the
            tensors. ``kexue convert`` takes it from the ``config.json`` beside the checkpoint.

    Returns:
        State dict and arguments of :class:`~kexue_flow.glow.GlowConfig`.

    Raises:
        WeightsFormatError: The tensors are of another kind of flow.
        ConfigError: ``size`` is missing; convolutions do not tell it.
    """
    if "size" not in config:
        raise ConfigError(
            "A checkpoint of normflows does not tell the size of its images",
            hint='Write {"size": 32}, say, into config.json beside it',
        )
    try:
        return _convert(tensors, config)
    except KeyError as error:
        raise WeightsFormatError(
            f"This is no Glow of normflows with GlowBase priors: there is no {error}",
            hint="Save the state_dict() of a MultiscaleFlow of GlowBlocks",
        ) from None


def _convert(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    blocks = {m.groups() for k in tensors if (m := re.match(r"flows\.(\d+)\.(\d+)\.flows\.", k))}
    levels = len({level for level, _ in blocks})
    steps = len(blocks) // max(levels, 1)
    state: dict[str, Tensor] = {}
    for level in range(levels):
        there = levels - 1 - level  # normflows counts from the last latent
        for step in range(steps):
            # ... and lists the steps from the latent to the image.
            source = f"flows.{there}.{steps - 1 - step}"
            state |= _step(tensors, source, f"levels.{level}.steps.{step}")
        last = level == levels - 1
        state |= _prior(tensors, f"q0.{there}", f"levels.{level}.prior", last=last)
    first = tensors[f"flows.0.0.{_NET}.0.weight"]
    finest = tensors[f"flows.{max(levels, 1) - 1}.0.flows.2.s"]
    outputs = len(tensors[f"flows.0.0.{_NET}.4.weight"])
    found = {
        **config,
        "channels": finest.numel() // 4,  # after the first squeeze
        "levels": levels,
        "steps": steps,
        "hidden": len(first),
        "coupling": "additive" if outputs == first.shape[1] else "affine",
        "permutation": "conv-lu" if "flows.0.0.flows.1.L" in tensors else "conv",
        "scale": "sigmoid",
        "scale_floor": 0.0,
        "net_actnorm": False,
        "edges": False,
    }
    return state, found


def _step(tensors: Mapping[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    def of(key: str) -> Tensor:
        return tensors[f"{source}.{key}"]

    state = {
        # There (x - t) exp(-s), here (x + shift) exp(3 logs).
        "actnorm.shift": -of("flows.2.t").flatten(),
        "actnorm.logs": -of("flows.2.s").flatten() / LOGSCALE_FACTOR,
    }
    if f"{source}.flows.1.W" in tensors:
        state["mixing.weight"] = of("flows.1.W")
    else:
        lower, upper, log_s = of("flows.1.L"), of("flows.1.U"), of("flows.1.log_S")
        state["mixing.lu"] = lower.tril(-1) + upper.triu(1) + log_s.diag()
        state["mixing.permutation"] = of("flows.1.P").argmax(1)
        state["mixing.sign"] = of("flows.1.sign_S")
    for ours, theirs in (("first", 0), ("middle", 2)):
        for part in ("weight", "bias"):
            state[f"net.{ours}.{part}"] = of(f"{_NET}.{theirs}.{part}")
    weight, bias = of(f"{_NET}.4.weight"), of(f"{_NET}.4.bias")
    if len(weight) == of(f"{_NET}.0.weight").shape[1]:
        weight, bias = -weight, -bias  # there x2 - shift
    else:
        # There (x2 - shift) sigmoid(logits + 2), the two interleaved; here they are halves.
        weight = torch.cat([-weight[0::2], weight[1::2]])
        bias = torch.cat([-bias[0::2], bias[1::2]])
    state |= {"net.last.weight": weight, "net.last.bias": bias}
    state["net.last.logs"] = torch.zeros_like(bias)
    return {f"{target}.{key}": value for key, value in state.items()}


def _prior(
    tensors: Mapping[str, Tensor], source: str, target: str, *, last: bool
) -> dict[str, Tensor]:
    # GlowBase: one mean and log-scale a channel, each with a factor exp(3 logs) of its own.
    mean, logs = (
        (tensors[f"{source}.{k}"] * (LOGSCALE_FACTOR * tensors[f"{source}.{k}_logs"]).exp())
        for k in ("loc", "log_scale")
    )
    mean, logs = mean.flatten(), logs.flatten()
    if last:
        return {f"{target}.mean": mean, f"{target}.logs": logs / LOGSCALE_FACTOR}
    # A conditional prior whose weight is zero does not depend on what it is conditioned on.
    both = torch.cat([mean, logs])
    channels = len(mean)
    return {
        f"{target}.conv.weight": both.new_zeros(2 * channels, channels, 3, 3),
        f"{target}.conv.bias": both,
        f"{target}.conv.logs": torch.zeros_like(both),
    }
