"""Forward and backward of SimVQ beside vector_quantize_pytorch's, equal weights and outputs."""

from __future__ import annotations

import time
from importlib import metadata
from typing import Any

import torch
from harness import Row, interleave, timed_row
from kexue_vqlinear import SimVQ
from torch import Tensor

DIM, ROWS = 128, 4096
#: K -> how many times faster ours is to be.
BARS = {8_192: 2.0, 65_536: 2.5}


def pair(size: int) -> tuple[SimVQ, Any]:
    """Ours and the peer's, with the same weights."""
    import vector_quantize_pytorch

    ours = SimVQ(DIM, size, bias=False)
    theirs = vector_quantize_pytorch.SimVQ(DIM, size, rotation_trick=False)
    with torch.no_grad():
        theirs.frozen_codebook.copy_(ours.embedding)
        theirs.code_transform.weight.copy_(ours.weight)
    return ours, theirs


def step(quantizer: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and backward; returns codes and the gradient of z."""
    x = z.clone().requires_grad_()
    quantizer.zero_grad(set_to_none=True)
    quantized, codes, loss = quantizer(x)[:3]
    (quantized.square().mean() + loss).backward()
    assert x.grad is not None
    return codes, x.grad


def measure() -> list[Row]:
    torch.set_num_threads(1)
    version = f"vector-quantize-pytorch {metadata.version('vector-quantize-pytorch')}"
    rows = []
    for size, bar in BARS.items():
        torch.manual_seed(0)
        ours, theirs = pair(size)
        z = torch.randn(1, ROWS, DIM)
        # Float32 may part codes that are equally near but for rounding: one in a thousand at most.
        (mine, my_slope), (their, their_slope) = step(ours, z), step(theirs, z)
        same = mine == their
        assert float((~same).float().mean()) < 1e-3
        torch.testing.assert_close(my_slope[same], their_slope[same], atol=1e-5, rtol=1e-5)
        timing = interleave(
            {
                "ours": lambda ours=ours, z=z: step(ours, z),
                "peer": lambda theirs=theirs, z=z: step(theirs, z),
            },
            rounds=9 if size < 10_000 else 5,
            warmup=1,
            clock=time.thread_time,
        )
        what = f"SimVQ, forward and backward, d {DIM}, n {ROWS:,}, K {size:,}"
        rows.append(timed_row(timing, what, "ours", "peer", peer=version, bar=bar))
    return rows
