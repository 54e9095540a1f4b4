"""Pairs of files, and what is held out of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from kexue_roformer_sim.data import ROUNDS, HeldOut, TokenPairs
from kexue_roformer_sim.measures import spearman, tfidf_cosines
from kexue_roformer_sim.texts import Pair, divide, read_corpus, read_pairs
from kexue_roformer_sim.tokenizer import Tokenizer, pad, shipped_vocabulary
from kexue_roformer_sim.vocabulary import choose_vocabulary, inverse_frequencies, token_vectors

from kexue_core.errors import DataError


def pairs(n: int, source: str = "questions", *, start: int = 0) -> list[Pair]:
    return [
        Pair(f"第{i}个问题怎么办", f"问题{i}如何解决", float(i % 2), source)
        for i in range(start, start + n)
    ]


def test_the_three_formats(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("一\t二\t1\n三\t四\tcontradiction\n\n五\t六\t2.5\tother\n")
    assert read_pairs(tmp_path / "a.tsv") == [
        Pair("一", "二", 1, "a"),
        Pair("三", "四", 2, "a"),
        Pair("五", "六", 2.5, "other"),
    ]
    lines = [
        {"text": "一\n二", "synonyms": ["三", "四 五"]},
        {"a": "六", "b": "七", "label": 0},
        {"origin": "八", "entailment": "九", "contradiction": "十"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    found = read_pairs(tmp_path / "b.jsonl.gz")
    assert found[:2] == [Pair("一 二", "三", 1, "b"), Pair("一 二", "四 五", 1, "b")]
    assert [(p.a, p.label) for p in found[2:]] == [("六", 0), ("八", 4), ("八", 2)]


@pytest.mark.parametrize("line", ["一\t二", "一\t二\tgood", "[1]", '{"a": "x"}', "{"])
def test_a_bad_line_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tsv" if "\t" in line else "a.jsonl")
    good = "一\t二\t1" if "\t" in line else '{"a": "一", "b": "二", "label": 1}'
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        read_pairs(path)


def test_no_sentence_is_on_two_sides() -> None:
    chain = [Pair(f"链{i}", f"链{i + 1}", float(i % 2), "chain") for i in range(25)]
    given = pairs(3000) + chain
    given += [Pair(p.a, f"又一个{i}", float(i % 3 == 0), "more") for i, p in enumerate(pairs(1500))]
    train, val, test = divide(given)
    held = [[x for group in side.values() for x in group] for side in (val, test)]
    sides = [{t for p in part for t in (p.a, p.b)} for part in (train, *held)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert len(train) + sum(map(len, held)) == len(given)
    for part in held:
        assert 0.02 < len(part) / len(given) < 0.06
    again = divide(given[::-1])
    assert set(again[0]) == set(train)
    kept = {p for p in train if p.source == "questions"}
    more, *_ = divide(given + pairs(500, start=9000))
    assert kept <= set(more)


def test_lumps_are_not_torn_and_the_largest_are_trained_on() -> None:
    hub = [Pair("中心", f"叶{i}", float(i % 2), "hub") for i in range(100)]
    train, val, test = divide(hub + pairs(300))
    assert set(hub) <= set(train)
    assert all("hub" not in side for side in (val, test))


def test_a_folder_keeps_held_out_files_apart(tmp_path: Path) -> None:
    def write(name: str, rows: list[Pair]) -> None:
        text = "".join(f"{p.a}\t{p.b}\t{p.label:g}\n" for p in rows)
        (tmp_path / name).write_text(text)

    write("mine.tsv", pairs(400))
    write("other.valid.tsv", pairs(50, start=1000) + pairs(5))
    write("other.test.tsv", pairs(50, start=2000) + pairs(5, start=5))
    (tmp_path / "alone.txt").write_text("独自一句\n第0个问题怎么办\n")
    corpus = read_corpus(tmp_path)
    assert set(corpus.val) >= {"other"}
    assert set(corpus.test) == {"other"}
    trained = {t for p in corpus.train for t in (p.a, p.b)} | set(corpus.texts)
    held = {t for g in (*corpus.val.values(), *corpus.test.values()) for p in g for t in p[:2]}
    assert not trained & held
    assert corpus.texts == ("独自一句",)
    alone = read_corpus(tmp_path / "other.test.tsv")
    assert len(alone.test["other"]) == 55
    assert not alone.train
    with pytest.raises(DataError, match="does not exist"):
        read_corpus(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pairs"):
        read_corpus(tmp_path / "empty")


def test_token_pairs_say_what_each_loss_wants() -> None:
    tokenizer = Tokenizer(shipped_vocabulary())
    given = [
        Pair("一", "二", 1, "same"),
        Pair("三", "四", 0, "same"),
        Pair("五", "六", -1, "same"),
        Pair("七", "八", 4, "csnli.dev"),
        Pair("九", "十", 2, "csnli.dev"),
        Pair("百", "千", 5, "stsb"),
        Pair("万", "亿", 1, "stsb"),
    ]
    data = TokenPairs("x", given, tokenizer, 16)
    seen = {}
    for i in range(len(data)):
        batch = data.batch([i])
        a = tokenizer.decode(batch["a"][0].tolist())
        seen[a] = [batch[k].item() for k in ("positive", "synonym", "kind")]
    assert seen == {
        "一": [True, True, 1],
        "三": [False, False, 0],
        "五": [False, False, -1],
        "七": [True, False, 4],
        "九": [False, False, 2],
        "百": [True, True, 1],
        "万": [False, False, 0],
    }
    whole = data.batch(range(len(data)))
    assert whole["source"].unique().numel() == 3
    assert whole["a"].shape[0] == len(data)


def test_small_sources_come_more_often() -> None:
    tokenizer = Tokenizer(shipped_vocabulary())
    data = TokenPairs("x", pairs(1000, "large") + pairs(10, "small", start=5000), tokenizer, 32)
    counts = data.batch(range(len(data)))["source"].bincount()
    assert counts.tolist() == [1000, 100]
    favoured = TokenPairs(
        "x", pairs(1000, "large") + pairs(10, "small.a"), tokenizer, 32, favoured={"small": 3}
    )
    assert favoured.batch(range(len(favoured)))["source"].bincount().tolist() == [1000, 300]


def test_blocks_lie_in_one_source() -> None:
    tokenizer = Tokenizer(shipped_vocabulary())
    given = pairs(100, "large") + pairs(10, "small", start=5000) + pairs(3, "tiny", start=7000)
    data = TokenPairs("x", given, tokenizer, 32, block=8)
    blocks = [data.batch([i]) for i in range(len(data))]
    assert all(len(b["a"]) == 8 and b["source"].unique().numel() == 1 for b in blocks)
    drawn = data.batch(range(len(data)))
    assert set(drawn["source"].tolist()) == {0, 1, 2}
    seen = drawn["text_a"][drawn["source"] == 0].unique(return_counts=True)[1]
    assert len(seen) == 100
    assert seen.min() >= ROUNDS - 1  # of each division the pairs that fill no block are left out
    assert seen.max() <= ROUNDS
    again = TokenPairs("x", given, tokenizer, 32, block=8)
    assert all(torch.equal(again.batch([i])["a"], b["a"]) for i, b in enumerate(blocks))
    alone = TokenPairs("x", pairs(3, "tiny"), tokenizer, 32, block=8)
    assert len(alone.batch([0])["a"]) == 8  # over and over


def test_held_out_pairs_come_from_all_sources_first() -> None:
    held = HeldOut("x", {"a": pairs(100, "a"), "b": pairs(3, "b")})
    assert len(held) == 103
    assert {k: len(v) for k, v in held.groups(6).items()} == {"a": 3, "b": 3}
    assert len(held.groups()["a"]) == 100
    first = held.groups(20)["a"]
    assert first != pairs(100, "a")[: len(first)]
    assert HeldOut("x", {"a": pairs(100, "a")[::-1]}).groups(5) == HeldOut(
        "x", {"a": pairs(100, "a")}
    ).groups(5)
    assert held.fingerprint != HeldOut("x", {"a": pairs(100, "a")}).fingerprint


def test_spearman_shares_ranks() -> None:
    scipy = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    x, y = torch.randint(0, 5, (2, 60)).double()
    expected = scipy.spearmanr(x, y).statistic
    assert spearman(x.tolist(), y.tolist()) == pytest.approx(expected, abs=1e-12)
    assert spearman([1, 2, 3], [5, 5, 5]) == 0
    assert spearman([1, 2, 3], [2, 4, 9]) == pytest.approx(1)


def test_tfidf_knows_equal_and_foreign_texts() -> None:
    given = [Pair("今天天气", "今天天气", 1, "x"), Pair("今天天气", "乌云", 0, "x")]
    cosines = tfidf_cosines(given)
    assert cosines[0] == pytest.approx(1)
    assert cosines[1] == 0


def test_a_vocabulary_of_what_is_used() -> None:
    texts = ["信用卡怎么办", "信用卡和credit", "天"] * 3
    found = choose_vocabulary(texts, shipped_vocabulary(), 110)
    assert len(found) == 110
    assert found[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert {"a", "7", "?", "信", "用", "卡"} <= set(found)
    tokenizer = Tokenizer(found)
    assert tokenizer.decode(tokenizer.encode(["信用卡"], 9)[0]) == "信用卡"
    assert found == choose_vocabulary(texts[::-1], shipped_vocabulary(), 110)


def test_vectors_of_tokens_in_like_places_are_alike() -> None:
    torch.manual_seed(0)
    # 10 and 11 stand beside 20 to 24, 12 and 13 beside 30 to 34.
    rows = []
    for _ in range(400):
        first = int(torch.randint(0, 2, ()))
        near = (20 if first else 30) + torch.randint(0, 5, (3,))
        rows.append([(10 if first else 12) + int(torch.randint(0, 2, ())), *near.tolist()])
    vectors = token_vectors(rows, 40, 6)
    norms = vectors.norm(dim=-1)
    assert (norms[[10, 11, 12, 13]] - 1).abs().max() < 1e-5
    assert norms[5] < 1e-3
    assert vectors[10] @ vectors[11] > 0.8
    assert vectors[10] @ vectors[12] < 0.5
    idf = inverse_frequencies([[2, 5], [2, 6], [2, 5]], 8)
    assert idf[2] < idf[5] < idf[6] < idf[7]


def test_pad_and_tokens() -> None:
    assert pad([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert pad([]).shape == (0, 0)
    tokenizer = Tokenizer(shipped_vocabulary())
    (row,) = tokenizer.encode(["He said 你好, Café 12"], 64)
    assert tokenizer.decode(row) == "he said你好,cafe 12"
    assert len(tokenizer.encode(["字" * 100], 10)[0]) == 10
    for wrong, message in (
        (["[PAD]", "[UNK]"], "no \\[CLS\\]"),
        (["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"], "first"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "a"], "twice"),
    ):
        with pytest.raises(ValueError, match=message):
            Tokenizer(wrong)


def test_a_vocabulary_file_comes_back(tmp_path: Path) -> None:
    tokenizer = Tokenizer([*shipped_vocabulary()[:200], "\u2028", " "])
    tokenizer.write(tmp_path / "vocab.txt")
    assert Tokenizer.read(tmp_path / "vocab.txt").vocabulary == tokenizer.vocabulary


def test_tokens_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    numbers = {token: i for i, token in enumerate(shipped_vocabulary())}
    peer = transformers.BertTokenizerFast(vocab=numbers, do_lower_case=True)
    texts = [
        "今天天气不错",
        "Hello, WORLD! naïve café",
        "ＡＢＣ１２３",
        "🙂𠮷",
        "a\u200bb\tc",
        "don't 3.14%",
    ]
    ours = Tokenizer(shipped_vocabulary()).encode(texts, 64)
    assert ours == [peer(text)["input_ids"] for text in texts]
