"""Saving and loading in a fresh process: tied weights, unsaved buffers, and what goes wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kit_specs import GOOD, subject
from synthetic import MODULES, environment, write_distribution

from kexue_core.testing import Outcome, subject_cases

PLUGIN = """
from kexue_core import ModelSpec, hookimpl

@hookimpl
def kexue_components():
    for name, factory in (
        ("tied", "good_zoo:Tied"),
        ("forgetful", "faulty_zoo:LosesAttribute"),
        ("loose", "faulty_zoo:ComesLoose"),
        ("moody", "faulty_zoo:LoadsElsewhere"),
    ):
        yield ModelSpec(
            name=name,
            factory=factory,
            config="good_zoo:Config",
            tiny={"size": 4, "hidden": 8},
            example_input="good_zoo:some_ids",
        )
"""


def save_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str) -> Outcome:
    folder = write_distribution(tmp_path / "site", "kit-zoo", PLUGIN)
    monkeypatch.setenv("PYTHONPATH", environment(folder, MODULES)["PYTHONPATH"])
    spec = replace(GOOD["tied"], name=name, factory=factory)
    case = next(c for c in subject_cases(subject(spec)) if c.check.name == "save-load")
    return case.perform()


def test_tied_weights_and_unsaved_buffers_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = save_load("tied", tmp_path, monkeypatch, "good_zoo:Tied")
    assert outcome.status == "passed", outcome.detail


def test_a_plain_attribute_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = save_load("forgetful", tmp_path, monkeypatch, "faulty_zoo:LosesAttribute")
    assert "forward gives another result after saving and loading" in outcome.detail


def test_weights_that_come_loose_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = save_load("loose", tmp_path, monkeypatch, "faulty_zoo:ComesLoose")
    assert "Loading in a fresh process failed" in outcome.detail
    assert "tie weights in __init__" in outcome.detail


def test_a_failure_in_the_fresh_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = save_load("moody", tmp_path, monkeypatch, "faulty_zoo:LoadsElsewhere")
    assert "Loading in a fresh process failed" in outcome.detail
    assert "only where it was made" in outcome.detail
