"""100 rewrites of one question beside 100 calls of transformers' generate with the same net."""

from __future__ import annotations

import time
from importlib import metadata

import torch
from harness import Row, interleave, timed_row
from kexue_roformer_sim.rewriting import write
from peers import roformer_writer, roformers

THREADS = 2
SAMPLES, LENGTH, BAR = 100, 16, 20.0
#: Calls of the peer that are timed; the time of one is multiplied.
CALLS = 5
QUESTION = "怎么开通信用卡的分期付款"


@torch.inference_mode()
def measure() -> list[Row]:
    torch.set_num_threads(THREADS)
    theirs, ours = roformers("small")
    peer = roformer_writer(theirs, ours)
    tokenizer = ours.tokenizer
    prompt = torch.tensor(tokenizer.encode([QUESTION], 64))
    with torch.no_grad():
        # Neither may end early: a random net's [SEP] comes when it likes.
        ours.head.bias[tokenizer.sep] = -1e4
        peer.cls.predictions.bias[tokenizer.sep] = -1e4

    def separate() -> None:
        for _ in range(CALLS):
            peer.generate(
                prompt,
                do_sample=True,
                top_p=0.95,
                top_k=0,
                max_new_tokens=LENGTH,
                min_new_tokens=LENGTH,
                eos_token_id=tokenizer.sep,
                pad_token_id=0,
                use_cache=True,
            )

    timing = interleave(
        {
            "separate": separate,
            "together": lambda: write(ours, QUESTION, samples=SAMPLES, max_length=LENGTH),
        },
        rounds=5,
        warmup=1,
        clock=time.perf_counter,
    )
    scaled = type(timing)(
        {
            k: [s * (SAMPLES / CALLS if k == "separate" else 1) for s in v]
            for k, v in timing.seconds.items()
        }
    )
    return [
        timed_row(
            scaled,
            f"{SAMPLES} rewrites of {LENGTH} tokens of one question, RoFormer-Sim small, "
            f"{THREADS} threads",
            "together",
            "separate",
            peer=f"transformers {metadata.version('transformers')}, {SAMPLES} generate calls",
            bar=BAR,
        )
    ]
