"""Labels, swaps, drawn subjects and targets."""

from __future__ import annotations

import random

import torch
from kexue_dgcnn_ie.samples import Labels, Swap, assemble, draw_subjects, label, occurrences
from kexue_dgcnn_ie.triples import Sample, Triple

NUMBERS = {"作者": 0, "朝代": 1}


def test_occurrences() -> None:
    assert occurrences("哈哈哈", "哈哈", "all") == [(0, 1), (1, 2)]
    assert occurrences("哈哈哈", "哈哈", "first") == [(0, 1)]
    assert occurrences("哈", "呵", "all") == []


def test_labels_of_first_and_of_all_places() -> None:
    sample = Sample("甲作乙，乙甲", (Triple("乙", "作者", "甲"), Triple("甲", "国籍", "乙")))
    assert label(sample, NUMBERS, which="first") == Labels({(2, 2): [(0, 0, 0)]})
    everywhere = [(0, 0, 0), (0, 5, 5)]
    assert label(sample, NUMBERS).subjects == {(2, 2): everywhere, (4, 4): everywhere}
    assert label(sample, NUMBERS, longest=4).subjects == {(2, 2): [(0, 0, 0)]}


def test_a_swap_keeps_text_and_triples_together() -> None:
    one = Sample("甲作乙丙", (Triple("乙丙", "作者", "甲"), Triple("乙丙", "朝代", "丙")))
    other = Sample("丁戊己", (Triple("丁戊", "作者", "己己"[:1]),))
    swap = Swap([one, other])
    seen = set()
    for seed in range(40):
        sample = swap(one, random.Random(seed))
        assert sample == swap(one, random.Random(seed))
        seen.add(sample.text)
        for triple in sample.triples:
            assert triple.subject in sample.text
            assert triple.object in sample.text
    assert "己作丁戊" in seen
    empty = Sample("甲", ())
    assert swap(empty, random.Random(0)) is empty


def test_subjects_that_are_drawn() -> None:
    labels = Labels({(0, 1): [(0, 3, 3)], (4, 6): [(1, 0, 0)], (8, 8): []})
    for seed in range(30):
        drawn = draw_subjects(labels, random.Random(seed), most=2, wrong=1.0)
        true = [d for d in drawn if d.span in labels.subjects]
        assert len(true) == 2
        assert all(d.objects == labels.subjects[d.span] for d in true)
        for odd in (d for d in drawn if d.span not in labels.subjects):
            assert odd.objects == []
            assert odd.span[0] <= odd.span[1]
    joined = [draw_subjects(labels, random.Random(s), most=1, wrong=0.0) for s in range(200)]
    assert all(len(d) == 1 for d in joined)
    spans = {d[0].span for d in joined}
    assert spans == {(a, b) for a in (0, 4, 8) for b in (1, 6, 8) if b >= a}  # drawn apart
    assert draw_subjects(Labels({}), random.Random(0), most=3, wrong=1.0) == []


def test_targets_are_places_in_the_joined_texts() -> None:
    labels = [Labels({(1, 2): [(0, 0, 0), (1, 0, 1)]}), Labels({}), Labels({(0, 0): [(1, 1, 1)]})]
    drawn = [draw_subjects(found, random.Random(0), most=3, wrong=0.0) for found in labels]
    targets = assemble([4, 3, 2], labels, drawn, 2)
    subject = torch.zeros(9, 2)
    subject.view(-1)[targets.subject] = 1
    assert subject.nonzero().tolist() == [[1, 0], [2, 1], [7, 0], [7, 1]]
    assert targets.texts.tolist() == [0, 2]
    assert targets.spans.tolist() == [[1, 2], [0, 0]]
    objects = torch.zeros(6, 2, 2)  # the texts of both subjects, predicates, start and end
    objects.view(-1)[targets.object] = 1
    assert objects.nonzero().tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 1, 1], [5, 1, 0], [5, 1, 1]
    ]  # fmt: skip
    nothing = assemble([3], [Labels({})], [[]], 2)
    assert nothing.spans.shape == (0, 2)
    assert not len(nothing.object)
