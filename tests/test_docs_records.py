"""Pages say what their records say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    module = importlib.import_module("fill_records")
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def report(name: str, *, quick: bool = False) -> dict[str, Any]:
    def run(variant: str, seed: int, value: float) -> dict[str, Any]:
        record = {"metric": "bits_per_dim", "value": value, "dataset": "toy", "n": 5000}
        return {"variant": variant, "seed": seed, "records": [{**record, "split": "val"}]}

    return {
        "experiment": name,
        "claim": "Good is better",
        "criterion": "good below bad",
        "verdict": "holds",
        "quick": quick,
        "complete": not quick,
        "seeds": 2,
        "command": f"kexue reproduce {name} --seeds 2",
        "because": ["good against bad: better by 0.5000"],
        "runs": [run("good", 0, 2.0), run("good", 1, 2.2), run("bad", 0, 2.5), run("bad", 1, 2.7)],
    }


def test_the_pages_of_the_repository_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "fill_records.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_figures_come_from_full_runs(fill: ModuleType, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, quick in (("claim", False), ("hasty-quick", True)):
        (runs / name).mkdir(parents=True)
        text = json.dumps(report(name.removesuffix("-quick"), quick=quick))
        (runs / name / "report.json").write_text(text)
        (runs / name / "plot.png").write_bytes(b"png")
    fill.take_over(runs)
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["claim.json"]
    assert (tmp_path / "images" / "reproduce-claim.png").read_bytes() == b"png"
    page = "before\n<!-- record: claim -->\nstale\n<!-- end record -->\nafter\n"
    new = fill.filled(page)
    assert "stale" not in new
    assert "*Good is better*: **holds**." in new
    assert "| good | 2.10 ± 0.14 |" in new
    assert "toy, 5,000 of val, 2 seeds (mean and deviation)" in new
    assert new.startswith("before\n")
    assert new.endswith("<!-- end record -->\nafter\n")
    assert fill.filled(new) == new
    missing = fill.filled(page.replace("claim", "other"))
    assert "No record yet; `kexue reproduce other` makes one." in missing


def test_a_page_may_show_some_of_the_metrics(fill: ModuleType, tmp_path: Path) -> None:
    content = report("claim")
    for run in content["runs"]:
        run["records"].append(run["records"][0] | {"metric": "rate", "value": 7.0})
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "claim.json").write_text(json.dumps(content))
    page = "<!-- record: claim rate -->\n<!-- end record -->\n"
    new = fill.filled(page)
    assert new.startswith("<!-- record: claim rate -->\n")
    assert "| | rate |" in new
    assert "| | bits_per_dim | rate |" in fill.filled(page.replace(" rate", ""))
    assert fill.filled(new) == new
    with pytest.raises(SystemExit, match="claim has no rat, only bits_per_dim, rate"):
        fill.filled(page.replace("rate", "rat"))
