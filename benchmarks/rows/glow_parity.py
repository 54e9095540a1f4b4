"""Before anything is timed: the peer's weights in our Glow give the peer's density."""

from __future__ import annotations

from importlib import metadata

import torch
from harness import Row
from kexue_flow.adapters import from_normflows
from kexue_flow.glow import Glow, GlowConfig
from peers import normflows_glow

IMAGES = 8


def measure() -> list[Row]:
    torch.manual_seed(0)
    peer = normflows_glow().double()
    state, config = from_normflows(peer.state_dict(), {"size": 32})
    ours = Glow(GlowConfig(**config)).double()
    ours.load_state_dict(state)
    x = torch.rand(IMAGES, 3, 32, 32, dtype=torch.float64)
    version = f"normflows {metadata.version('normflows')}"
    rows = []
    for dtype in (torch.float64, torch.float32):
        peer.to(dtype), ours.to(dtype)
        with torch.no_grad():
            theirs = peer.log_prob(x.to(dtype) - 0.5, None)
            difference = (ours.log_prob(x.to(dtype)) - theirs).abs()
        # float32 holds a log_prob of a thousand nats to 1e-4 and no better: relative there.
        relative = dtype == torch.float32
        error = (difference / theirs.abs() if relative else difference).max().item()
        rows.append(
            Row(
                what=f"Glow K16 L3 h256 with the weights of {version}, log_prob, "
                f"{str(dtype).removeprefix('torch.')}: largest difference",
                ours=error,
                unit="relative" if relative else "nats",
                bar=1e-4,
                kind="at most",
                judged="ours",
            )
        )
    return rows
