"""``kexue extract``, with an extractor that knows who wrote what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kexue_core.commands import _output, cli
from kexue_core.commands._output import Column
from kexue_core.errors import ConfigError, DataError

PLUGIN = """
from kexue_core import ModelSpec, hookimpl

@hookimpl
def kexue_components():
    yield ModelSpec(
        name="byliner", factory="byline_model:Byliner", config="byline_model:Config",
        capabilities=("extractor",), summary="Reads 'TITLE by NAME'",
    )
"""

MODEL = """
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class Config:
    word: str = " by "

class Byliner(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.ones(1))

    def extract(self, texts, *, least=0.0):
        assert not torch.is_grad_enabled()
        return [self._facts(t) if 0.5 >= least else [] for t in texts]

    def _facts(self, text):
        at = text.find(self.config.word)
        if at < 0:
            return []
        end = at + len(self.config.word)
        piece = lambda a, b: {"text": text[a:b], "start": a, "end": b}
        return [{"subject": piece(0, at), "predicate": "author", "object": piece(end, len(text)),
                 "score": 0.5 * float(self.weight)}]
"""


@pytest.fixture
def name(site, here, tmp_path) -> str:
    import kexue_core as kexue
    from kexue_core.plugins import discover

    site.install("kexue-byliner", PLUGIN)
    (site.folder / "byline_model.py").write_text(MODEL)
    discover.cache_clear()
    folder = kexue.save(
        kexue.create("byliner"), tmp_path / "byliner", preprocess={"modality": "text"}
    )
    return f"file:{folder}"


def run(*args: object, **options):
    return CliRunner().invoke(cli, ["extract", *map(str, args)], **options)


def test_a_line_of_json_for_each_text(name):
    result = run(name, "红楼梦 by 曹雪芹", "nothing 🙂", "", "a\n\tby b by c")
    assert result.exit_code == 0, result.exception
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["红楼梦 by 曹雪芹", "nothing 🙂", "", "a\n\tby b by c"]
    [fact] = rows[0]["facts"]
    assert fact["subject"] == {"text": "红楼梦", "start": 0, "end": 3}
    assert fact["object"]["text"] == rows[0]["text"][fact["object"]["start"] :] == "曹雪芹"
    assert fact["score"] == 0.5
    assert [len(row["facts"]) for row in rows] == [1, 0, 0, 1]
    assert "红楼梦" in result.stdout  # not \\u7ea2...
    assert result.stderr == "kexue: nothing was found in 2 of 4 texts\n"


def test_a_table_on_a_terminal(name, monkeypatch):
    monkeypatch.setattr(_output, "on_terminal", lambda: True)
    seen = []
    monkeypatch.setattr(_output, "table", lambda columns, rows: seen.append((columns, rows)))
    run(name, "Emma by Austen", "nothing")
    [(columns, rows)] = seen
    assert [c.name for c in columns] == ["text", "subject", "predicate", "object", "score"]
    assert len({c.style for c in columns if isinstance(c, Column)}) > 2
    assert rows == [
        ("Emma by Austen", "Emma", "author", "Austen", "0.500"),
        ("nothing", None, None, None, None),
    ]
    forced = run(name, "Emma by Austen", "--json", "-q")
    assert json.loads(forced.stdout)["facts"]
    assert forced.stderr == ""


def test_colours_are_drawn(monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(_output, "on_terminal", lambda: True)
    console = Console(force_terminal=True, color_system="standard", width=60)
    monkeypatch.setattr(_output, "_console", lambda: console)
    with console.capture() as captured:
        _output.table([Column("who", style="cyan"), Column("what")], [("红", "x")])
    lines = captured.get().splitlines()
    assert "\x1b[36m红" in lines[-1]


def test_files_in_their_order(name, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"title": f"t{i} by a{i}"}) for i in range(3000)]
    corpus.write_text("\n".join([*lines[:2], "", *lines[2:]]), encoding="utf-8")
    result = run(name, "--input", corpus, "--field", "title")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == [f"t{i} by a{i}" for i in range(3000)]
    assert [row["line"] for row in rows] == [1, 2, *range(4, 3002)]
    plain = tmp_path / "corpus.txt"
    plain.write_text("a by b\n\nc\n", encoding="utf-8")
    rows = [json.loads(x) for x in run(name, "--input", plain, "-q").stdout.splitlines()]
    assert [row["text"] for row in rows] == ["a by b", "", "c"]


def test_lines_that_are_no_text(name, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(b'{"text": "a by b"}\n{"text": 3}\n\xff\xfe\n{"text": "\\ud83d by c"}\n')
    error = run(name, "--input", corpus).exception
    assert isinstance(error, DataError)
    assert "line 2: 'text' is no text; line 3: no UTF-8" in str(error)
    result = run(name, "--input", corpus, "--bad", "skip")
    assert result.exit_code == 0, result.exception
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["line"] for row in rows] == [1, 4]
    assert rows[1]["facts"][0]["subject"]["text"] == "\ud83d"
    assert "line 3: no UTF-8: left out" in result.stderr


def test_options_and_mistakes(name):
    assert json.loads(run(name, "a by b", "-o", "least=0.9").stdout)["facts"] == []
    error = run(name, "a by b", "-o", "most=1").exception
    assert isinstance(error, ConfigError)
    assert "byliner refuses its options" in str(error)
    assert run(name).exit_code == 2
    assert run(name, "a", "--input", "b.txt").exit_code == 2
    assert isinstance(run(name, "--input", "missing.txt").exception, DataError)
    path = Path(name.removeprefix("file:")) / "config.json"
    config = json.loads(path.read_text())
    config["preprocess"]["modality"] = "sound"
    path.write_text(json.dumps(config))
    assert "takes no texts" in str(run(name, "a").exception)
