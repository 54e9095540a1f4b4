"""What is written beside the vectors: synonyms of all sources, and texts out of their holes."""

from __future__ import annotations

import torch
from kexue_roformer_sim.data import TokenPairs
from kexue_roformer_sim.texts import Pair
from kexue_roformer_sim.tokenizer import SPECIAL, Tokenizer
from kexue_roformer_sim.writing import WritingStream

TOKENS = Tokenizer([*SPECIAL, *"abcdefghij"])


def pairs(*given: tuple[str, str, float, str]) -> TokenPairs:
    return TokenPairs("test", [Pair(*p) for p in given], TOKENS, 16)


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def written(first: torch.Tensor, second: torch.Tensor) -> list[tuple[str, str]]:
    return [
        (TOKENS.decode(a), TOKENS.decode(b))
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]


def test_only_synonyms_are_written_both_ways_round() -> None:
    data = pairs(
        ("甲a", "乙b", 1.0, "asked"),
        ("甲a", "丙c", 0.0, "asked"),
        ("d", "e", 4.0, "some_nli"),  # entailment: true one way only
        ("d", "f", 2.0, "some_nli"),
    )
    a, b, source = data.synonyms()
    assert [data.texts[i] for i in (*a, *b)] == ["甲a", "乙b"]
    assert [data.sources[i] for i in source] == ["asked"]
    found = written(*WritingStream(data).synonyms(uniform(64, 3)))
    assert set(found) == {("a", "b"), ("b", "a")}


def test_small_sources_come_more_often_than_their_share() -> None:
    large = [("a", "b", 1.0, "large")] * 99
    stream = WritingStream(pairs(*large, ("c", "d", 1.0, "small")))
    found = written(*stream.synonyms(uniform(2_000, 3)))
    rare = sum(set(row) == {"c", "d"} for row in found) / len(found)
    # 1 / (1 + sqrt 99) = .091 by the square root of counts, .01 by counts.
    assert 0.07 < rare < 0.115


def test_every_synonym_and_text_can_be_drawn_to_the_very_ends() -> None:
    data = pairs(("a", "b", 1.0, "x"), ("c", "d", 1.0, "x"), ("e", "f", 1.0, "y"))
    stream = WritingStream(data, TOKENS.encode(["g", "h"], 16))
    found = written(*stream.synonyms(uniform(200, 3)))
    assert {frozenset(row) for row in found} == {frozenset("ab"), frozenset("cd"), frozenset("ef")}
    texts = [TOKENS.decode(row) for row in stream.texts(uniform(200)).tolist()]
    assert set(texts) == set("abcdefgh")
    # float32 may come as near to 1 as this.
    last = torch.full((1, 3), 1 - 2**-24)
    assert written(*stream.synonyms(last)) == [("e", "f")]
    assert TOKENS.decode(stream.texts(last[:, 0])[0].tolist()) == "h"


def test_without_synonyms_there_are_no_rows() -> None:
    stream = WritingStream(pairs(("a", "b", 0.0, "x"), ("c", "d", 0.0, "x")))
    first, second = stream.synonyms(uniform(8, 3))
    assert len(first) == len(second) == 0
