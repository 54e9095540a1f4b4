"""Precision, recall and F1 on triples that were counted by hand."""

from __future__ import annotations

import pytest
from kexue_dgcnn_ie.metric import Score, micro_score, per_predicate, repair
from kexue_dgcnn_ie.triples import Triple


def t(text: str) -> Triple:
    return Triple(*text.split("|"))


def test_repair() -> None:
    text = "《Fresh果果》改编自《花千骨》，《花千骨》很好，《七里香 》收录于《依然范特西》"
    assert repair(text, [t("《花千骨》|作者|Fresh果果")]) == {t("花千骨|作者|fresh果果")}
    # A part of a title that occurs once becomes the title; objects stay.
    assert repair(text, [t("范特西|歌手|范特西")]) == {t("依然范特西|歌手|范特西")}
    assert repair(text, [t("千骨|作者|x")]) == {t("千骨|作者|x")}  # twice in the text
    assert repair(text, [t("七里香|所属专辑|依然范特西")]) == {t("七里香|所属专辑|依然范特西")}
    assert repair("", []) == set()
    both = [t("花千骨|作者|X"), t("《花千骨》|作者|x")]
    assert len(repair(text, both)) == 1


def test_scores() -> None:
    score = Score(2, 4, 8)
    assert (score.precision, score.recall) == (0.5, 0.25)
    assert score.f1 == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    nothing = Score(0, 0, 0)
    assert nothing.precision == nothing.recall == nothing.f1 == 0


def test_triples_count_once_and_exactly() -> None:
    texts = ["甲乙", "《甲》丙"]
    true = [[t("甲|p|乙"), t("甲|q|乙")], [t("甲|p|丙")]]
    found = [[t("甲|p|乙"), t("甲|p|乙"), t("乙|p|甲")], [t("《甲》|p|丙")]]
    assert micro_score(texts, found, true, repaired=False) == Score(1, 3, 3)
    assert micro_score(texts, found, true) == Score(2, 3, 3)
    table = per_predicate(texts, found, true)
    assert table == {"p": Score(2, 3, 2), "q": Score(0, 0, 1)}
    assert list(table) == ["p", "q"]
    total = sum(table.values(), Score(0, 0, 0))
    assert total == micro_score(texts, found, true)
    with pytest.raises(ValueError, match="shorter"):
        micro_score(texts, found[:1], true)
