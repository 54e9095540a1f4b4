"""RoFormer-Sim's encoder beside transformers' RoFormerModel, the same weights, batch 64 of 32.

Two comparisons: all states of the last layer against all states, which the bars are on; and our
sentence vectors, for which the last layer computes the first token alone, against the same call of
the peer, which has no other way to the first token's state.
"""

from __future__ import annotations

import time
from importlib import metadata

import torch
from harness import Row, interleave, timed_row
from kexue_roformer_sim.fast import packed
from peers import roformers

#: As the bar says. The clock is the wall's: CPU seconds would count a thread that waits, too.
THREADS = 2
BATCH, LENGTH = 64, 32
#: Largest difference of a float32 state.
DIFFERENCE = 1e-5


#: Size -> rounds. A round of base takes ten seconds.
ROUNDS = {"small": 9, "base": 5}


@torch.inference_mode()
def measure() -> list[Row]:
    torch.set_num_threads(THREADS)
    peer_name = f"transformers {metadata.version('transformers')} RoFormerModel"
    rows = []
    for size, rounds in ROUNDS.items():
        theirs, ours = roformers(size)
        tokens = torch.randint(
            1, 12_000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0)
        )
        exact, rounded = (packed(ours, dtype) for dtype in (torch.float32, torch.bfloat16))
        states = theirs(tokens).last_hidden_state
        gap = float((exact.states(tokens) - states).abs().max())
        # Our pooler is the identity here: a vector is the first token's state.
        vector_gap = float((exact(tokens) - states[:, 0]).abs().max())
        cosine = float(torch.cosine_similarity(rounded(tokens), states[:, 0]).min())
        timing = interleave(
            {
                "transformers": lambda peer=theirs, x=tokens: peer(x),
                "float32, all states": lambda run=exact.states, x=tokens: run(x),
                "float32, sentence vectors": lambda run=exact, x=tokens: run(x),
                "bfloat16, all states": lambda run=rounded.states, x=tokens: run(x),
                "bfloat16, sentence vectors": lambda run=rounded, x=tokens: run(x),
            },
            rounds=rounds,
            warmup=1,
            clock=time.perf_counter,
        )
        what = f"RoFormer-Sim {size}, {BATCH} texts of {LENGTH} tokens, {THREADS} threads"
        rows += [
            timed_row(timing, f"{what}, {name}", name, "transformers", peer=peer_name, bar=bar)
            for name, bar in (
                ("float32, all states", 1.8),
                ("bfloat16, all states", 3.0),
                ("float32, sentence vectors", None),
                ("bfloat16, sentence vectors", None),
            )
        ]
        rows += [
            Row(
                what=f"RoFormer-Sim {size}: largest difference of float32 {name}",
                ours=difference,
                unit="of 1",
                peer=peer_name,
                bar=DIFFERENCE,
                kind="at most",
                judged="ours",
            )
            for name, difference in (("states", gap), ("vectors", vector_gap))
        ]
        rows.append(
            Row(
                what=f"RoFormer-Sim {size}: least cosine of bfloat16 vectors",
                ours=cosine,
                unit="of 1",
                peer=peer_name,
                bar=0.9999,
                judged="ours",
            )
        )
    return rows
