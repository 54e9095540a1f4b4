"""config.json: what it may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexue_core.errors import WeightsFormatError
from kexue_core.folder import SamplerChoice, WeightsConfig

VALID: dict[str, Any] = {
    "format": 1,
    "model": "glow",
    "plugin": "kexue-flow",
    "config": {"levels": 3},
    "preprocess": {},
    "sampler": None,
    "requires": [],
}

names = st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,5}){0,2}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
mappings = st.dictionaries(texts, plain, max_size=3)
configs = st.builds(
    WeightsConfig,
    model=names,
    plugin=names,
    config=mappings,
    preprocess=mappings,
    sampler=st.none() | st.builds(SamplerChoice, names, mappings),
    requires=st.lists(texts, max_size=2).map(tuple),
)


@given(config=configs)
def test_what_is_written_is_read(config: WeightsConfig, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    config.write(folder)
    assert WeightsConfig.read(folder) == config
    assert config.encode() == WeightsConfig.read(folder).encode()


def test_plugin_is_normalised() -> None:
    assert WeightsConfig(model="a", plugin="Kexue_Flow").plugin == "kexue-flow"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"format 2, this kexue reads 1\. Run `pip install --upgrade kexue`"),
        ({"format": 2, "novel": 1}, "pip install --upgrade kexue"),
        ({"format": "1"}, r"format '1', this kexue reads 1\. Write"),
        ({"format": True}, "format True"),
        ({"format": None}, "format None"),
        ({"modle": "glow"}, r"unknown key 'modle'\. The keys are format, model"),
        ({"model": "Glow"}, "model: 'Glow' is no valid name"),
        ({"model": None}, "model: None"),
        ({"plugin": "../x"}, "plugin: "),
        ({"plugin": 3}, "plugin must be"),
        ({"config": []}, "config must be a mapping"),
        ({"config": None}, "config must be a mapping"),
        ({"preprocess": "64"}, "preprocess must be a mapping"),
        ({"sampler": "latent-prior"}, "sampler must be null or hold"),
        ({"sampler": {}}, "sampler must be null or hold"),
        ({"sampler": {"name": "a", "extra": 1}}, "sampler must be null or hold"),
        ({"sampler": {"name": "A B"}}, "sampler: name"),
        ({"sampler": {"name": "a", "options": [1]}}, "sampler: options must be a mapping"),
        ({"requires": "codec"}, "requires must be a list"),
        ({"requires": [1]}, "requires must be a list"),
        ({"sha256": "0" * 63}, "sha256 must be 64 hex digits"),
        ({"sha256": 5}, "sha256 must be 64 hex digits"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(VALID | change))
    with pytest.raises(WeightsFormatError, match=message) as caught:
        WeightsConfig.read(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("key", ["format", "model", "plugin", "config"])
def test_keys_that_must_be_there(tmp_path: Path, key: str) -> None:
    content = {k: v for k, v in VALID.items() if k != key}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsFormatError, match=key):
        WeightsConfig.read(tmp_path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[]", "holds no JSON object"),
        (b"\xff", "not UTF-8"),
        (b'{"format": 1, "format": 1}', "'format' occurs twice"),
        (b'{"format": Infinity}', "Infinity is no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * 1_000_001, "larger than"),
    ],
)
def test_what_is_no_strict_json_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(raw)
    with pytest.raises(WeightsFormatError, match=message):
        WeightsConfig.read(tmp_path)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(WeightsFormatError, match=r"holds no config\.json"):
        WeightsConfig.read(tmp_path / "none")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(WeightsFormatError, match="cannot be read"):
        WeightsConfig.read(tmp_path)
