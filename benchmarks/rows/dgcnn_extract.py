"""Texts a second that DGCNN-IE extracts facts from, beside a small RoFormer with the same heads.

Speed depends on the weights only by how much they find. So the nets are untrained, of the size that
the recipe trains, but for a few channels: those carry what a reserved character says through every
layer to the heads. Texts are random characters with as many reserved ones as the trained net finds
in DuIE's texts of that length: subjects, objects, and characters that could be either. Characters
are looked up, and facts made and sorted, as ever.
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
from kexue_dgcnn_ie.text import Vocabulary
from torch import Tensor, nn

TEXTS, BATCH, THREADS = 256, 64, 2
CHARACTERS = 7_000
#: Texts a second on two cores.
BARS = {"bfloat16": 1_500.0, "float32": 900.0}

#: Reserved: a subject's first and last character, an object's, and one that might be any of these.
RESERVED = "甲乙丙丁戊"
FIRST, LAST, OBJECT_FIRST, OBJECT_LAST, ANY = range(5)
#: A second subject, and a second object, are in this share of the texts.
SECOND_SUBJECT, SECOND_OBJECT = 1 / 3, 0.6
#: Characters of a text that could start or end something and do not: with those that do, 45 % of
#: all, as ``dgcnn-ie-duie`` has in DuIE's validation texts of that length.
LIKELY = 19
#: Logit of what is sure, and with a minus of what is not so.
SURE = 10.0


def planted(model: TripleExtractor) -> TripleExtractor:
    """With one channel for each of :data:`RESERVED`, which every layer keeps and the heads read."""
    count = len(RESERVED)
    d = model.config.width

    def reads(layer: nn.Module, unit: int, *channels: int, taps: bool = False) -> None:
        """A hidden unit is the sum of some channels, of the middle tap of a convolution."""
        weight = layer.weight
        weight[unit] = 0
        weight[unit, [weight.shape[1] // 3 * taps + channel for channel in channels]] = 1
        if layer.bias is not None:
            layer.bias[unit] = 0

    def says(layer: nn.Module, output: int, unit: int | None) -> None:
        """A logit is sure where a hidden unit is 1 (or always), unlikely where it is 0."""
        layer.weight[output] = 0
        layer.bias[output] = SURE if unit is None else -SURE
        if unit is not None:
            layer.weight[output, unit] = 2 * SURE

    with torch.no_grad():
        model.character.weight[:, :count] = 0
        numbers = model.vocabulary.numbers(RESERVED)
        model.character.weight[numbers, range(count)] = 1
        for layer in model.layers:
            convolution = layer.convolution.linear
            convolution.weight[:count] = 0
            convolution.bias[:count] = 100  # a gate that is 1
        for k, channels in enumerate(((FIRST, OBJECT_FIRST, ANY), (LAST, OBJECT_LAST, ANY))):
            reads(model.prior_hidden[k], 0, *channels)
            says(model.prior[k], 0, 0)
            reads(model.subject_convolution.linear, k, (FIRST, LAST)[k], taps=True)
            says(model.subject, k, k)
            reads(model.object_base.linear, k, (OBJECT_FIRST, OBJECT_LAST)[k], taps=True)
            model.object_subject.linear.weight[k] = 0
            model.object_subject.linear.bias[k] = 0
            model.object.weight[:] = 0
            model.object.bias[:] = -SURE
        for k in range(2):
            says(model.object, k, k)
        says(model.object_any, 0, None)
        says(model.predicate, 0, None)
    assert d > count
    return model


class RoFormerSmall(TripleExtractor):
    """The same heads on transformers' RoFormer, 6 layers of 384. No channel goes through its norms:
    what is reserved is written into the results, after computing everything.
    """

    def __init__(self) -> None:
        from transformers import RoFormerConfig, RoFormerModel

        # What an untrained net finds by itself is out of reach of these thresholds.
        super().__init__(_config(width=384, dilations=(1,), start_threshold=0.9, end_threshold=0.9))
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

    def encode(self, tokens: Tensor, rows: Rows, **features: Any) -> Encoded:
        encoded = super().encode(tokens, rows, **features)
        self.seen = tokens[rows.real]
        numbers = self.vocabulary.numbers(RESERVED)
        for k, which in enumerate((FIRST, LAST)):
            encoded.subject[self.seen == numbers[which], k] = -1e-4
        return encoded

    def objects(self, encoded: Encoded, texts: Tensor, spans: Tensor) -> Tensor:
        scores = super().objects(encoded, texts, spans)
        numbers = self.vocabulary.numbers(RESERVED)
        parts = self.seen.split(encoded.rows.lengths.tolist())
        seen = torch.cat([parts[i] for i in texts.tolist()])
        for k, which in enumerate((OBJECT_FIRST, OBJECT_LAST)):
            scores[seen == numbers[which], 0, k] = -1e-4
        return scores


def _config(**options: Any) -> DGCNNConfig:
    layers = DGCNNDuIEConfig()
    names = "width", "dilations", "heads", "start_threshold", "end_threshold"
    settings = {name: getattr(layers, name) for name in names}
    return DGCNNConfig(**(settings | {"characters": CHARACTERS} | options))


def _texts(rng: random.Random, characters: str) -> list[str]:
    """Texts of 50 to 60 of ``characters``, the first ones more often."""
    texts = []
    for _ in range(TEXTS):
        text = [
            characters[int(len(characters) * rng.random() ** 3)] for _ in range(rng.randint(50, 60))
        ]
        kinds = [(FIRST, LAST)] * (1 + (rng.random() < SECOND_SUBJECT))
        kinds += [(OBJECT_FIRST, OBJECT_LAST)] * (1 + (rng.random() < SECOND_OBJECT))
        # Four slots of twelve characters: a span of three or four in some, the rest between.
        slots = rng.sample(range(4), len(kinds))
        free = set(range(len(text)))
        for slot, (first, last) in zip(slots, kinds, strict=True):
            begin = 12 * slot + rng.randrange(8)
            end = begin + rng.choice((2, 3))
            text[begin], text[end] = RESERVED[first], RESERVED[last]
            free -= set(range(begin, end + 1))
        for place in rng.sample(sorted(free), LIKELY):
            text[place] = RESERVED[ANY]
        texts.append("".join(text))
    return texts


def measure() -> list[Row]:
    import transformers

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    others = "".join(map(chr, range(0x4E00, 0x4E00 + CHARACTERS + 20)))
    others = "".join(c for c in others if c not in RESERVED)[: CHARACTERS - 2 - len(RESERVED)]
    vocabulary = Vocabulary(RESERVED + others)
    texts = _texts(random.Random(0), others)
    rows = []
    for name, bar in BARS.items():
        dtype = getattr(torch, name)
        ours, theirs = TripleExtractor(_config()), RoFormerSmall()
        for model in (ours, theirs):
            model.set_assets(vocabulary, model.schema)
            model.eval().to(dtype)
        planted(ours)
        found = sum(map(len, ours.extract(texts)))
        assert found == sum(map(len, theirs.extract(texts)))
        timing = interleave(
            {
                "ours": lambda ours=ours: ours.extract(texts, batch_size=BATCH),
                "theirs": lambda theirs=theirs: theirs.extract(texts, batch_size=BATCH),
            },
            rounds=5,
            clock=time.perf_counter,  # two threads at once: CPU seconds would count both
        )
        rows.append(
            Row(
                what=f"DGCNN-IE extracts from texts of 50-60 characters with {found / TEXTS:.1f} "
                f"facts, batch {BATCH}, {name}, {THREADS} threads, looking up characters and "
                "decoding included",
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
