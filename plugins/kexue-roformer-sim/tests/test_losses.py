"""Losses and token tensors against their definitions, written out in Python."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from kexue_roformer_sim.losses import (
    cosent_loss,
    distillation_loss,
    info_nce,
    pair_logits_loss,
    simbert_loss,
)
from kexue_roformer_sim.sequences import corrupt, join, targets_of
from torch import Tensor


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b, dim=0))


def test_simbert_by_its_definition() -> None:
    vectors = torch.randn(8, 5)
    total = 0.0
    for i in range(8):
        others = {j: math.exp(20 * cosine(vectors[i], vectors[j])) for j in range(8) if j != i}
        total -= math.log(others[i ^ 1] / sum(others.values()))
    assert float(simbert_loss(vectors)) == pytest.approx(total / 8, rel=1e-4)
    assert float(simbert_loss(3 * vectors)) == pytest.approx(float(simbert_loss(vectors)), rel=1e-5)


def test_info_nce_by_its_definition() -> None:
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    positive = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    left, right = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([10, 11, 12, 10, 14, 15])
    total, rows = 0.0, positive.nonzero().flatten().tolist()
    for ask, answer, asked, answered in ((a, b, left, right), (b, a, right, left)):
        for i in rows:
            candidates = {
                j: math.exp(20 * cosine(ask[i], answer[j]))
                for j in range(6)
                if j == i or answered[j] not in (answered[i], asked[i])
            }
            total -= math.log(candidates[i] / sum(candidates.values())) / len(rows) / 2
    assert float(info_nce(a, b, positive, (left, right))) == pytest.approx(total, rel=1e-4)


def test_info_nce_without_positives_is_nothing() -> None:
    a = torch.randn(3, 4, requires_grad=True)
    none = torch.zeros(3, dtype=torch.bool)
    loss = info_nce(a, a, none, (torch.arange(3), torch.arange(3)))
    loss.backward()
    assert loss == 0
    assert (a.grad == 0).all()


def test_cosent_by_its_definition() -> None:
    cosines = torch.rand(7) * 2 - 1
    labels = torch.tensor([1.0, 0, 1, 0, 5, 3, 3])
    groups = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    terms = [
        math.exp(20 * float(cosines[j] - cosines[i]))
        for i in range(7)
        for j in range(7)
        if labels[i] > labels[j] and groups[i] == groups[j]
    ]
    assert len(terms) == 4
    expected = math.log(1 + sum(terms))
    assert float(cosent_loss(cosines, labels, groups)) == pytest.approx(expected, rel=1e-5)
    assert cosent_loss(cosines, torch.ones(7), groups) == 0
    ranked = torch.tensor([0.9, -0.9])
    assert cosent_loss(ranked, torch.tensor([1.0, 0.0]), torch.zeros(2)) < 1e-6


def test_distillation_compares_cosines_and_not_vectors() -> None:
    teacher = torch.randn(5, 9)
    turn = torch.linalg.qr(torch.randn(9, 9)).Q
    assert distillation_loss(teacher @ turn * 4, teacher) < 1e-8
    student = torch.randn(5, 3)
    squares = [
        (cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2
        for i in range(5)
        for j in range(5)
    ]
    expected = 100 * sum(squares) / 25
    assert float(distillation_loss(student, teacher)) == pytest.approx(expected, rel=1e-4)


def test_kinds_of_labels_do_not_compete() -> None:
    logits = torch.randn(4, 5)
    labels = torch.tensor([0, 1, 4, 2])
    rows = [F.cross_entropy(logits[i : i + 1, :2], labels[i : i + 1]) for i in (0, 1)]
    rows += [F.cross_entropy(logits[i : i + 1, 2:], labels[i : i + 1] - 2) for i in (2, 3)]
    torch.testing.assert_close(pair_logits_loss(logits, labels), torch.stack(rows).mean())
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(pair_logits_loss(logits, labels), logits)
    assert (gradient[:2, 2:] == 0).all()
    assert (gradient[2:, :2] == 0).all()


def test_join_puts_the_second_right_after_the_first() -> None:
    first = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    second = torch.tensor([[2, 5, 3, 0, 0], [2, 5, 6, 4, 3]])
    tokens, segments = join(first, second)
    assert tokens.tolist() == [[2, 7, 8, 3, 5, 3, 0], [2, 9, 3, 5, 6, 4, 3]]
    assert segments.tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]
    predict, targets = targets_of(tokens, segments)
    assert targets.tolist() == [5, 3, 5, 6, 4, 3]
    assert predict.tolist() == [
        [False, False, False, True, True, False, False],
        [False, False, True, True, True, True, False],
    ]


def test_holes_are_bert_s_and_spare_what_is_kept() -> None:
    tokens = torch.randint(10, 1000, (200, 50))
    keep = torch.zeros_like(tokens, dtype=torch.bool)
    keep[:, :10] = True
    noise = torch.rand(200, 50, 3)
    found = corrupt(tokens, noise, share=0.15, mask=4, vocab_size=1000, keep=keep)
    assert torch.equal(found[:, :10], tokens[:, :10])
    changed = (found != tokens)[:, 10:].float().mean()
    masked = (found == 4)[:, 10:].float().mean()
    # Four deviations of 8,000 draws: 15 % chosen, of these 80 % [MASK], 10 % another.
    assert float(masked) == pytest.approx(0.12, abs=0.015)
    assert float(changed - masked) == pytest.approx(0.015, abs=0.006)
    assert (found > 0).all()
    assert found.max() < 1000
