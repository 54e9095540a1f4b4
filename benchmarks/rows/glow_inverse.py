"""How exact the inverse of a Glow is, and what encoding costs."""

from __future__ import annotations

from importlib import metadata

import torch
from harness import Row, interleave, timed_row
from kexue_flow.adapters import from_normflows
from kexue_flow.glow import Glow, GlowConfig
from peers import normflows_glow

BATCH = 16
#: float32 loses about 1e-6 over 48 steps; the bars leave room for larger weights.
BARS = {torch.float32: 1e-4, torch.float64: 1e-10}


@torch.no_grad()
def measure() -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer = normflows_glow().eval()
    state, config = from_normflows(peer.state_dict(), {"size": 32})
    glow = Glow(GlowConfig(**config)).eval()
    glow.load_state_dict(state)
    x = torch.rand(BATCH, 3, 32, 32)
    timing = interleave(
        {
            "normflows": lambda: peer.inverse_and_log_det(x - 0.5),
            "ours": lambda: glow.transform(x),
        },
        rounds=15,
    )
    peer_name = f"normflows {metadata.version('normflows')}"
    what = f"Glow K16 L3 h256, 32x32, encoding {BATCH} with log-determinants, float32"
    rows = [timed_row(timing, what, "ours", "normflows", peer=peer_name)]
    for dtype, bar in BARS.items():
        glow.to(dtype), peer.to(dtype)
        data = x.to(dtype)
        error = (glow.inverse(glow.transform(data)[0]) - data).abs().max().item()
        latents, _ = peer.inverse_and_log_det(data - 0.5)
        theirs = (peer.forward_and_log_det(latents)[0] + 0.5 - data).abs().max().item()
        rows.append(
            Row(
                what=f"Glow K16 L3 h256, decode(encode(x)) - x, {str(dtype).partition('.')[2]}",
                ours=error,
                unit="of 1",
                peer=peer_name,
                theirs=theirs,
                bar=bar,
                kind="at most",
                judged="ours",
            )
        )
    return rows
