"""The experiments run from data to report, and their verdicts follow their criteria."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexue_ebm.experiments import Chains, Toys, record
from kexue_ebm.studies import Buffer, Detection, SpectralNormalization

from kexue_core.experiments import Results, RunContext, RunResult
from kexue_core.reproduce import entries, load_experiment, reproduce

CONTEXT = RunContext(folder=Path(), data=None, device="cpu", quick=True, command="")


def results(values: dict[tuple[str, int], dict[str, float]]) -> Results:
    """Runs with the figures of (variant, seed)."""
    return Results(
        RunResult(
            variant=variant,
            seed=seed,
            records=tuple(
                record(m, v, dataset="made up", n=1, seed=seed, context=CONTEXT)
                for m, v in figures.items()
            ),
        )
        for (variant, seed), figures in values.items()
    )


def test_every_entry_point_loads() -> None:
    ours = [entry.name for entry in entries() if entry.distribution == "kexue-ebm"]
    expected = {"ebm-buffer", "ebm-chains", "ebm-detection", "ebm-spectral-norm", "ebm-toys"}
    assert set(ours) == expected
    for name in ours:
        assert load_experiment(name).criterion


def test_chains_verdict() -> None:
    def figures(exact: float, theory: float, modes: float) -> dict[str, float]:
        return {
            "standard_errors": exact,
            "standard_errors_of_theory": theory,
            "kolmogorov": modes,
        }

    good = {
        ("langevin", 0): figures(2.9, 2.9, 9.0),
        ("langevin-coarse", 0): figures(8.0, 2.0, 9.0),
        ("mala", 0): figures(1.0, 1.0, 1.0),
        ("hmc", 0): figures(1.0, 1.0, 1.0),
    }
    assert Chains().verdict(results(good)).holds
    for key, bad in (
        (("langevin", 0), figures(3.1, 3.1, 1.0)),
        (("langevin-coarse", 0), figures(2.0, 2.0, 1.0)),
        (("mala", 0), figures(1.0, 1.0, 2.0)),
        (("hmc", 0), figures(3.5, 3.5, 1.0)),
    ):
        assert not Chains().verdict(results({**good, key: bad})).holds


def test_toys_verdict() -> None:
    good = {(v, s): {"kl": 0.1, "kl_one_gaussian": 0.5} for v in Toys.variants for s in (0, 1)}
    assert Toys().verdict(results(good)).holds
    for bad in ({"kl": 0.16, "kl_one_gaussian": 0.9}, {"kl": 0.1, "kl_one_gaussian": 0.2}):
        assert not Toys().verdict(results({**good, ("ring", 1): bad})).holds


def test_spectral_norm_verdict() -> None:
    def figures(gap: float, diverged: float = 0.0) -> dict[str, float]:
        return {"largest_gap": gap, "diverged": diverged}

    good = {("on", 0): figures(1.0), ("off", 0): figures(11.0)}
    verdict = SpectralNormalization().verdict
    assert verdict(results(good)).holds
    assert verdict(results({**good, ("off", 0): figures(2.0, 1.0)})).holds
    assert not verdict(results({**good, ("off", 0): figures(9.0)})).holds
    assert not verdict(results({**good, ("on", 0): figures(1.0, 1.0)})).holds
    assert not verdict(results({("on", 0): figures(21.0), ("off", 0): figures(1e9)})).holds


def test_detection_verdict() -> None:
    def figures(energy: float, noise: float) -> dict[str, float]:
        return {
            "auroc_outside": energy,
            "auroc_outside_grey": 0.9,
            "auroc_outside_gaussian": 0.8,
            "auroc_uniform": noise,
            "auroc_uniform_grey": 1.0,
            "auroc_uniform_gaussian": 1.0,
        }

    good = {(v, 0): figures(0.95, 1.0) for v in Detection.variants}
    assert Detection().verdict(results(good)).holds
    assert not Detection().verdict(results({**good, ("mnist", 0): figures(0.85, 1.0)})).holds
    assert not Detection().verdict(results({**good, ("fashion", 0): figures(0.95, 0.99)})).holds


def test_variants_differ_in_what_they_say() -> None:
    for study, changed in ((Buffer(), {"buffer"}), (SpectralNormalization(), {"spectral_norm"})):
        a, b = (study.settings(v, quick=False) for v in study.variants)
        assert {key for key in a if a[key] != b[key]} == changed


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Two folders of small images, where MNIST and Fashion-MNIST would be."""
    rng = np.random.default_rng(0)
    for name, side in (("MNIST", 8), ("Fashion-MNIST", 16)):
        images = np.zeros((120, 28, 28), np.uint8)
        images[:, 4 : 4 + side, 4 : 4 + side] = rng.integers(150, 256, (120, 1, 1))
        (tmp_path / "data" / name).mkdir(parents=True)
        np.savez(tmp_path / "data" / name / "images.npz", images=images)
    return tmp_path / "data"


def _tiny(experiment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kexue_ebm import studies

    small = studies.EBMQuickConfig(
        steps=3, batch_size=8, width=4, chain_steps=2, buffer=16, kept=4, sample_steps=2
    )
    monkeypatch.setattr(studies, "EBMQuickConfig", lambda **_: small)


def test_spectral_norm_from_data_to_report(squares, tmp_path, monkeypatch) -> None:
    _tiny(SpectralNormalization, monkeypatch)
    data = str(squares / "MNIST" / "images.npz")
    out = tmp_path / "out"
    report = reproduce(SpectralNormalization(), out=out, quick=True, seeds=1, data=data)
    assert [run["variant"] for run in report["runs"]] == ["on", "off"]
    assert (out / "ebm-spectral-norm-quick" / "plot.png").is_file()
    assert str(tmp_path) not in str(report)


def test_detection_from_data_to_report(squares, tmp_path, monkeypatch) -> None:
    _tiny(Detection, monkeypatch)
    monkeypatch.setattr(
        Detection,
        "_sources",
        lambda self, variant, data: tuple(
            str(Path(data) / folder / "images.npz") for folder in self.sources[variant][1:]
        ),
    )
    out = tmp_path / "out"
    report = reproduce(Detection(), out=out, quick=True, seeds=1, data=str(squares))
    assert {r["metric"] for r in report["runs"][0]["records"]} == {
        f"auroc_{o}{s}" for o in ("uniform", "outside") for s in ("", "_grey", "_gaussian")
    }
    assert (out / "ebm-detection-quick" / "plot.png").is_file()


def test_toys_from_seed_to_report(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Toys, "quick_steps", 3)
    monkeypatch.setattr(Toys, "variants", ("ring",))
    report = reproduce(Toys(), out=tmp_path, quick=True, seeds=1)
    assert [r["metric"] for r in report["runs"][0]["records"]] == ["kl", "kl_one_gaussian"]
    assert (tmp_path / "ebm-toys-quick" / "plot.png").is_file()
