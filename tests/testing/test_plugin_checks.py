"""The checks of distributions, recipes and adapters fail on faults, and ``kexue check`` tells."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit_specs import GOOD
from synthetic import MODULES, REPOSITORY, environment, write_distribution

from kexue_core import AdapterSpec, ModelSpec, RecipeSpec
from kexue_core.errors import PluginError
from kexue_core.plugins import PluginRecord, Plugins, Problem
from kexue_core.specs import Spec
from kexue_core.testing import cases, run_checks, subject_cases
from kexue_core.testing.subjects import AdapterSubject, ModelSubject, PluginSubject, RecipeSubject

HOSTILE = REPOSITORY / "tests" / "fixtures" / "hostile"


def record(*specs: Spec, name: str = "mine", **changes: object) -> PluginRecord:
    base = PluginRecord(name, "1.0", f"{name}.plugin", specs, (), (), 0.0)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def said(subject: object, check: str) -> str:
    """What a check that must fail says."""
    outcome = next(c for c in subject_cases(subject) if c.check.name == check).perform()
    assert outcome.status == "failed", f"{check} passed"
    return outcome.detail


@pytest.mark.parametrize(
    ("broken", "check", "wanted"),
    [
        (record(problems=(Problem("bad thing", "Mend it"),)), "loads", "bad thing. Mend it"),
        (record(), "loads", "It declares nothing"),
        (
            record(dataclasses.replace(GOOD["flow"], factory="good_zoo:Absent")),
            "factories",
            "good_zoo:Absent does not exist",
        ),
        (
            record(dataclasses.replace(GOOD["flow"], example_input="math:pi")),  # type: ignore[call-arg]
            "factories",
            "example_input math:pi is a float",
        ),
        (record(dataclasses.replace(GOOD["flow"], summary=" ")), "summaries", "no summary"),
    ],
)
def test_a_broken_distribution_is_found(broken: PluginRecord, check: str, wanted: str) -> None:
    assert wanted in said(PluginSubject(broken, Plugins([broken])), check)


def test_a_name_of_someone_else_is_found() -> None:
    mine, theirs = record(GOOD["flow"]), record(GOOD["flow"], name="theirs")
    text = said(PluginSubject(mine, Plugins([mine, theirs])), "names")
    assert "also declared by theirs" in text
    assert "mine::flow" in text


@pytest.mark.parametrize(
    ("requires", "wanted"),
    [
        ("kexue>=0.1", "has no upper bound"),
        ("kexue-flow>=0.1,<0.2", "does not require kexue"),
    ],
)
def test_an_unbounded_requirement_is_found(
    requires: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distribution(tmp_path, "mine", "", requires=requires)
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = record(GOOD["flow"])
    assert wanted in said(PluginSubject(mine, Plugins([mine])), "requirement")


def test_a_heavy_listing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = HOSTILE / "hostile-heavy"
    monkeypatch.setenv("PYTHONPATH", environment(heavy)["PYTHONPATH"])
    mine = record(GOOD["flow"], name="hostile-heavy")
    assert "imports numpy, torch" in said(PluginSubject(mine, Plugins([mine])), "listing")


FLOW = GOOD["flow"]


@pytest.mark.parametrize(
    ("factory", "check", "wanted"),
    [
        ("NoRecipe", "recipe", "is no Recipe"),
        ("Unfinished", "recipe", "lacks build, data"),
        ("NoCard", "recipe", "has no card"),
        ("EmptyCard", "recipe", "says nothing of license"),
        ("WrongConfig", "recipe", "no RecipeConfig"),
        ("UnsavableConfig", "recipe", "JSON"),
        ("NoModel", "build", "no 'model'"),
        ("OtherModel", "build", "makes a Energy"),
        ("IdleParameter", "build", "No optimiser holds nets.0.0.bias"),
    ],
)
def test_a_faulty_recipe_is_found(factory: str, check: str, wanted: str) -> None:
    assert isinstance(FLOW, ModelSpec)
    spec = RecipeSpec(name="r", factory=f"faulty_recipes:{factory}", model="flow", summary="r")
    assert wanted in said(RecipeSubject(spec, "mine", FLOW), check)


def test_a_good_recipe_passes() -> None:
    assert isinstance(FLOW, ModelSpec)
    spec = RecipeSpec(name="r", factory="faulty_recipes:Good", model="flow", summary="r")
    outcomes = [case.perform() for case in subject_cases(RecipeSubject(spec, "mine", FLOW))]
    assert {o.status for o in outcomes} == {"passed"}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (AdapterSpec(name="a", factory="m:f", model="other", formats=("pickle",)), "'other'"),
        (AdapterSpec(name="a", factory="m:f", model="flow", formats=()), "reads no format"),
    ],
)
def test_a_faulty_adapter_is_found(spec: AdapterSpec, wanted: str) -> None:
    assert wanted in said(AdapterSubject(spec, "mine", ("flow",)), "adapter")


def test_what_cannot_be_compiled_is_recorded_and_no_fault() -> None:
    spec = dataclasses.replace(GOOD["texts"], factory="faulty_zoo:Untraceable")
    assert isinstance(spec, ModelSpec)
    found = {
        case.check.name: case.perform()
        for case in subject_cases(ModelSubject(spec, "mine"))
        if case.check.name in ("compile", "export")
    }
    assert {o.status for o in found.values()} == {"recorded"}
    assert all("not supported" in o.detail for o in found.values())


class TestCommand:
    """``kexue check`` in a process of its own."""

    PLUGIN = """
from kexue_core import ModelSpec, hookimpl

@hookimpl
def kexue_components():
    yield ModelSpec(
        name="wrong", factory="faulty_zoo:WrongSign", config="good_zoo:Config",
        capabilities=("latent", "density"), summary="wrong",
    )
"""

    def run(self, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
        write_distribution(folder, "wrong-plugin", self.PLUGIN)
        return subprocess.run(
            [sys.executable, "-m", "kexue_core", "check", *args],
            env=environment(folder, MODULES),
            capture_output=True,
            text=True,
            check=False,
        )

    def test_a_failure_is_exit_code_1_and_says_what_to_change(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "wrong-plugin", "--only", "model:wrong-[di]*", "--json")
        assert done.returncode == 1, done.stderr
        outcomes = {o["check"]: o for o in json.loads(done.stdout)}
        assert outcomes["density"]["status"] == "failed"
        assert "wrong sign" in outcomes["density"]["detail"]
        assert outcomes["inverse"]["status"] == "passed"

    def test_quiet_prints_failures_only(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "wrong-plugin", "--only", "model:wrong-[di]*", "-q")
        assert done.returncode == 1
        assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ["check", "density"]
        assert not done.stderr

    def test_a_mistake_is_one_line(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "no-such")
        assert done.returncode == 1
        assert "no-such is not installed" in done.stderr
        assert done.stderr.count("\n") == 1


def test_checks_are_listed_with_their_promises() -> None:
    listed = {case.id: case.check.promise for case in cases("kexue-flow")}
    assert listed["model:glow-density"].endswith("by its Jacobian, or by its integral.")
    assert all(promise.endswith(".") for promise in listed.values())


def test_a_pattern_that_matches_nothing_is_a_mistake() -> None:
    with pytest.raises(PluginError, match=r"No check of kexue matches 'x\*'"):
        run_checks("kexue", only="x*")
