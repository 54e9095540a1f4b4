"""Texts of every kind in, facts out: the same in any company, and at the right places."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from kexue_dgcnn_ie.decoding import Fact
from kexue_dgcnn_ie.dgcnn import DGCNNConfig
from kexue_dgcnn_ie.distant import Dictionary
from kexue_dgcnn_ie.extractor import Piece, TripleExtractor
from kexue_dgcnn_ie.text import Vocabulary
from kexue_dgcnn_ie.triples import Sample, Schema, Triple
from kexue_dgcnn_ie.words import Lexicon

from kexue_core.errors import WeightsFormatError
from kexue_core.loading import load_folder
from kexue_core.saving import save_folder

TEXTS = [
    "《红楼梦》的作者是曹雪芹",
    "",
    "Ｆｕｌｌ－ｗｉｄｔｈ　ＡＢＣ１２３",
    "mixed English 和中文, 2024年3月5日",
    "🙂🙃 emoji 👩‍👩‍👧‍👦 flags 🇨🇳",
    "tab\there\r\nline\x00null\x1bescape\u200bzero\ufeffmark",
    "a lone \ud83d surrogate",
    "\ufffd\ufffd bytes that were no UTF-8".encode().decode("utf-8", "replace"),
    "一",
    " ",
]


def eager(**options: object) -> TripleExtractor:
    """An untrained model in float64 that finds very much."""
    torch.manual_seed(0)
    settings = {"characters": 300, "predicates": 3, "width": 8, "dilations": (1, 2), "heads": 2,
                "positions": 48, "start_threshold": 0.02, "end_threshold": 0.02}  # fmt: skip
    model = TripleExtractor(DGCNNConfig(**(settings | options))).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


def same(a: list[list[Fact]], b: list[list[Fact]]) -> bool:
    """The same facts at the same places; scores up to another order of sums in float64."""
    flat = [[fact for facts in x for fact in facts] for x in (a, b)]
    return [len(facts) for facts in a] == [len(facts) for facts in b] and all(
        x | {"score": 0} == y | {"score": 0} and x["score"] == pytest.approx(y["score"], rel=1e-9)
        for x, y in zip(*flat, strict=True)
    )


def test_every_piece_slices_back() -> None:
    texts = [*TEXTS, "".join(TEXTS) * 3]
    found = eager().extract(texts)
    assert len(found) == len(texts)
    assert found[1] == []
    assert sum(map(len, found)) > 50
    for text, facts in zip(texts, found, strict=True):
        for fact in facts:
            assert fact.keys() == {"subject", "predicate", "object", "score"}
            assert 0 <= fact["score"] <= 1
            for piece in (fact["subject"], fact["object"]):
                assert piece["text"]
                assert text[piece["start"] : piece["end"]] == piece["text"]


def test_company_and_order_do_not_matter() -> None:
    model = eager()
    texts = [*TEXTS, *(t * 2 for t in TEXTS)]
    together = model.extract(texts)
    for size in (1, 3, 7):
        assert same(model.extract(texts, batch_size=size), together)
    order = torch.randperm(len(texts)).tolist()
    shuffled = model.extract([texts[i] for i in order])
    assert same(shuffled, [together[i] for i in order])
    alone = [model.extract([text])[0] for text in texts]
    assert same(alone, together)
    assert model.extract([]) == []


def test_a_long_text_is_read_in_windows() -> None:
    """10,000 characters: what a window finds alone is there, moved to its place."""
    model = eager()
    text = "".join(chr(0x4E00 + (i * i) % 97) for i in range(10_000))
    [facts] = model.extract([text])
    places = {(f["subject"]["start"], f["object"]["end"]) for f in facts}
    assert max(end for _, end in places) > 9_900
    for fact in facts:
        for piece in (fact["subject"], fact["object"]):
            assert text[piece["start"] : piece["end"]] == piece["text"]
    [first] = model.extract([text[:48]])
    wordings = {(f["subject"]["text"], f["predicate"], f["object"]["text"]) for f in facts}
    assert first
    assert {(f["subject"]["text"], f["predicate"], f["object"]["text"]) for f in first} <= wordings


def test_thresholds_are_options() -> None:
    model = eager()
    many = model.extract(TEXTS)
    few = model.extract(TEXTS, start_threshold=0.2, end_threshold=0.2)
    none = model.extract(TEXTS, start_threshold=0.999)
    assert sum(map(len, many)) > sum(map(len, few)) > sum(map(len, none)) == 0


def test_another_dtype_is_a_copy_that_keeps_up(tmp_path: Path) -> None:
    model = eager().float()
    plain = model.extract(TEXTS, dtype="float32")
    rounded = model.extract(TEXTS, dtype="bfloat16")
    assert same(plain, model.extract(TEXTS))
    assert not same(plain, rounded)
    assert same(rounded, model.bfloat16().extract(TEXTS))
    model = eager().float()
    assert model.extract(TEXTS, dtype="bfloat16")
    with torch.no_grad():
        model.subject.bias.fill_(-20)  # no more subjects
    assert not any(model.extract(TEXTS, dtype="bfloat16"))
    assert len(list(model.modules())) == len(list(eager().modules()))
    assert model.extract(TEXTS, dtype="auto") is not None
    with pytest.raises(ValueError, match="dtype must be auto"):
        model.extract(TEXTS, dtype="float8")  # type: ignore[arg-type]


def test_vocabulary_and_schema_lie_beside_the_weights(tmp_path: Path) -> None:
    model = eager(words=3, word_width=4)
    vocabulary = Vocabulary("".join(chr(0x4E00 + i) for i in range(298)))
    schema = Schema(("夫", "妻", "父"), {"夫": "妻", "妻": "夫"})
    model.set_assets(vocabulary, schema, Lexicon(["天", "地"]))
    folder = save_folder(tmp_path / "weights", model)
    assert json.loads((folder / "schema.json").read_text(encoding="utf-8"))["inverse"]["夫"] == "妻"
    loaded = load_folder(folder)
    assert isinstance(loaded, TripleExtractor)
    assert loaded.vocabulary.characters == vocabulary.characters
    assert loaded.schema == schema
    assert loaded.lexicon.words == ("天", "地")
    again = save_folder(tmp_path / "again", loaded)
    assert all((folder / f.name).read_bytes() == f.read_bytes() for f in again.iterdir())
    (folder / "vocabulary.json").write_text('"天地"')
    with pytest.raises(WeightsFormatError, match="4 characters, and the model has 300"):
        load_folder(folder)
    (folder / "vocabulary.json").unlink()
    with pytest.raises(WeightsFormatError, match=r"vocabulary\.json is missing"):
        load_folder(folder)


def test_known_triples_are_features_and_are_not_saved(tmp_path: Path) -> None:
    model = eager(distant=True)
    text = "甲作乙"
    piece = [Piece(text)]
    plain = model.read(piece).subject
    model.dictionary = Dictionary([Sample("乙甲", (Triple("乙", "predicate-1", "甲"),))])
    marked = model.read(piece).subject
    assert not torch.equal(plain, marked)
    own = [Piece(text, own={Triple("乙", "predicate-1", "甲")})]
    assert torch.equal(model.read(own).subject, plain)
    loaded = load_folder(save_folder(tmp_path / "weights", model), dtype=torch.float64)
    assert isinstance(loaded, TripleExtractor)
    assert loaded.dictionary is None
    assert torch.equal(loaded.read(piece).subject, plain)


def test_a_new_model_has_a_vocabulary() -> None:
    model = TripleExtractor(DGCNNConfig(characters=30_000, predicates=2, width=8, heads=1))
    assert len(model.vocabulary) == 30_000
    tokens = model.vocabulary.numbers("abc天 地")
    assert min(tokens) > 1
    assert len(set(itertools.islice(model.vocabulary.characters, 100))) == 100
