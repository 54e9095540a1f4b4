"""``kexue embed``, ``similar`` and ``rewrite``, with a model that counts characters."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kexue_core.commands import cli
from kexue_core.commands._texts import good_texts, read_texts
from kexue_core.errors import DataError

PLUGIN = """
from kexue_core import ModelSpec, hookimpl

@hookimpl
def kexue_components():
    yield ModelSpec(
        name="counter", factory="counter_model:Counter", config="counter_model:Config",
        capabilities=("text-encoder", "rewriter"), summary="Counts characters",
    )
"""

MODEL = """
from dataclasses import dataclass
import numpy as np
import os, time, torch

@dataclass(frozen=True)
class Config:
    width: int = 32

class Counter(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.ones(1))

    def embed(self, texts, *, scale=1.0):
        assert not torch.is_grad_enabled()
        time.sleep(float(os.environ.get("COUNTER_SLEEP", 0)))
        rows = np.zeros((len(texts), self.config.width), np.float32)
        for row, text in zip(rows, texts):
            for place, character in enumerate(text):
                row[ord(character) % self.config.width] += scale * (1 + place / 64)
        return rows

    def rewrite(self, text, n, *, method="sample", seed=0, shout=""):
        if not text:
            return []
        return [(f"{text}{method}{seed}{shout}{i}", 1 - i / 10) for i in range(n)]
"""


@pytest.fixture
def folder(site, here, tmp_path: Path) -> Path:
    import kexue_core as kexue
    from kexue_core.plugins import discover

    site.install("kexue-counter", PLUGIN)
    (site.folder / "counter_model.py").write_text(MODEL)
    discover.cache_clear()
    return kexue.save(
        kexue.create("counter"), tmp_path / "counter", preprocess={"modality": "text"}
    )


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


def embed(folder: Path, source: Path, out: Path, *more: Any) -> Result:
    return run("embed", f"file:{folder}", "--file", source, "--out", out, *more)


def expected(texts: list[str]) -> np.ndarray[Any, Any]:
    rows = np.zeros((len(texts), 32), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for place, character in enumerate(text):
            row[ord(character) % 32] += 1 + place / 64
    return rows


def test_every_kind_of_file_gives_the_same_rows(folder: Path, tmp_path: Path) -> None:
    texts = ["今天天气不错", "", "a\u2028b", "表情🙂", "  blanks  "]
    plain = "\n".join(texts) + "\n"
    lines = "".join(json.dumps({"title": t, "n": 1}, ensure_ascii=False) + "\n" for t in texts)
    files = {
        "a.txt": plain.encode(),
        "b.txt": plain.replace("\n", "\r\n").encode(),
        "c.txt.gz": gzip.compress(plain.encode()),
        "d.jsonl": lines.encode(),
        "e.jsonl.gz": gzip.compress(b"\xef\xbb\xbf" + lines.encode()),
    }
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    parquet.write_table(pyarrow.table({"n": range(5), "title": texts}), tmp_path / "f.parquet")
    for name in [*files, "f.parquet"]:
        out = tmp_path / f"{name}.npy"
        done = embed(folder, tmp_path / name, out, "--field", "title")
        assert done.exit_code == 0
        found = np.load(out)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected(texts)), name
        assert sorted(p.name for p in tmp_path.glob(".*")) == []


def test_a_table_has_line_text_and_vector(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "in.jsonl").write_text('{"text": "一"}\n\n{"text": 3}\n{"text": "二 \\ud800"}\n')
    out = tmp_path / "out.parquet"
    done = embed(folder, tmp_path / "in.jsonl", out, "--bad", "skip")
    assert done.exit_code == 0
    assert "line 3: 'text' is no text: left out" in done.stderr
    table = parquet.read_table(out).to_pydict()
    assert table["line"] == [1, 4]
    assert table["text"] == ["一", "二 ?"]
    assert np.array_equal(np.array(table["vector"], np.float32), expected(["一", "二 \ud800"]))


def test_bad_lines_are_told_by_number_before_any_work(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        b'{"text": "a"}\n{"text"\n{"other": 1}\n[]\n\xff\n{"text": null}\n{"text": "b"}\n'
    )
    with pytest.raises(
        DataError,
        match=r"5 bad lines: line 2: no JSON; line 3: no key .*; line 5: no UTF-8; line 6",
    ):
        embed(folder, source, tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()
    done = embed(folder, source, tmp_path / "out.npy", "--bad", "skip", "--json")
    assert json.loads(done.stdout)["rows"] == 2
    assert [line for line in done.stderr.splitlines() if "line 5: no UTF-8" in line]
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected(["a", "b"]))
    assert [t.number for t in read_texts(source) if t.text is not None] == [1, 7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "does not exist"),
        ("a.csv", b"a", "does not end in"),
        ("a.parquet", b"PAR1 not", "no Parquet"),
        ("a.txt.gz", b"\x1f\x8bbroken", "cannot be read"),
    ],
)
def test_files_that_hold_no_texts(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        good_texts(tmp_path / name)


def test_an_empty_file_gives_an_empty_array(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"")
    for ending in ("npy", "parquet"):
        out = tmp_path / f"out.{ending}"
        assert embed(folder, tmp_path / "in.txt", out).exit_code == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 32)


def test_texts_of_the_command_line(folder: Path) -> None:
    done = run("embed", f"file:{folder}", "一二", "三", "-o", "scale=2")
    rows = [[float(x) for x in line.split("\t")] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(rows, 2 * expected(["一二", "三"]))
    found = json.loads(run("embed", f"file:{folder}", "一", "--json").stdout)
    assert found[0]["text"] == "一"
    assert run("embed", f"file:{folder}").exit_code == 2
    assert run("embed", f"file:{folder}", "--file", "x.txt").exit_code == 2
    assert run("embed", f"file:{folder}", "a", "--out", "x.csv").exit_code == 2


def test_an_unknown_option_is_the_users_mistake(folder: Path) -> None:
    from kexue_core.errors import ConfigError

    with pytest.raises(ConfigError, match="speed"):
        run("embed", f"file:{folder}", "a", "-o", "speed=9")
    with pytest.raises(ConfigError, match="speed"):
        run("rewrite", f"file:{folder}", "a", "-o", "speed=9")


# The peak of the process itself; getrusage would count what its parent had before it.
MEASURED = """
import re, sys
from kexue_core.commands import main
try:
    main(sys.argv[1:])
finally:
    with open("/proc/self/status") as status:
        print("peak", re.search(r"VmHWM:\\s+(\\d+)", status.read())[1], file=sys.stderr)
"""


def child(folder: Path, source: Path, out: Path, site: Any, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MEASURED, "embed", f"file:{folder}"]
    return subprocess.Popen(
        [*command, "--file", str(source), "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(site.folder), **more},
        text=True,
        stderr=subprocess.PIPE,
    )


def test_a_killed_run_goes_on_without_losing_or_repeating_a_row(
    folder: Path, tmp_path: Path, site: Any
) -> None:
    drawn = random.Random(0)
    texts = [f"第{i}句{drawn.random()}" for i in range(100_000)]
    source, out = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("\n".join(texts) + "\n", encoding="utf-8")
    part = tmp_path / ".out.npy.part"
    grown = 0
    for _ in range(2):
        process = child(folder, source, out, site, COUNTER_SLEEP="0.02")
        deadline = time.monotonic() + 120
        before = grown
        while grown < before + 1_500_000:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            grown = part.stat().st_size if part.exists() else 0
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
        # A row that was being written: the next run must not take it for a whole one.
        with part.open("ab") as file:
            file.write(b"half a row")
    process = child(folder, source, out, site)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert "went on after row" in errors
    assert np.array_equal(np.load(out), expected(texts))
    assert not part.exists()
    # torch alone takes some hundred MB; 100,000 texts and rows add 12 MB each, were they kept.
    [peak] = re.findall(r"^peak (\d+)$", errors, re.MULTILINE)
    assert int(peak) / 1024 < 900


def test_other_arguments_do_not_go_on_with_a_part(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kexue_core.commands.embed import _Part

    source, out = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("a\nb\n" * 3000)
    arguments = ["embed", f"file:{folder}", "--file", str(source), "--out", str(out)]

    def stop(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_Part, "finish", stop)
        assert CliRunner().invoke(cli, arguments).exit_code != 0
    with pytest.raises(DataError, match=r"options.*--fresh"):
        run(*arguments, "-o", "scale=2")
    source.write_text("a\nc\n" * 3000)
    with pytest.raises(DataError, match=r"source.*--fresh"):
        run(*arguments)
    assert run(*arguments, "--fresh").exit_code == 0
    assert np.array_equal(np.load(out), expected(["a", "c"] * 3000))


def test_similar_compares_pairs(folder: Path) -> None:
    found = json.loads(run("similar", f"file:{folder}", "ab", "ab", "c", "--json").stdout)
    assert [(f["text"], f["other"]) for f in found] == [("ab", "ab"), ("ab", "c"), ("ab", "c")]
    assert found[0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert found[1]["cosine"] == 0
    assert run("similar", f"file:{folder}", "one").exit_code == 2


def test_similar_finds_the_nearest_of_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kexue_core.commands import similar

    drawn = random.Random(1)
    texts = ["".join(drawn.choices("abcdefgh", k=6)) for _ in range(300)]
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n")
    monkeypatch.setattr(similar, "BLOCK", 64)
    queries = ["abc", "hhg"]
    file = ("--file", tmp_path / "in.txt", "--json")
    done = run("similar", f"file:{folder}", *queries, *file, "-k", 5)
    vectors = expected([*queries, *texts])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors[:2] @ vectors[2:].T
    for row, answer in zip(cosines, json.loads(done.stdout), strict=True):
        best = pytest.approx(sorted(row)[::-1][:5], abs=1e-6)
        assert [f["cosine"] for f in answer["found"]] == best
        assert all(texts[f["line"] - 1] == f["text"] for f in answer["found"])
    more = run("similar", f"file:{folder}", "abc", *file, "-k", 999)
    assert len(json.loads(more.stdout)[0]["found"]) == 300


def test_rewrite(folder: Path, tmp_path: Path) -> None:
    done = run("rewrite", f"file:{folder}", "问", "-n", 2, "--method", "beam", "-o", "shout=！")
    assert done.stdout.splitlines()[1:] == ["问\t问beam0！0\t1.0000", "问\t问beam0！1\t0.9000"]
    (tmp_path / "in.txt").write_text("问\n\n")
    done = run("rewrite", f"file:{folder}", "--file", tmp_path / "in.txt", "--seed", 4, "--json")
    found = json.loads(done.stdout)
    assert [len(f["rewrites"]) for f in found] == [10, 0]
    assert found[0]["rewrites"][0]["text"] == "问sample40"
    assert "1 of 2 texts got no rewrite" in done.stderr
    assert run("rewrite", f"file:{folder}").exit_code == 2
