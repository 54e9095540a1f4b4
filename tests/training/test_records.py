from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from kexue_core import ModelSpec
from kexue_core.cards import build_card, with_results
from kexue_core.errors import DataError
from kexue_core.training import Card
from kexue_core.training.records import (
    ResultRecord,
    append_records,
    command_line,
    conditions,
    device_name,
    read_records,
    versions,
)


def record(**changes: Any) -> ResultRecord:
    values: dict[str, Any] = {
        "metric": "bits_per_dim",
        "value": 2.0123456789,
        "dataset": "CelebA (64x64)",
        "split": "val",
        "n": 1751,
        "seed": 0,
        "command": "kexue eval glow",
        "weights": "ab" * 32,
        "versions": {"torch": "2.13.0"},
        "device": "cpu: some processor, 1 threads",
    }
    return ResultRecord(**{**values, **changes})


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    first, second = record(), record(metric="fid", settings={"samples": 10, "名": "脸"})
    append_records(path, [first])
    append_records(path, [second])
    assert read_records(path) == [first, second]
    assert read_records(tmp_path / "none.jsonl") == []
    assert not {"settings", "floor"} & first.to_dict().keys()
    third = record(floor=0.0)
    append_records(path, [third])
    assert read_records(path)[2] == third


@pytest.mark.parametrize("value", [math.nan, math.inf, "2.0", True, None])
def test_only_finite_numbers_are_results(value: Any) -> None:
    with pytest.raises(DataError, match="no finite number"):
        ResultRecord.from_dict({**record().to_dict(), "value": value})
    with pytest.raises(DataError, match=r"bits_per_dim's floor is .* no finite number"):
        ResultRecord.from_dict({**record().to_dict(), "floor": value})


def test_missing_and_unknown_keys_are_named(tmp_path: Path) -> None:
    whole = record().to_dict()
    with pytest.raises(DataError, match="lacks seed"):
        ResultRecord.from_dict({k: v for k, v in whole.items() if k != "seed"})
    with pytest.raises(DataError, match="has no sed"):
        ResultRecord.from_dict({**whole, "sed": 1})
    path = tmp_path / "results.jsonl"
    append_records(path, [record()])
    path.write_text(path.read_text() + "[1, 2]\n")
    with pytest.raises(DataError, match=r"results\.jsonl, line 2"):
        read_records(path)
    path.write_bytes(path.read_bytes().replace(b"[1, 2]", b"\xff\xfe"))
    with pytest.raises(DataError, match=r"results\.jsonl, line 2: .*0xff"):
        read_records(path)


def test_commands_name_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faces").mkdir()
    monkeypatch.chdir(tmp_path)
    line = command_line(
        "train",
        "glow",
        {"data": str(tmp_path / "faces"), "steps": None, "set": ("a=1", "b=x y"), "seed": 3},
    )
    assert line == "kexue train glow --data faces --set a=1 --set 'b=x y' --seed 3"
    assert command_line("eval", f"file:{tmp_path}/w", {}) == "kexue eval file:w"
    assert command_line("eval", "g", {"data": "./faces"}) == "kexue eval g --data faces"
    assert command_line("eval", "g", {"data": "owner/faces"}) == "kexue eval g --data owner/faces"


def test_versions_and_device_are_told() -> None:
    found = versions("numpy", "no-such-distribution")
    assert {"python", "torch", "kexue", "numpy"} < found.keys()
    assert found["no-such-distribution"] == "not installed"
    assert device_name("cpu").startswith("cpu: ")


CARD = Card(
    summary="Faces.",
    data="CelebA (Liu et al., 2015)",
    license="LicenseRef-CelebA-noncommercial",
    terms="Non-commercial research only.",
    limits="Blurred backgrounds.",
)
SPEC = ModelSpec(
    name="glow",
    factory="g:G",
    config="g:C",
    capabilities=("latent",),
    post=5807,
    papers=("1807.1",),
)


def card(*records: ResultRecord, **changes: Any) -> str:
    given: dict[str, Any] = {
        "name": "glow-celeba",
        "spec": SPEC,
        "distribution": "kexue-flow",
        "config": {"steps": 100, "size": 64},
        "seed": 7,
        "steps": 60,
        "command": "kexue train glow-celeba | tee log",
        "trained_on": "CelebA (64x64), train: 15,718 samples, sha256 `cd`",
        "records": records,
    }
    return build_card(changes.pop("card", CARD), **{**given, **changes})


def test_a_card_says_what_a_reader_must_know() -> None:
    text = card(record())
    for told in (
        *(CARD.summary, CARD.data, CARD.terms, CARD.limits),
        *(
            "60 of 100 planned",
            "| seed | 7 |",
            '"size": 64',
            "ab" * 32,
            "torch 2.13.0",
            "15,718 samples",
        ),
        *(
            "https://kexue.fm/archives/5807",
            "https://arxiv.org/abs/1807.1",
            "pip install kexue-flow",
        ),
        "| bits_per_dim | 2.01235 | CelebA (64x64) | val | 1,751 | 0 |",
        "Not affiliated",
    ):
        assert told in text, told
    assert r"kexue train glow-celeba \| tee log" in text, "a pipe does not end the cell"


def test_its_metadata_is_the_hubs() -> None:
    _, head, _ = card(record()).split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["library_name"] == "kexue"
    assert (metadata["license"], metadata["license_name"]) == ("other", "celeba-noncommercial")
    [index] = metadata["model-index"]
    [result] = index["results"]
    assert index["name"] == "glow-celeba"
    assert result["metrics"] == [{"type": "bits_per_dim", "value": 2.0123456789}]
    assert result["dataset"] == {"type": "celeba-64x64", "name": "CelebA (64x64)", "split": "val"}
    free = Card(summary="", data="", license="MIT", terms="", limits="")
    assert yaml.safe_load(card(card=free).split("---\n", 2)[1])["license"] == "mit"


def test_the_hub_accepts_it() -> None:
    from huggingface_hub import ModelCard

    parsed = ModelCard(card(record(), record(metric="fid", value=12.5)))
    assert parsed.data.license == "other"
    assert {r.metric_type for r in parsed.data.eval_results} == {"bits_per_dim", "fid"}


def test_without_results_none_are_claimed() -> None:
    text = card()
    assert "None were measured." in text
    assert "model-index" not in text


def test_a_card_says_how_samples_were_drawn_and_whose_features_were_compared() -> None:
    options = {"temperature": 0.7, "labels": None}
    settings = {"sampler": "latent-prior", "options": options, "features": f"eye@{'0' * 64}"}
    told = "latent-prior(temperature=0.7), features of eye@"
    assert conditions(settings, digits=12) == told + "0" * 12
    measured = record(metric="fid", value=3.5, floor=0.25, settings=settings)
    text = card(record(), measured)
    table = [line for line in text.splitlines() if line.startswith("|") and "| val |" in line]
    assert "| metric | value | floor | data | split | n | seed | how |" in text
    assert table == [
        "| bits_per_dim | 2.01235 |  | CelebA (64x64) | val | 1,751 | 0 |  |",
        "| fid | 3.5 | 0.25 | CelebA (64x64) | val | 1,751 | 0 | (1) |",
    ]
    assert f"\n\n(1) {told}{'0' * 64}\n\nFloor: what as many real samples" in text
    plain = card(record(settings={"recipe": "glow"}))
    assert "| metric | value | data | split | n | seed |\n|---|---|---|---|---|---|\n" in plain


def test_the_results_of_a_card_are_made_anew() -> None:
    body = "\n# name\n\n## Results\n\nold table\n\n## Limits\n\nnone\n"
    fresh = with_results(body, [])
    assert fresh == "\n# name\n\n## Results\n\nNone were measured.\n\n## Limits\n\nnone\n"
    assert with_results(fresh, []) == fresh
    assert with_results("\n# a card of one's own\n", []) == "\n# a card of one's own\n"
