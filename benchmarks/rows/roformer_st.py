"""Texts to vectors beside sentence-transformers' encode: the same net, tokenizer included."""

from __future__ import annotations

import gzip
import os
import random
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from harness import Row, interleave, timed_row
from kexue_roformer_sim.tokenizer import shipped_vocabulary
from peers import roformers, sentence_transformer

THREADS = 2
TEXTS = 1024
#: Sentences of mixed length as people type them; without the file, drawn with its lengths.
LCQMC = Path(os.environ.get("KEXUE_LCQMC", "data/text/sim/lcqmc.test.tsv.gz"))


def sentences() -> list[str]:
    if LCQMC.is_file():
        with gzip.open(LCQMC, "rt", encoding="utf-8") as lines:
            texts = [t for line in lines for t in line.split("\t")[:2]]
        return random.Random(0).sample(sorted(set(texts)), TEXTS)
    drawn = random.Random(0)
    characters = [t for t in shipped_vocabulary() if len(t) == 1 and "一" <= t <= "龥"]
    lengths = [min(40, max(3, round(drawn.lognormvariate(2.2, 0.4)))) for _ in range(TEXTS)]
    return ["".join(drawn.choices(characters, k=n)) for n in lengths]


def measure() -> list[Row]:
    torch.set_num_threads(THREADS)
    texts = sentences()
    rows = []
    for size in ("small", "base"):
        theirs, ours = roformers(size)
        with tempfile.TemporaryDirectory() as folder:
            peer = sentence_transformer(theirs, ours.tokenizer, Path(folder))
            few = texts if size == "small" else texts[: TEXTS // 4]
            # The pooler is the identity here: sentence-transformers takes [CLS] as it is.
            expected = peer.encode(few, batch_size=64, normalize_embeddings=True)
            cosines = {
                dtype: float((ours.embed(few, dtype=dtype) * np.asarray(expected)).sum(-1).min())
                for dtype in ("float32", "bfloat16")
            }
            timing = interleave(
                {
                    "peer": lambda p=peer, x=few: p.encode(x, batch_size=64),
                    "float32": lambda m=ours, x=few: m.embed(x),
                    "bfloat16": lambda m=ours, x=few: m.embed(x, dtype="bfloat16"),
                },
                rounds=5,
                warmup=1,
                clock=time.perf_counter,
            )
        name = f"sentence-transformers {metadata.version('sentence-transformers')}"
        what = f"{len(few)} sentences of LCQMC, RoFormer-Sim {size}, {THREADS} threads"
        for dtype, bar in (("float32", 1.9), ("bfloat16", 2.8)):
            rows.append(timed_row(timing, f"{what}, {dtype}", dtype, "peer", peer=name, bar=bar))
            rows.append(
                Row(
                    what=f"RoFormer-Sim {size}: least cosine of vectors, {dtype}",
                    ours=cosines[dtype],
                    unit="of 1",
                    peer=name,
                    bar=0.9999,
                    judged="ours",
                )
            )
    return rows
