"""Texts a second that DGCNN-IE extracts facts from, beside a small RoFormer with the same heads.

Speed does not depend on what the weights have learnt, but for how much they find. So the nets are
untrained, of the size that the recipe trains, and in every text a subject is planted, in every
third a second one, each with an object: as many as DuIE's texts have. Characters are looked up, and
facts made and sorted, as ever.
"""

from __future__ import annotations

import random
import time
from typing import Any

import torch
from harness import Row, interleave
from kexue_dgcnn_ie.dgcnn import DGCNNConfig, Encoded, Rows
from kexue_dgcnn_ie.extractor import TripleExtractor
from kexue_dgcnn_ie.recipes import DGCNNDuIEConfig
from torch import Tensor

TEXTS, BATCH, CORES = 512, 64, 2
CHARACTERS = 7_000
#: Texts a second on two cores.
BARS = {"bfloat16": 1_500.0, "float32": 900.0}
LIKELY = -0.05  # log p of what is planted


class Planted(TripleExtractor):
    """Finds what is planted, after computing everything."""

    def encode(self, tokens: Tensor, rows: Rows, **features: Any) -> Encoded:
        encoded = super().encode(tokens, rows, **features)
        starts = rows.lengths.cumsum(0) - rows.lengths
        for first, last, texts in ((2, 4, starts), (20, 25, starts[::3])):
            encoded.subject[texts + first, 0] = LIKELY
            encoded.subject[texts + last, 1] = LIKELY
        return encoded

    def objects(self, encoded: Encoded, texts: Tensor, spans: Tensor) -> Tensor:
        scores = super().objects(encoded, texts, spans)
        lengths = encoded.rows.lengths[texts]
        starts = lengths.cumsum(0) - lengths
        scores[starts + 8, 0, 0] = scores[starts + 10, 0, 1] = LIKELY
        return scores


class RoFormerSmall(Planted):
    """The same heads on transformers' RoFormer, 6 layers of 384."""

    def __init__(self) -> None:
        from transformers import RoFormerConfig, RoFormerModel

        super().__init__(_config(width=384, dilations=(1,)))
        del self.layers
        self.encoder = RoFormerModel(
            RoFormerConfig(
                vocab_size=CHARACTERS, embedding_size=384, hidden_size=384, num_hidden_layers=6,
                num_attention_heads=6, intermediate_size=1536, max_position_embeddings=512,
            )
        )  # fmt: skip

    def trunk(self, tokens: Tensor, rows: Rows, words: Tensor | None = None) -> Tensor:
        length = int(rows.lengths.max())
        real = torch.arange(length) < rows.lengths[:, None]
        table = torch.zeros(real.shape, dtype=torch.int64)
        table[real] = tokens[rows.real]
        states = self.encoder(table, attention_mask=real.long()).last_hidden_state
        flat = states.new_zeros(len(tokens), states.shape[-1])
        return flat.index_copy(0, rows.real, states[real])


def _config(**options: Any) -> DGCNNConfig:
    layers = DGCNNDuIEConfig()
    settings = {"width": layers.width, "dilations": layers.dilations, "heads": layers.heads}
    # What an untrained net finds by itself is out of reach of these thresholds.
    apart = {"start_threshold": 0.9, "end_threshold": 0.9, "characters": CHARACTERS}
    return DGCNNConfig(**(settings | apart | options))


def measure() -> list[Row]:
    import transformers

    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    rng = random.Random(0)
    texts = [
        "".join(chr(0x4E00 + rng.randrange(3_000)) for _ in range(rng.randint(50, 60)))
        for _ in range(TEXTS)
    ]
    rows = []
    for name, bar in BARS.items():
        dtype = getattr(torch, name)
        ours = Planted(_config()).eval().to(dtype)
        theirs = RoFormerSmall().eval().to(dtype)
        timing = interleave(
            {
                "ours": lambda ours=ours: ours.extract(texts, batch_size=BATCH),
                "theirs": lambda theirs=theirs: theirs.extract(texts, batch_size=BATCH),
            },
            rounds=7,
            clock=time.perf_counter,  # two threads at once: CPU seconds would count both
        )
        rows.append(
            Row(
                what=f"DGCNN-IE extracts from texts of 50-60 characters, batch {BATCH}, {name}, "
                f"{CORES} cores, looking up characters and decoding included",
                ours=TEXTS / timing.median("ours"),
                unit="texts/s",
                peer=f"RoFormer-small, same heads (transformers {transformers.__version__})",
                theirs=TEXTS / timing.median("theirs"),
                ratio=timing.ratio("theirs", "ours"),
                spread=timing.spread("theirs", "ours"),
                bar=bar,
                judged="ours",
            )
        )
    return rows
