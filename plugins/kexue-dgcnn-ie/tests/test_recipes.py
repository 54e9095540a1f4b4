"""The recipe on a language of a few names, and both phases of it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from kexue_dgcnn_ie.dgcnn import DGCNNConfig
from kexue_dgcnn_ie.extractor import TripleExtractor
from kexue_dgcnn_ie.pretraining import CharacterHead, join_lines, mask, masked_loss
from kexue_dgcnn_ie.recipes import DGCNNDuIE, DGCNNDuIEConfig
from kexue_dgcnn_ie.text import UNKNOWN

from kexue_core.errors import ConfigError, DataError
from kexue_core.loading import load_folder
from kexue_core.plugins import discover
from kexue_core.training.loop import train
from kexue_core.training.records import read_records

TINY = {"width": 16, "dilations": (1, 2), "heads": 2, "warm_up": 10, "preview_every": 0,
        "checkpoint_every": 0, "ema": 0.9, "learning_rate": 1e-2, "batch_size": 16}  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Who wrote or sang what: "A写B", "A唱B", sometimes two of them."""
    rng = random.Random(0)
    people, works = ["赵一", "钱二二", "孙三", "李四四"], ["春", "夏天", "秋风里", "冬"]
    rows = []
    for _ in range(200):
        text, spo = "", []
        for _ in range(rng.choice([1, 1, 2])):
            person, work = rng.choice(people), rng.choice(works)
            verb, predicate = rng.choice([("写", "作者"), ("唱", "歌手")])
            text += f"{person}{verb}{work}，"
            spo.append([work, predicate, person])
        rows.append({"text": text, "spo": spo})
    path = tmp_path / "toy.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return path


def run(corpus: Path, out: Path, **options: object) -> Path:
    config = DGCNNDuIEConfig(**(TINY | options))  # type: ignore[arg-type]
    declared = discover().find("model", "dgcnn-ie", "kexue-dgcnn-ie")
    return train(
        DGCNNDuIE(config), name="dgcnn-ie-duie", model=declared, data=str(corpus), out=out,
        device="cpu",
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def test_it_learns_to_extract(corpus: Path, tmp_path: Path) -> None:
    folder = run(corpus, tmp_path / "run", steps=250, evaluate_every=0, swap=0.1, dropout=0.1)
    records = {r.metric: r for r in read_records(folder / "results.jsonl")}
    assert records["f1"].value > 0.9
    assert records["f1"].n == 20
    assert {"precision", "recall", "f1_unrepaired"} <= records.keys()
    model = load_folder(folder / "weights")
    assert isinstance(model, TripleExtractor)
    [[fact]] = model.extract(["钱二二唱冬，"])
    assert fact["subject"] == {"text": "冬", "start": 4, "end": 5}
    assert (fact["predicate"], fact["object"]["text"]) == ("歌手", "钱二二")
    assert fact["score"] > 0.4
    half = load_folder(folder / "weights", dtype=torch.bfloat16)
    assert isinstance(half, TripleExtractor)
    [[rounded]] = half.extract(["钱二二唱冬，"])
    assert rounded["subject"] == fact["subject"]


def test_both_phases_and_all_features_resume(corpus: Path, tmp_path: Path) -> None:
    """Stopped between and inside the phases, a run ends at the same weights."""
    pytest.importorskip("ahocorasick")
    lines = tmp_path / "more.txt"
    lines.write_text("赵一写春\n孙三唱秋风里\n" * 30, encoding="utf-8")
    options = {"steps": 12, "pretrain_steps": 6, "unlabelled": (str(lines),), "distant": True,
               "forgive": 0.9, "occurrences": "first", "evaluate_every": 4}  # fmt: skip
    whole = run(corpus, tmp_path / "whole", **options)
    parts = tmp_path / "parts"
    config = DGCNNDuIEConfig(**(TINY | options))  # type: ignore[arg-type]
    declared = discover().find("model", "dgcnn-ie", "kexue-dgcnn-ie")
    for _ in range(30):  # each time a moment: at least one step is made
        train(DGCNNDuIE(config), name="dgcnn-ie-duie", model=declared, data=str(corpus), out=parts,
              device="cpu", max_minutes=1e-9)  # fmt: skip
        if len(losses(parts)) >= 12:
            break
    assert losses(parts) == losses(whole)
    one, other = (load_folder(f / "weights").state_dict() for f in (whole, parts))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_the_authors_way_and_float32(corpus: Path, tmp_path: Path) -> None:
    options = {"subjects": 1, "precision": "float32", "gate": False, "attention": False}
    folder = run(corpus, tmp_path / "run", steps=30, evaluate_every=0, **options)
    found = losses(folder)
    assert sum(found[-5:]) < 0.7 * sum(found[:5])


def test_words_go_in_and_are_shipped(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("jieba")
    folder = run(corpus, tmp_path / "run", steps=3, pretrain_steps=1, evaluate_every=0,
                 words=True, word_width=4)  # fmt: skip
    model = load_folder(folder / "weights")
    assert isinstance(model, TripleExtractor)
    assert len(model.lexicon) == model.config.words > 4
    assert not model.word.weight.requires_grad
    assert (folder / "weights" / "words.json").exists()


def test_what_other_texts_say_is_known_when_weights_are_measured(
    corpus: Path, tmp_path: Path
) -> None:
    """Weights do not hold the triples of the training texts: evaluation reads them again."""
    pytest.importorskip("ahocorasick")
    folder = run(
        corpus, tmp_path / "run", steps=2, pretrain_steps=1, evaluate_every=0, distant=True
    )
    model = load_folder(folder / "weights")
    assert isinstance(model, TripleExtractor)
    assert model.dictionary is None
    stranger = DGCNNDuIE(DGCNNDuIEConfig(**TINY))  # type: ignore[arg-type]
    validation = stranger.data(str(corpus), "val")
    with pytest.raises(ConfigError, match="training texts were not read"):
        stranger.evaluate(model, validation)
    recipe = DGCNNDuIE(DGCNNDuIEConfig(**TINY, distant=True))  # type: ignore[arg-type]
    recipe.evaluate(model, recipe.data(str(corpus), "val"))
    assert model.dictionary is not None
    assert {m.triple.predicate for m in model.dictionary.find("钱二二唱冬，")} >= {"歌手"}


def test_hidden_characters() -> None:
    source = random.Random(0)
    rows = [[5, 6, 7, 8] * 10, [9], [UNKNOWN, UNKNOWN]]
    masked = mask(rows, source, 0.15)
    assert masked.lengths.tolist() == [40, 1, 2]
    shown = masked.tokens.clone()
    shown[masked.places] = masked.hidden
    assert shown.tolist() == [t for row in rows for t in row]
    assert (masked.tokens[masked.places] == UNKNOWN).all()
    assert (masked.hidden != UNKNOWN).all()  # nothing to be learnt there
    assert 40 in masked.places.tolist()
    assert 6 <= int((masked.places < 40).sum()) <= 9


def test_the_loss_of_hidden_characters_falls() -> None:
    torch.manual_seed(0)
    model = TripleExtractor(
        DGCNNConfig(characters=12, predicates=2, width=16, dilations=(1, 2), heads=2, dropout=0.0)
    )
    head = CharacterHead(16, 12)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=1e-2)
    source = random.Random(0)
    found = []
    for _ in range(60):
        masked = mask([[2 + (i + k) % 10 for i in range(30)] for k in range(8)], source, 0.15)
        loss = masked_loss(model, head, masked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[0] > 2.2  # ten characters: log 10 = 2.3
    assert sum(found[-5:]) / 5 < 1.0


def test_lines_are_joined() -> None:
    assert join_lines(["ab", "cd", "efghij", "k"], least=5, most=7) == ["ab cd", "efghij", "k"]
    assert join_lines(["a" * 20], least=5, most=7) == ["a" * 7]
    assert join_lines([]) == []


def test_settings_that_are_refused(tmp_path: Path) -> None:
    for wrong in ({"subjects": 0}, {"pretrain_steps": 10**9}, {"pretrain_share": 1.0}):
        with pytest.raises(ValueError, match="must be"):
            DGCNNDuIEConfig(**wrong)  # type: ignore[arg-type]
    recipe = DGCNNDuIE(DGCNNDuIEConfig())
    with pytest.raises(DataError, match="no default data"):
        recipe.data(None, "train")
    assert recipe.build()["model"].config.predicates == 1
