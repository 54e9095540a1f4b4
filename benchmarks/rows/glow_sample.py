"""Sampling from Glow K16 L3 h256 at 32x32."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import torch
from harness import Row, interleave, timed_row
from kexue_flow.adapters import from_normflows
from kexue_flow.glow import Glow, GlowConfig
from peers import normflows_glow

BATCH = 16


@torch.no_grad()
def measure() -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer = normflows_glow().eval()
    state, config = from_normflows(peer.state_dict(), {"size": 32})
    glow = Glow(GlowConfig(**config)).eval()
    glow.load_state_dict(state)

    def ours(net_dtype: torch.dtype) -> Callable[[], object]:
        return lambda: glow.decode(glow.prior(BATCH), net_dtype=net_dtype)

    timing = interleave(
        {
            "normflows": lambda: peer.sample(BATCH),
            "float32": ours(torch.float32),
            "bfloat16": ours(torch.bfloat16),
        },
        rounds=15,
    )
    version = f"normflows {metadata.version('normflows')}"
    what = f"Glow K16 L3 h256, 32x32, {BATCH} samples"
    return [
        timed_row(timing, f"{what}, float32", "float32", "normflows", peer=version, bar=1.2),
        timed_row(timing, f"{what}, bfloat16 nets", "bfloat16", "normflows", peer=version, bar=1.8),
    ]
