"""RoFormer-Sim's encoder beside transformers' RoFormerModel, the same weights, batch 64 of 32."""

from __future__ import annotations

from importlib import metadata

import torch
from harness import Row, interleave, timed_row
from kexue_roformer_sim.fast import vectors_of
from peers import roformers

#: Two threads, as the bar says; CPU time of all of them is what the clock counts.
THREADS = 2
BATCH, LENGTH = 64, 32
#: Largest difference of a float32 state.
DIFFERENCE = 1e-5


@torch.inference_mode()
def measure() -> list[Row]:
    torch.set_num_threads(THREADS)
    peer_name = f"transformers {metadata.version('transformers')} RoFormerModel"
    rows = []
    for size in ("small", "base"):
        theirs, ours = roformers(size)
        tokens = torch.randint(
            1, 12_000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0)
        )
        fast = {dtype: vectors_of(ours, dtype) for dtype in (torch.float32, torch.bfloat16)}
        exact = ours.pooler(theirs(tokens).last_hidden_state[:, 0])
        gap = float((fast[torch.float32](tokens) - exact).abs().max())
        cosine = float(torch.cosine_similarity(fast[torch.bfloat16](tokens), exact).min())
        timing = interleave(
            {
                "transformers": lambda peer=theirs, x=tokens: peer(x),
                "float32": lambda run=fast[torch.float32], x=tokens: run(x),
                "bfloat16": lambda run=fast[torch.bfloat16], x=tokens: run(x),
            },
            rounds=9,
        )
        what = f"RoFormer-Sim {size}, {BATCH} texts of {LENGTH} tokens, {THREADS} threads"
        rows += [
            timed_row(timing, f"{what}, {name}", name, "transformers", peer=peer_name, bar=bar)
            for name, bar in (("float32", 1.8), ("bfloat16", 3.0))
        ]
        rows += [
            Row(
                what=f"RoFormer-Sim {size}: largest difference of float32 vectors",
                ours=gap,
                unit="of 1",
                peer=peer_name,
                bar=DIFFERENCE,
                kind="at most",
                judged="ours",
            ),
            Row(
                what=f"RoFormer-Sim {size}: least cosine of bfloat16 vectors",
                ours=cosine,
                unit="of 1",
                peer=peer_name,
                bar=0.9999,
                judged="ours",
            ),
        ]
    return rows
