"""Experiments: pairing, verdicts, resuming, and finding them without an import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kexue_core.errors import (
    DataError,
    NotFoundError,
    PluginError,
    TrainingError,
    UnsupportedError,
)
from kexue_core.experiments import (
    Comparison,
    Experiment,
    Results,
    RunContext,
    RunResult,
    Verdict,
    compare,
    published_sha256,
    with_error,
)
from kexue_core.plots import plot_curves
from kexue_core.reproduce import entries, load_experiment, reproduce
from kexue_core.training.records import ResultRecord


def record(value: float, *, metric: str = "bits_per_dim", seed: int = 0) -> ResultRecord:
    return ResultRecord(
        metric=metric,
        value=value,
        dataset="toy",
        split="val",
        n=10,
        seed=seed,
        command="kexue reproduce toy",
        weights="0" * 64,
        versions={"kexue": "0"},
        device="cpu",
    )


def results(**values: list[float]) -> Results:
    return Results(
        RunResult(variant=variant, seed=seed, records=(record(value),))
        for variant, per_seed in values.items()
        for seed, value in enumerate(per_seed)
    )


class Toy(Experiment):
    """ "good" ends at 2 + seed / 100, "bad" 0.5 above it."""

    name = "toy"
    study = "toys"
    claim = "Good is better than bad"
    criterion = "good at least 0.1 below bad on average, and below it on every seed"
    variants = ("good", "bad")
    seeds = 2

    def __init__(self, steps: int = 4, fail_at: tuple[str, int] | None = None) -> None:
        self.steps = steps
        self.fail_at = fail_at
        self.runs: list[tuple[str, int]] = []

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        return {"steps": 1 if quick else self.steps, "margin": (0.1,)}

    def run(self, variant: str, seed: int, context: RunContext) -> Any:
        # Counts in its folder, as a training does with checkpoints.
        count = context.folder / "count"
        for step in range(int(count.read_text()) if count.exists() else 0, self.steps):
            if self.fail_at == (variant, seed) and step == 2:
                raise KeyboardInterrupt
            count.write_text(str(step + 1))
        self.runs.append((variant, seed))
        value = 2 + seed / 100 + (0.5 if variant == "bad" else 0)
        return [record(value, seed=seed)], {"bits_per_dim": [(0, 8.0), (self.steps, value)]}

    def verdict(self, results: Results) -> Verdict:
        return Verdict.of(compare(results, "bits_per_dim", better="good", worse="bad", margin=0.1))

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        plot_curves(results, "bits_per_dim", path, variants=self.variants, title=str(verdict))


def test_compare_pairs_seeds_instead_of_pooling() -> None:
    # The seeds differ more than the variants: only pairs show that one is always better.
    found = compare(
        results(good=[1.0, 2.0, 3.0], bad=[1.1, 2.2, 3.3]),
        "bits_per_dim",
        better="good",
        worse="bad",
        margin=0.15,
    )
    assert found.advantages == pytest.approx((0.1, 0.2, 0.3))
    assert found.holds
    assert "better by 0.200 +- 0.058 (" in str(found)  # sd 0.1 / sqrt(3)
    assert "3 of 3 seeds" in str(found)


@pytest.mark.parametrize(
    ("bad", "margin"),
    [([1.5, 2.5, 2.9], 0.1), ([1.01, 2.01, 3.01], 0.1), ([0.5, 1.5, 2.5], 0.0)],
    ids=["one seed against it", "below the margin", "the other way round"],
)
def test_compare_does_not_hold(bad: list[float], margin: float) -> None:
    runs = results(good=[1.0, 2.0, 3.0], bad=bad)
    assert not compare(runs, "bits_per_dim", better="good", worse="bad", margin=margin).holds


def test_compare_higher_is_better() -> None:
    runs = results(good=[0.9], bad=[0.8])
    kwargs: dict[str, Any] = {"better": "good", "worse": "bad"}
    assert compare(runs, "bits_per_dim", higher_is_better=True, **kwargs).holds
    assert not compare(runs, "bits_per_dim", **kwargs).holds


def test_compare_needs_a_seed_in_common_and_the_metric() -> None:
    runs = Results(
        [
            RunResult(variant="good", seed=0, records=(record(1),)),
            RunResult(variant="bad", seed=1, records=(record(2),)),
        ]
    )
    with pytest.raises(DataError, match="no seed in common"):
        compare(runs, "bits_per_dim", better="good", worse="bad")
    with pytest.raises(DataError, match="has no fid"):
        compare(runs, "fid", better="good", worse="good")


def test_verdict_needs_every_comparison() -> None:
    def comparison(holds: bool) -> Comparison:
        return Comparison(
            metric="m", better="a", worse="b", advantages=(1.0,), margin=0.0, holds=holds
        )

    assert Verdict.of(comparison(True), comparison(True)).holds
    assert str(Verdict.of(comparison(True), comparison(False))) == "does not hold here"


def test_reproduce_writes_report_and_plot(tmp_path: Path) -> None:
    said: list[str] = []
    report = reproduce(Toy(), out=tmp_path, say=said.append)
    assert report["verdict"] == "holds"
    assert report["command"] == "kexue reproduce toy --seeds 2"
    assert report == json.loads((tmp_path / "toy" / "report.json").read_text())
    assert (tmp_path / "toy" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert [(r["variant"], r["seed"]) for r in report["runs"]] == [
        ("good", 0), ("bad", 0), ("good", 1), ("bad", 1),
    ]  # fmt: skip
    assert "run 4/4, bad, seed 1: bits_per_dim 2.5100; 0 s, about 0 min left" in said[-1]
    assert str(tmp_path) not in json.dumps(report)


def test_finished_runs_are_not_repeated_and_interrupted_ones_go_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        reproduce(Toy(fail_at=("good", 1)), out=tmp_path)
    interrupted = tmp_path / "runs" / "toys" / "good-seed-1"
    assert (interrupted / "count").read_text() == "2"
    assert not (interrupted / "run.json").exists()
    again = Toy()
    said: list[str] = []
    report = reproduce(again, out=tmp_path, say=said.append)
    assert again.runs == [("good", 1), ("bad", 1)]
    assert "was finished before" in said[0]
    assert report["holds"]
    # Fewer seeds than there are runs: those asked for are judged.
    fewer = reproduce(Toy(), out=tmp_path, seeds=1)
    assert (fewer["seeds"], fewer["complete"], report["complete"]) == (1, False, True)


def test_experiments_of_a_study_share_runs(tmp_path: Path) -> None:
    class Sibling(Toy):
        name = "sibling"
        variants = ("good", "bad", "ugly")

    reproduce(Toy(), out=tmp_path)
    sibling = Sibling()
    reproduce(sibling, out=tmp_path)
    assert sibling.runs == [("ugly", 0), ("ugly", 1)]


def test_runs_of_other_settings_or_data_are_refused(tmp_path: Path) -> None:
    reproduce(Toy(), out=tmp_path)
    with pytest.raises(TrainingError, match="steps was 4 and is 5"):
        reproduce(Toy(steps=5), out=tmp_path)
    with pytest.raises(TrainingError, match="data was 'default' and is 'other'"):
        reproduce(Toy(), out=tmp_path, data="other")


def test_quick_runs_are_kept_apart(tmp_path: Path) -> None:
    reproduce(Toy(), out=tmp_path, quick=True)
    full = Toy()
    assert reproduce(full, out=tmp_path)["quick"] is False
    assert len(full.runs) == 4
    assert (tmp_path / "toy-quick" / "report.json").is_file()


def test_a_broken_run_file_is_named(tmp_path: Path) -> None:
    reproduce(Toy(), out=tmp_path)
    (tmp_path / "runs" / "toys" / "good-seed-0" / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"good-seed-0/run\.json is no JSON"):
        reproduce(Toy(), out=tmp_path)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution on the path that brings experiments, as pip would leave it."""
    site = tmp_path / "site"
    info = site / "kexue_fake-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kexue-fake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[kexue.experiments]\n"
        "fake-claim = kexue_fake_experiments:Claim\n"
        "fake-exit = kexue_fake_exits:Claim\n"
        "fake-other = kexue_fake_experiments:Claim\n"
    )
    (site / "kexue_fake_experiments.py").write_text(
        "from kexue_core.experiments import Experiment\n"
        "class Claim(Experiment):\n"
        "    name = study = 'fake-claim'\n"
        "    settings = run = verdict = plot = None\n"
    )
    (site / "kexue_fake_exits.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(site))
    return site


def test_entries_are_listed_without_an_import(installed: Path) -> None:
    ours = [e for e in entries() if e.distribution == "kexue-fake"]
    assert [e.name for e in ours] == ["fake-claim", "fake-exit", "fake-other"]
    assert "kexue_fake_experiments" not in sys.modules


def test_load_experiment(installed: Path) -> None:
    assert load_experiment("fake-claim").name == "fake-claim"
    assert load_experiment("kexue-fake::fake-claim").study == "fake-claim"
    with pytest.raises(NotFoundError, match="Did you mean fake-claim"):
        load_experiment("fake-clam")
    with pytest.raises(PluginError, match="SystemExit: 3"):
        load_experiment("fake-exit")
    with pytest.raises(PluginError, match="is not the experiment 'fake-other'"):
        load_experiment("fake-other")


def kexue(*args: str, site: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "kexue_core", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_command_lists_without_torch(installed: Path) -> None:
    # A torch that cannot be imported shows that nobody tries.
    (installed / "torch.py").write_text("raise ImportError('torch was imported')\n")
    listed = kexue("reproduce", "--json", site=installed)
    assert listed.returncode == 0, listed.stderr
    assert {"name": "fake-claim", "distribution": "kexue-fake",
            "target": "kexue_fake_experiments:Claim"} in json.loads(listed.stdout)  # fmt: skip
    assert kexue("reproduce", "--list", site=installed).stdout.startswith("name\tplugin\t")


def test_command_runs_and_ends_well_whatever_the_verdict(installed: Path, tmp_path: Path) -> None:
    (installed / "kexue_fake_experiments.py").write_text(
        "from test_experiments import Toy\n"
        "class Claim(Toy):\n"
        "    name = study = 'fake-claim'\n"
        "    def verdict(self, results):\n"
        "        from kexue_core.experiments import Verdict\n"
        "        return Verdict(holds=False, because=('because',))\n"
    )
    (installed / "test_experiments.py").write_text(Path(__file__).read_text())
    arguments = ("reproduce", "fake-claim", "--out", str(tmp_path / "out"))
    first = kexue(*arguments, site=installed)
    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith("fake-claim: does not hold here\n")
    assert "criterion: good at least 0.1 below bad" in first.stderr
    again = kexue(*arguments, "--json", "--quiet", site=installed)
    assert json.loads(again.stdout)["holds"] is False
    assert again.stderr == ""
    wrong = kexue("reproduce", "fake-clam", site=installed)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (0.0075712, 0.000123, "0.00757 ± 0.00012"),
        (22096.5, 3779.7, "22,096 ± 3,780"),
        (719.79, 61.3, "720 ± 61"),
        (-5.191, 1.02, "-5.2 ± 1.0"),
        (0.5, 1e-9, "0.500000 ± 0.000000"),
        (0.5, 0.0, "0.5000 ± 0"),
        (0.123456, None, "0.1235"),
        (12345.6, None, "12,346"),
    ],
)
def test_a_figure_is_printed_to_the_second_digit_of_its_error(
    value: float, error: float | None, said: str
) -> None:
    assert with_error(value, error) == said


def test_runs_on_published_weights_know_their_hash() -> None:
    assert re.fullmatch("[0-9a-f]{64}", published_sha256("glow-celeba"))
    with pytest.raises(UnsupportedError, match="simbert-base is not in the registry with its hash"):
        published_sha256("simbert-base")
    with pytest.raises(NotFoundError):
        published_sha256("glow-celebb")
