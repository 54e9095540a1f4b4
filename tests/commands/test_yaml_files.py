"""YAML that is remembered as JSON: never stale, never other than YAML says."""

from __future__ import annotations

import json
import os

import pytest

from kexue_core.errors import RegistryError
from kexue_core.yaml_files import read_yaml


def write(path, text, age=60.0):
    path.write_text(text, encoding="utf-8")
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))


@pytest.fixture
def copies(tmp_path, monkeypatch):
    monkeypatch.setenv("KEXUE_HOME", str(tmp_path / "home"))
    # The change time cannot be set back: wait for no test, let the clock run ahead instead.
    import kexue_core.yaml_files as module

    clock = module.time.time
    monkeypatch.setattr(module.time, "time", lambda: clock() + 10)
    return lambda: sorted((tmp_path / "home" / "yaml").glob("*.json"))


def test_the_copy_says_the_same(tmp_path, copies):
    path = tmp_path / "a.yaml"
    write(path, "a: {b: [1, 2.5, null, true, 中文, 1.0e-3]}\n")
    first = read_yaml(path)
    assert len(copies()) == 1
    assert read_yaml(path) == first == {"a": {"b": [1, 2.5, None, True, "中文", 0.001]}}


def test_a_change_of_the_same_size_and_time_is_seen(tmp_path, copies):
    path = tmp_path / "a.yaml"
    write(path, "a: 1\n")
    assert read_yaml(path) == {"a": 1}
    stamp = path.stat().st_mtime_ns
    path.write_text("a: 2\n")
    os.utime(path, ns=(stamp, stamp))
    assert read_yaml(path) == {"a": 2}


def test_a_file_just_written_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("KEXUE_HOME", str(tmp_path / "home"))
    path = tmp_path / "a.yaml"
    write(path, "a: 1\n")
    assert read_yaml(path) == {"a": 1}
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("text", ["a: 2026-01-01\n", "1: a\n", "true: a\n"])
def test_what_json_would_change_is_not_remembered(tmp_path, copies, text):
    path = tmp_path / "a.yaml"
    write(path, text)
    assert read_yaml(path) == read_yaml(path)
    assert copies() == []


def test_a_torn_copy_or_one_of_another_file_counts_for_nothing(tmp_path, copies):
    path = tmp_path / "a.yaml"
    write(path, "a: 1\n")
    read_yaml(path)
    stamp = json.loads(copies()[0].read_text())["stamp"]
    for rubbish in (
        "{",
        "[]",
        '{"stamp": ["other"], "content": {"a": 9}}',
        json.dumps({"stamp": stamp}),
    ):
        copies()[0].write_text(rubbish)
        assert read_yaml(path) == {"a": 1}


def test_a_home_that_cannot_be_written_costs_nothing(tmp_path, copies, monkeypatch):
    tmp_path.joinpath("file").write_text("")
    monkeypatch.setenv("KEXUE_HOME", str(tmp_path / "file" / "home"))
    write(tmp_path / "a.yaml", "a: 1\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [1\nb: 2\n", "is no YAML"), ("a: !!python/object:os.system x\n", "no YAML")],
)
def test_errors_name_file_and_line(tmp_path, copies, text, said):
    write(tmp_path / "a.yaml", text)
    with pytest.raises(RegistryError, match=said) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "a.yaml" in str(caught.value)
    assert "line" in str(caught.value)
    with pytest.raises(RegistryError, match=r"b\.yaml cannot be read"):
        read_yaml(tmp_path / "b.yaml")
