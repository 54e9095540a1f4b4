"""Files of labelled texts, their mistakes, their splits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from kexue_dgcnn_ie.data import open_triples
from kexue_dgcnn_ie.triples import Sample, Schema, Triple, read_texts, read_triples

from kexue_core.errors import DataError

GOOD = {"text": "甲作乙", "spo": [["乙", "作者", "甲"], ["乙", "作者", "甲"], ["乙", "朝代", ""]]}


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_file_is_read(tmp_path: Path, name: str) -> None:
    found = read_triples(write(tmp_path / name, GOOD, "", {"text": "", "spo": []}))
    assert found.name == "a"
    assert found.samples == [Sample("甲作乙", (Triple("乙", "作者", "甲"),)), Sample("", ())]
    assert len(found.fingerprint) == 64


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "line 2 is no JSON object"),
        ({"spo": []}, "line 2: text is missing"),
        ({"text": 3, "spo": []}, "line 2: text is 3 and no text"),
        ({"text": "a"}, "line 2: spo is missing"),
        ({"text": "a", "spo": {}}, "line 2: spo is {} and no list"),
        ({"text": "a", "spo": [["a", "p", "a"], ["a", "p"]]}, r"line 2: spo\[1\] is .* three"),
        ({"text": "a", "spo": [["a", 5, "a"]]}, r"spo\[0\]: the predicate is 5 and no text"),
        ({"text": "a", "spo": [["b", "p", "a"]]}, r"line 2: spo\[0\]: the subject 'b' does not"),
        ({"text": "a", "spo": [["a", "p", "c"]]}, "the object 'c' does not occur in the text"),
    ],
)
def test_a_mistake_is_named_with_line_and_field(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "b.jsonl", GOOD, row)
    with pytest.raises(DataError, match=message):
        read_triples(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_triples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is empty"):
        read_triples(write(tmp_path / "c.jsonl", ""))
    (tmp_path / "d.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        read_triples(tmp_path / "d.jsonl.gz")


def test_texts_without_labels(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path / "a.txt", "甲", "", "乙\r")) == ["甲", "乙"]
    assert read_texts(write(tmp_path / "a.jsonl.gz", {"text": "甲"})) == ["甲"]
    assert read_texts(write(tmp_path / "b.txt", "a\udcffb")) == ["a\ufffdb"]  # no UTF-8
    with pytest.raises(DataError, match="line 1: text is missing"):
        read_texts(write(tmp_path / "b.jsonl", {"title": "甲"}))


def test_splits_of_one_file_and_of_several(tmp_path: Path) -> None:
    rows = [{"text": f"甲{i}", "spo": []} for i in range(20)]
    whole = write(tmp_path / "whole.jsonl", *rows)
    parts = {s: open_triples(whole, s).samples for s in ("train", "val", "test")}
    assert [len(p) for p in parts.values()] == [16, 2, 2]
    assert len({sample.text for part in parts.values() for sample in part}) == 20
    train = write(tmp_path / "x.train.jsonl", *rows)
    with pytest.raises(DataError, match=r"no val split beside .*x\.train\.jsonl"):
        open_triples(train, "val")
    write(tmp_path / "x.dev.jsonl", rows[0])
    assert len(open_triples(train, "train")) == 20
    assert len(open_triples(train, "val")) == 1


def test_a_schema_file_decides(tmp_path: Path) -> None:
    data = write(tmp_path / "x.train.jsonl", GOOD)
    schema = tmp_path / "x.schema.json"
    schema.write_text('{"predicates": ["朝代", "作者"], "inverse": {}}', encoding="utf-8")
    assert open_triples(data, "train").schema == Schema(("朝代", "作者"))
    for content, message in (
        ('{"predicates": ["朝代"]}', r"line 1: spo\[0\]: .*'作者' is not in .*schema"),
        ('{"predicates": []}', "at least one"),
        ('{"predicates": "朝代"}', "predicates must be a list"),
        ('{"predicates": ["作者"], "inverse": {"作者": "夫"}}', "'夫' has an inverse"),
        ('{"names": []}', "unknown key 'names'"),
        ("{", "is no JSON"),
    ):
        schema.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            open_triples(data, "train")


def test_predicates_and_inverses_of_labels() -> None:
    couple = Sample("甲乙", (Triple("甲", "丈夫", "乙"), Triple("乙", "妻子", "甲")))
    child = Sample("甲丙", (Triple("丙", "母亲", "甲"), Triple("甲", "子女", "丙")))
    lone = Sample("甲丙", (Triple("丙", "母亲", "甲"),))
    schema = Schema.of([couple] * 20 + [child] * 20 + [lone] * 5)
    assert schema.predicates == ("母亲", "丈夫", "妻子", "子女")
    assert schema.inverse == {"丈夫": "妻子", "妻子": "丈夫"}  # a mother is inverse in 20 of 25
    assert Schema.of([couple] * 19).inverse == {}
    for wrong in ((), ("a", "a")):
        with pytest.raises(ValueError, match="distinct names"):
            Schema(wrong)
    with pytest.raises(ValueError, match="is no predicate"):
        Schema(("a",), {"a": "b"})
