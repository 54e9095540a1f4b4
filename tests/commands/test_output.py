"""Tables that fit, JSON that is JSON, options that are read as meant."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kexue_core.commands import _output
from kexue_core.commands._options import parse_options
from kexue_core.commands._output import Column, _fit, _wrap, human_size
from kexue_core.registry import FileEntry

TEXT = st.text(st.sampled_from("ab-/_ ,玩具🧸é") | st.characters(codec="utf-8"), max_size=40).map(
    _output._cell
)


@given(TEXT, st.integers(2, 30))
def test_wrapped_lines_fit_and_lose_nothing_but_blanks(text, width):
    lines = _wrap(text, width).split("\n")
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_words_are_kept_whole_where_they_fit():
    assert _wrap("sample, reconstruct, score", 12) == "sample,\nreconstruct,\nscore"
    assert _wrap("LicenseRef-CelebA-noncommercial", 14) == "LicenseRef-\nCelebA-\nnoncommercial"
    assert _wrap("中文句向量", 4) == "中文\n句向\n量"
    assert _wrap("0123456789", 4) == "0123\n4567\n89"


@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=5),
    st.integers(40, 120),
)
def test_columns_fit_or_are_dropped_by_rank(rows, width):
    columns = (Column("name", least=8), Column("text", least=8, drop=1), Column("other", drop=2))
    kept, dropped = _fit(columns, rows, [0, 1, 2], width)
    assert sum(kept.values()) + 2 * (len(kept) - 1) <= width
    assert 0 in kept
    assert [c.drop for c in dropped] == sorted((c.drop for c in dropped), reverse=True)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "?"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (13_400_246, "13.4 MB"),
        (99_950_000, "100 MB"),
        (1_234_000_000, "1.2 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(size, text):
    assert human_size(size) == text


def test_json_is_json(capsys):
    value = {
        "path": Path("a/b"),
        "entry": FileEntry("00", 1),
        "tuple": (1, math.inf, math.nan, 2.5, True, None),
        "set": {"b", "a"},
        3: "中文",
    }
    _output.json(value)
    text = capsys.readouterr().out
    assert json.loads(text, parse_constant=pytest.fail) == {
        "path": "a/b",
        "entry": {"sha256": "00", "size": 1},
        "tuple": [1, None, None, 2.5, True, None],
        "set": ["a", "b"],
        "3": "中文",
    }
    assert "中文" in text


def test_a_pipe_gets_tabs_and_no_control_characters(capsys):
    _output.table(("a", "b"), [("x\ty\n", None), (1.5, ("p", "q"))])
    assert capsys.readouterr().out == "a\tb\nx y\t\n1.5\tp, q\n"


def test_options_are_read_as_json_where_they_are():
    assert parse_options(("steps=60", "step-size=1e-2", "a=true", "b=null", "c=x=y", "d=[1]")) == {
        "steps": 60,
        "step_size": 0.01,
        "a": True,
        "b": None,
        "c": "x=y",
        "d": [1],
    }
    for wrong in (("steps",), ("=3",), ("a=1", "a=2")):
        with pytest.raises(click.BadParameter):
            parse_options(wrong)


def test_progress_is_silent_where_stderr_is_no_terminal(capsys):
    with _output.progress("working", 3) as advance:
        advance()
        advance(2)
    assert capsys.readouterr().err == ""
