"""A training step of Glow K16 L3 h256 at 32x32: loss, gradients, Adamax."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import torch
from harness import Row, interleave, timed_row
from kexue_flow.adapters import from_normflows
from kexue_flow.glow import Glow, GlowConfig
from peers import normflows_glow
from torch import Tensor, nn

BATCH = 16


def measure() -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer = normflows_glow()
    state, config = from_normflows(peer.state_dict(), {"size": 32})
    x = torch.rand(BATCH, 3, 32, 32)

    def ours(net_dtype: torch.dtype) -> Callable[[], None]:
        glow = Glow(GlowConfig(**config)).train()
        glow.load_state_dict(state)
        glow.net_dtype = net_dtype
        return _step(glow, lambda: -glow(x).mean())

    timing = interleave(
        {
            "normflows": _step(peer, lambda: peer.forward_kld(x - 0.5)),
            "float32": ours(torch.float32),
            "bfloat16": ours(torch.bfloat16),
        }
    )
    version = f"normflows {metadata.version('normflows')}"
    what = f"Glow K16 L3 h256, 32x32, training step of {BATCH}"
    return [
        timed_row(timing, f"{what}, float32", "float32", "normflows", peer=version, bar=1.2),
        timed_row(timing, f"{what}, bfloat16 nets", "bfloat16", "normflows", peer=version, bar=1.8),
    ]


def _step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step
