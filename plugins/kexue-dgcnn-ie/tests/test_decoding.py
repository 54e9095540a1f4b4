"""Spans and facts out of hand-made tensors of probabilities."""

from __future__ import annotations

import torch
from kexue_dgcnn_ie.decoding import decode_objects, decode_subjects, distinct, with_inverses
from kexue_dgcnn_ie.dgcnn import DGCNNConfig, Encoded
from kexue_dgcnn_ie.extractor import Piece, TripleExtractor
from kexue_dgcnn_ie.text import Vocabulary
from kexue_dgcnn_ie.triples import Schema
from torch import Tensor

HIGH, LOW = 0.9, 0.05


def marks(length: int, starts: list[int], ends: list[int]) -> Tensor:
    """Probabilities (length, 2): high at some places."""
    table = torch.full((length, 2), LOW)
    table[starts, 0] = HIGH
    table[ends, 1] = HIGH
    return table


def spans(probability: Tensor, *lengths: int) -> list[tuple[int, int, int]]:
    found = decode_subjects(probability, torch.tensor(lengths))
    return list(zip(found.owner.tolist(), found.first.tolist(), found.last.tolist(), strict=True))


def test_a_start_goes_with_the_nearest_end() -> None:
    assert spans(marks(9, [1, 5], [2, 3, 7]), 9) == [(0, 1, 2), (0, 5, 7)]
    assert spans(marks(9, [4], [4, 5]), 9) == [(0, 4, 4)]  # one character
    assert spans(marks(9, [2, 3], [6]), 9) == [(0, 2, 6), (0, 3, 6)]  # nested, with one end
    assert spans(marks(9, [7], [3]), 9) == []  # no end after it
    assert spans(marks(9, [], [3]), 9) == []
    assert spans(marks(9, [3], []), 9) == []


def test_no_span_reaches_into_the_next_text() -> None:
    probability = torch.cat([marks(4, [2], []), marks(3, [1], [0, 2]), marks(2, [], [])])
    assert spans(probability, 4, 3, 2) == [(1, 1, 2)]
    probability = torch.cat([marks(4, [0], [1]), marks(3, [2], [2])])
    assert spans(probability, 4, 0, 3) == [(0, 0, 1), (2, 2, 2)]  # an empty text between


def test_thresholds_and_score() -> None:
    table = marks(5, [], [])
    table[1, 0], table[2, 1] = 0.45, 0.36
    assert spans(table, 5) == []
    found = decode_subjects(table, torch.tensor([5]), start=0.4, end=0.3)
    assert found.first.tolist() == [1]
    assert torch.allclose(found.score, torch.tensor([(0.45 * 0.36) ** 0.5]))
    assert not len(decode_subjects(table, torch.tensor([5]), start=0.45, end=0.3).owner)


def test_predicates_do_not_mix() -> None:
    """A start of one predicate and an end of another are no span; two subjects' texts neither."""
    table = torch.full((6, 3, 2), LOW)  # two subjects of a text of 3 characters
    table[0, 1, 0] = table[2, 2, 1] = HIGH
    assert not len(decode_objects(table, torch.tensor([3, 3])).owner)
    table[2, 1, 1] = HIGH  # subject 0, predicate 1: 0..2
    table[3, 0, :] = HIGH  # subject 1, predicate 0: 0..0
    table[4, 2, 0] = table[5, 2, 1] = HIGH  # subject 1, predicate 2: 1..2
    found = decode_objects(table, torch.tensor([3, 3]))
    rows = list(zip(*(column.tolist() for column in found[:4]), strict=True))
    assert rows == [(1, 0, 0, 0), (0, 1, 0, 2), (1, 2, 1, 2)]


class Puppet(TripleExtractor):
    """An extractor whose probabilities are written by hand.

    ``objects`` maps the spans (first, last) of subjects to (predicate number, first, last).
    """

    def __init__(
        self,
        text: str,
        predicates: tuple[str, ...],
        objects: dict[tuple[int, int], list[tuple[int, int, int]]],
        inverse: dict[str, str] | None = None,
    ) -> None:
        vocabulary = Vocabulary("".join(dict.fromkeys(text)))
        super().__init__(
            DGCNNConfig(
                characters=len(vocabulary),
                predicates=len(predicates),
                width=8,
                dilations=(1,),
                heads=2,
            )
        )
        self.set_assets(vocabulary, Schema(predicates, inverse or {}))
        self.triples = objects

    def read(self, pieces: list[Piece]) -> Encoded:  # type: ignore[override]
        table = torch.cat([
            marks(len(p.text), [a for a, _ in self.triples], [b for _, b in self.triples])
            for p in pieces
        ])  # fmt: skip
        return super().read(pieces)._replace(subject=table.log())

    def objects(self, encoded: Encoded, texts: Tensor, spans: Tensor) -> Tensor:
        parts = []
        for text, span in zip(texts.tolist(), spans.tolist(), strict=True):
            length = int(encoded.rows.lengths[text])
            table = torch.full((length, self.config.predicates, 2), LOW)
            for p, first, last in self.triples.get((span[0], span[1]), []):
                table[first, p, 0] = table[last, p, 1] = HIGH
            parts.append(table)
        return torch.cat(parts).log()


def facts(model: Puppet, text: str) -> set[tuple[str, str, str]]:
    [one, two] = model.extract([text, text])
    assert one == two
    for fact in one:
        for piece in (fact["subject"], fact["object"]):
            assert text[piece["start"] : piece["end"]] == piece["text"]
        assert abs(fact["score"] - HIGH * HIGH) < 1e-5
    return {(f["subject"]["text"], f["predicate"], f["object"]["text"]) for f in one}


def test_one_subject_with_many_objects_and_predicates() -> None:
    text = "周杰伦作词并演唱七里香和东风破"
    model = Puppet(text, ("作词", "歌手"), {(0, 2): [(0, 8, 10), (0, 12, 14), (1, 8, 10)]})
    assert facts(model, text) == {
        ("周杰伦", "作词", "七里香"),
        ("周杰伦", "作词", "东风破"),
        ("周杰伦", "歌手", "七里香"),
    }


def test_several_subjects_share_an_object() -> None:
    text = "甲片与乙片均由丙执导"
    model = Puppet(text, ("导演",), {(0, 1): [(0, 7, 7)], (3, 4): [(0, 7, 7)]})
    assert facts(model, text) == {("甲片", "导演", "丙"), ("乙片", "导演", "丙")}


def test_a_subject_inside_an_object_and_an_object_inside_a_subject() -> None:
    text = "鲁迅全集收鲁迅所作"
    model = Puppet(text, ("作者", "作品"), {(0, 3): [(0, 0, 1)], (5, 6): [(1, 0, 3)]})
    assert facts(model, text) == {("鲁迅全集", "作者", "鲁迅"), ("鲁迅", "作品", "鲁迅全集")}


def test_a_subject_that_is_its_own_object() -> None:
    text = "来不及说我爱你"
    model = Puppet(text, ("改编自",), {(0, 6): [(0, 0, 6)]})
    assert facts(model, text) == {(text, "改编自", text)}


def test_husbands_have_wives() -> None:
    text = "甲乙丙"
    inverse = {"丈夫": "妻子", "妻子": "丈夫"}
    model = Puppet(text, ("丈夫", "妻子", "父亲"), {(0, 0): [(0, 1, 1), (2, 2, 2)]}, inverse)
    assert facts(model, text) == {
        ("甲", "丈夫", "乙"), ("乙", "妻子", "甲"), ("甲", "父亲", "丙")
    }  # fmt: skip


def test_one_fact_of_each_wording() -> None:
    def fact(start: int, score: float) -> dict[str, object]:
        piece = {"text": "甲", "start": start, "end": start + 1}
        return {"subject": piece, "predicate": "p", "object": piece, "score": score}

    found = distinct([fact(0, 0.4), fact(5, 0.6), fact(9, 0.5)], ["p"])
    assert [f["score"] for f in found] == [0.6]
    assert with_inverses([fact(0, 0.4)], {}) == [fact(0, 0.4)]
