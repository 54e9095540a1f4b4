"""What spectral normalisation costs: forward and backward of the Miyato discriminator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import metadata
from itertools import cycle

import torch
from harness import Row, interleave
from kexue_sngan.cnn import CNNDiscriminator, SNGANCNNConfig
from kexue_sngan.spectral import LAYERS, spectral_norm
from torch import nn
from torch.nn.utils import parametrizations

#: Images of one step: real and generated.
BATCH = 64
#: Copies of each net, used in turn: where weights happen to lie makes equal nets differ in time.
COPIES = 4
#: Forward and backward cost at most this many times those of the plain net.
BAR = 1.05


def measure() -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = CNNDiscriminator(SNGANCNNConfig())
    nets = {
        "plain": lambda: copy.deepcopy(plain),
        "ours": lambda: spectral_norm(copy.deepcopy(plain)),
        "torch": lambda: _with_torch(copy.deepcopy(plain)),
    }
    steps: dict[str, list[Callable[[], None]]] = {name: [] for name in nets}
    x = torch.randn(BATCH, 3, 32, 32)
    for _ in range(COPIES):
        for name, build in nets.items():
            steps[name].append(_step(build(), x))
    turns = {name: cycle(copies) for name, copies in steps.items()}
    timing = interleave(
        {name: lambda turn=turn: next(turn)() for name, turn in turns.items()},  # type: ignore[misc]
        rounds=6 * COPIES,
        warmup=COPIES,
    )
    slower = timing.ratio("torch", "plain")
    return [
        Row(
            what=f"Spectral norm of the Miyato D, 32x32, batch {BATCH}, forward and backward: "
            f"times the plain net (torch's parametrisation: {slower:.3f})",
            ours=timing.ratio("ours", "plain"),
            unit="x plain",
            peer=f"torch {metadata.version('torch')}, no normalisation",
            theirs=1.0,
            bar=BAR,
            kind="at most",
            judged="ours",
        )
    ]


def _with_torch(net: nn.Module) -> nn.Module:
    for layer in list(net.modules()):
        if isinstance(layer, tuple(LAYERS)):
            parametrizations.spectral_norm(layer)
    return net


def _step(net: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    parameters = list(net.parameters())

    def step() -> None:
        net.zero_grad()
        # As a step of an optimiser would, so that every call is a new training step.
        torch.autograd.graph.increment_version(parameters)
        net(x).mean().backward()

    return step
