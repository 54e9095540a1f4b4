"""Characters, vocabularies and windows."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kexue_dgcnn_ie.text import UNKNOWN, Vocabulary, normalize, windows


@given(st.text(st.characters(exclude_categories=())))
def test_normalizing_keeps_every_offset(text: str) -> None:
    normal = normalize(text)
    assert len(normal) == len(text)
    assert normalize(normal) == normal


def test_what_normalizing_does() -> None:
    assert normalize("ＡＢＣ１２３，ａｂ Ｚz") == "abc123,ab zz"
    assert normalize("a\tb\r\nc\x00d\u200be\ud83df") == "a b  c d e f"
    assert normalize("🙂İß㎏") == "🙂i̇ß㎏"[:1] + normalize("İß㎏")
    assert len(normalize("İß㎏ﬁ")) == 4  # what would grow stays as it is


def test_vocabulary() -> None:
    vocabulary = Vocabulary.of(["天天 Abc", "天b"], minimum=2)
    assert vocabulary.characters == "天b"
    assert len(vocabulary) == 4
    assert vocabulary.numbers("天B?") == [2, 3, UNKNOWN]
    assert vocabulary.numbers("") == []
    with pytest.raises(ValueError, match="twice"):
        Vocabulary("aa")


@given(st.lists(st.text(st.characters(exclude_categories=()))))
def test_looking_up_is_numbering(texts: list[str]) -> None:
    """Also for characters that were met before, for surrogates and beyond the first plane."""
    vocabulary = Vocabulary("天地abc 🙂")
    for text in (*texts, "天A\ud83d🙂\x00\U0010ffff", ""):
        for _ in range(2):
            assert vocabulary.look_up(text).tolist() == vocabulary.numbers(text)


@given(st.integers(0, 3000), st.integers(2, 600), st.data())
def test_windows_cover_a_text(length: int, size: int, data: st.DataObject) -> None:
    """Every run no longer than the overlap is whole in some window."""
    overlap = data.draw(st.integers(0, size // 2))
    found = list(windows(length, size, overlap))
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(end - start <= size for start, end in found)
    for (_, end), (start, _) in itertools.pairwise(found):
        assert end - start == overlap
