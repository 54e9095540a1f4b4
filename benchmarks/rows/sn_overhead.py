"""What spectral normalisation costs: forward and backward of the Miyato discriminator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import metadata

import torch
from harness import Row, interleave
from kexue_sngan.cnn import CNNDiscriminator, SNGANCNNConfig
from kexue_sngan.spectral import LAYERS, spectral_norm
from torch import nn
from torch.nn.utils import parametrizations

#: Images of one step: real and generated.
BATCH = 64
#: Forward and backward cost at most this many times those of the plain net.
BAR = 1.05


def measure() -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = CNNDiscriminator(SNGANCNNConfig())
    ours = spectral_norm(copy.deepcopy(plain))
    theirs = copy.deepcopy(plain)
    for layer in list(theirs.modules()):
        if isinstance(layer, tuple(LAYERS)):
            parametrizations.spectral_norm(layer)
    x = torch.randn(BATCH, 3, 32, 32)

    def run(net: nn.Module) -> Callable[[], None]:
        parameters = list(net.parameters())

        def step() -> None:
            net.zero_grad()
            # As a step of an optimiser would, so that every call is a new training step.
            torch.autograd.graph.increment_version(parameters)
            net(x).mean().backward()

        return step

    timing = interleave({"plain": run(plain), "ours": run(ours), "torch": run(theirs)}, rounds=15)
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
