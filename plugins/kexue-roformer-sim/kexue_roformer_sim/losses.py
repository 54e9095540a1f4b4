"""Losses of sentence vectors and of writing. Plain torch, runs without kexue when copied out.

References:
    [1] Su Jianlin, SimBERT, https://kexue.fm/archives/7427; RoFormer-Sim, /archives/8454 and 8541
    [2] Su Jianlin, CoSENT, https://kexue.fm/archives/8847
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cosent_loss", "distillation_loss", "info_nce", "pair_logits_loss", "simbert_loss"]

#: Classes of :func:`pair_logits_loss`: 0 and 1 of binary sets, 2 to 4 of inference sets.
BINARY, INFERENCE = (0, 2), (2, 5)


def simbert_loss(vectors: Tensor, scale: float = 20.0) -> Tensor:
    """In-batch softmax over cosines: each row must find the other of its pair [1].

    Args:
        vectors: (2 n, d), rows 2 i and 2 i + 1 a pair; any length.
        scale: Times the cosine; 20 in RoFormer-Sim, 30 in SimBERT.
    """
    unit = F.normalize(vectors.float(), dim=-1)
    cosines = scale * unit @ unit.T
    cosines.fill_diagonal_(-torch.inf)  # nobody is its own answer
    partner = torch.arange(len(unit), device=unit.device) ^ 1
    return F.cross_entropy(cosines, partner)


def info_nce(
    left: Tensor,
    right: Tensor,
    positive: Tensor,
    texts: tuple[Tensor, Tensor],
    scale: float = 20.0,
) -> Tensor:
    """Symmetric in-batch softmax of the positive pairs; partners of negative pairs are candidates.

    Args:
        left, right: (n, d) each.
        positive: (n,), true where a pair means the same. Without any the loss is 0.
        texts: Numbers of the texts on both sides, (n,) each: another row with the very text that
            is looked for, or asked with, is no wrong answer.
        scale: Times the cosine.
    """
    a, b = F.normalize(left.float(), dim=-1), F.normalize(right.float(), dim=-1)
    rows = positive.nonzero().squeeze(-1)
    if not len(rows):
        return (left.sum() + right.sum()) * 0.0
    total = left.new_zeros((), dtype=torch.float32)
    for ask, answer, asked, answered in ((a, b, *texts), (b, a, *texts[::-1])):
        cosines = scale * ask[rows] @ answer.T
        same = (answered == answered[rows][:, None]) | (answered == asked[rows][:, None])
        same[torch.arange(len(rows), device=rows.device), rows] = False
        total = total + F.cross_entropy(cosines.masked_fill(same, -torch.inf), rows) / 2
    return total


def cosent_loss(cosines: Tensor, labels: Tensor, groups: Tensor, scale: float = 20.0) -> Tensor:
    """log(1 + sum of exp(scale (c_j - c_i)) over i, j of one group with label_i > label_j) [2].

    Ranks pairs, by labels that only their own group's are compared with.

    Args:
        cosines, labels, groups: (n,) each.
        scale: Times the cosine.
    """
    wrong = scale * (cosines[None, :] - cosines[:, None]).float()
    ranked = (labels[:, None] > labels[None, :]) & (groups[:, None] == groups[None, :])
    terms = torch.cat([wrong.new_zeros(1), wrong[ranked]])
    return torch.logsumexp(terms, 0)


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """100 times the mean squared difference of all cosines within a batch [1, post 8454].

    Args:
        student: Vectors (n, d).
        teacher: Vectors (n, e) of the same texts; e may differ from d.
    """
    s = F.normalize(student.float(), dim=-1)
    t = F.normalize(teacher.float(), dim=-1)
    return 100 * (s @ s.T - t @ t.T).square().mean()


def pair_logits_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (n, 5) logits where two kinds of labels share one head [1, post 8541].

    Labels 0 and 1 say whether a pair means the same and compete with each other only; 2, 3 and 4
    are contradiction, neutral and entailment, and compete among themselves.
    """
    binary = labels[:, None] < BINARY[1]
    classes = torch.arange(INFERENCE[1], device=logits.device)
    competes = (classes < BINARY[1]) == binary
    return F.cross_entropy(logits.float().masked_fill(~competes, -torch.inf), labels)
