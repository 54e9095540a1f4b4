"""Distant supervision and word vectors."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kexue_dgcnn_ie.distant import Dictionary, Match, columns, width
from kexue_dgcnn_ie.triples import Sample, Triple
from kexue_dgcnn_ie.words import Lexicon, segment, word_vectors

from kexue_core.errors import ConfigError

NUMBERS = {"作者": 0, "朝代": 1}
ONE = Triple("红楼梦", "作者", "曹雪芹")
TWO = Triple("曹雪芹", "朝代", "清")


def test_triples_of_other_texts_are_found_at_all_places() -> None:
    pytest.importorskip("ahocorasick")
    dictionary = Dictionary([Sample("...", (ONE, TWO)), Sample("...", (TWO,))])
    text = "清人曹雪芹写红楼梦，清清楚楚"
    found = dictionary.find(text)
    assert set(found) == {
        Match(ONE, (6, 8), (2, 4)),
        Match(TWO, (2, 4), (0, 0)),
        Match(TWO, (2, 4), (10, 10)),
        Match(TWO, (2, 4), (11, 11)),
    }
    # What only this text says must not be given away; what another says as well may.
    assert {match.triple for match in dictionary.find(text, own={ONE, TWO})} == {TWO}
    assert dictionary.find("红楼梦") == dictionary.find("") == []
    assert Dictionary([]).find(text) == []


def test_columns_of_features() -> None:
    match = Match(TWO, (2, 4), (0, 1))
    assert columns([match], NUMBERS) == {
        (2, 0), (4, 1),  # to the subjects
        (2, 2), (4, 3), (0, 6), (1, 7),  # to the objects: 4 + 2 * 1
    }  # fmt: skip
    assert columns([match], {"作者": 0}) == set()
    assert width(2) == 8


def test_words_are_as_long_as_the_text() -> None:
    pytest.importorskip("jieba")
    text = "ＡＢＣ 科学空间是一个博客。\n🙂"
    words = segment(text)
    assert sum(map(len, words)) == len(text)
    assert "科学" in "|".join(words)
    lexicon = Lexicon(["科学", "博客"])
    numbers = lexicon.of_characters(text)
    assert len(numbers) == len(text)
    assert numbers[text.index("博") : text.index("博") + 2] == [2, 2]
    assert numbers[0] == 0
    with pytest.raises(ValueError, match="twice"):
        Lexicon(["a", "a"])


def test_words_in_the_same_company_are_alike() -> None:
    pytest.importorskip("jieba")
    torch.manual_seed(0)
    lines = []
    for animal, sound in [("猫", "叫"), ("狗", "叫"), ("汽车", "行驶"), ("火车", "行驶")] * 30:
        company = "温柔 安静 可爱" if sound == "叫" else "飞快 沉重 轰鸣"
        lines.append(f"{animal} {company} {sound}")
    lexicon, vectors = word_vectors(lines, 6, minimum=5)
    again, same = word_vectors(lines, 6, minimum=5)
    assert lexicon.words == again.words
    assert torch.equal(vectors, same)
    assert vectors.shape == (len(lexicon), 6)
    assert not vectors[0].any()
    assert float(vectors[1:].norm(dim=-1).mean()) == pytest.approx(1)
    cat, dog, car, train = (vectors[n] for n in lexicon.numbers(["猫", "狗", "汽车", "火车"]))
    alike = torch.cosine_similarity
    assert alike(cat, dog, 0) > 0.8
    assert alike(car, train, 0) > 0.8
    assert alike(cat, car, 0) < 0.4
    with pytest.raises(ConfigError, match="too few for vectors of length 64"):
        word_vectors(lines, 64)


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("ahocorasick", lambda: Dictionary([]), "distant"),
        ("jieba", lambda: segment("天"), "words"),
    ],
)
def test_what_is_not_installed_is_named(
    module: str, call: Callable[[], object], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == module:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=module) as caught:
        call()
    assert f"kexue-dgcnn-ie[{extra}]" in str(caught.value.hint)
