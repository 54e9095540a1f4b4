"""The classifier: features, batches, files; and its recipe on a language of six words."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
import torch
from kexue_zlpr.recipes import ZLPRReuters, ZLPRReutersConfig
from kexue_zlpr.text_classifier import TextClassifier, TextClassifierConfig
from kexue_zlpr.texts import f1_scores, multi_hot, read_texts, split_of

from kexue_core.errors import DataError
from kexue_core.loading import load_folder
from kexue_core.plugins import discover
from kexue_core.training.loop import train
from kexue_core.training.records import read_records


def build(**options: object) -> TextClassifier:
    torch.manual_seed(0)
    config = TextClassifierConfig(labels=("a", "b", "c"), **options)  # type: ignore[arg-type]
    return TextClassifier(config).eval()


def test_features_are_distinct_ngrams() -> None:
    model = build(ngrams=2)
    same, upper, swapped, empty = model.featurize(
        ["the cat sat, the cat", "THE CAT SAT THE CAT", "cat the", ""]
    )
    assert torch.equal(same, upper)
    assert int((same > 0).sum()) == 6  # the, cat, sat, "the cat", "cat sat", "sat the"
    assert int((swapped > 0).sum()) == 3
    assert not empty.any()
    assert int(same.max()) <= model.config.buckets
    short = build(max_features=4).featurize(["the cat sat on the mat"])
    assert short.shape == (1, 4)
    # Fixed numbers: weights depend on them in every process and version.
    assert build(ngrams=1).featurize(["cat"]).tolist() == [[27833]]  # crc32 % 30,000 + 1


def test_characters_for_languages_without_spaces() -> None:
    model = build(level="char", ngrams=2)
    assert int((model.featurize(["科学 空间"]) > 0).sum()) == 7
    assert torch.equal(model.featurize(["科学 空间"]), model.featurize(["科学空间"]))


def test_a_text_has_its_labels_in_any_company() -> None:
    model = build()
    texts = ["cocoa prices rose", "", "科学", "a " * 2000]
    together = model.classify(texts)
    for text, expected in zip(texts, together, strict=True):
        [alone] = model.classify(text)
        assert [label for label, _ in alone] == [label for label, _ in expected]
        assert [s for _, s in alone] == pytest.approx([s for _, s in expected], abs=1e-6)
        assert {label for label, _ in alone} == {"a", "b", "c"}
    assert model.classify([]) == []


@pytest.mark.parametrize("wrong", [{"labels": ()}, {"labels": ("a", "a")}, {"level": "byte"},
                                   {"buckets": 0}])  # fmt: skip
def test_a_wrong_config_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TextClassifierConfig(**({"labels": ("a",)} | wrong))  # type: ignore[arg-type]


def test_texts_are_read_and_split(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "labels": ["x", "y"] if i % 2 else []} for i in range(30)]
    rows[0] = {"title": "T", "body": "B", "labels": ["z"]}
    path = tmp_path / "news.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    texts = read_texts(path)
    assert texts.name == "news"
    assert texts.texts[0] == "T\nB"
    assert texts.vocabulary == ("x", "y", "z")
    parts = [split_of(30, s) for s in ("train", "val", "test")]
    assert sorted(i for part in parts for i in part) == list(range(30))
    assert [len(p) for p in parts] == [24, 3, 3]
    assert multi_hot([("z", "new"), ()], texts.vocabulary).tolist() == [[0, 0, 1], [0, 0, 0]]
    plain = tmp_path / "broken.jsonl"
    plain.write_text('{"text": "a", "labels": ["b"]}\n{"labels": []}\n')
    with pytest.raises(DataError, match="line 2 is no labelled text"):
        read_texts(plain)
    plain.write_text("")
    with pytest.raises(DataError, match="is empty"):
        read_texts(plain)
    with pytest.raises(DataError, match="cannot be read"):
        read_texts(tmp_path / "none.jsonl")


def test_f1_of_hand_made_predictions() -> None:
    predicted = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    target = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]])
    micro, macro = f1_scores(predicted, target)
    assert micro == pytest.approx(2 * 2 / (4 + 4))
    # a: 1 hit of 2 + 2; b: perfect; c: never predicted; d: absent from the target, left out.
    assert macro == pytest.approx((0.5 + 1 + 0) / 3)
    assert f1_scores(torch.zeros(2, 3), torch.zeros(2, 3)) == (0, 0)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Texts whose labels are the words "cocoa" and "wheat" in them, among noise."""
    rng = random.Random(0)
    rows = []
    for _ in range(300):
        labels = [w for w in ("cocoa", "wheat") if rng.random() < 0.3]
        words = [*labels, *rng.choices(["price", "rose", "fell", "said"], k=4)]
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "labels": labels})
    path = tmp_path / "toy.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_the_recipe_trains_weights_that_classify(corpus: Path, tmp_path: Path) -> None:
    config = ZLPRReutersConfig(
        steps=120, batch_size=32, evaluate_every=60, checkpoint_every=0, buckets=500, width=8,
        hidden=16, ema=0.9, learning_rate=0.02,
    )  # fmt: skip
    declared = discover().find("model", "text-classifier", "kexue-zlpr")
    folder = train(
        ZLPRReuters(config),
        name="zlpr-reuters",
        model=declared,
        data=str(corpus),
        out=tmp_path / "run",
        device="cpu",
    )
    records = {r.metric: r for r in read_records(folder / "results.jsonl")}
    assert records["micro_f1"].value > 0.95
    assert records["micro_f1"].n == 30
    model = load_folder(folder / "weights")
    assert model.config.labels == ("cocoa", "wheat")
    best = model.classify(["the wheat price"])[0][0]
    assert best[0] == "wheat"
    assert best[1] > 0.5
    with pytest.raises(DataError, match="no default data"):
        ZLPRReuters(config).data(None, "train")
