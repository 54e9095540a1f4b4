"""Specs are checked when they are made, frozen, and cost no torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kexue_core import AdapterSpec, LossSpec, ModelSpec, Option, RecipeSpec, SamplerSpec
from kexue_core.errors import InvalidSpecError, PluginError
from kexue_core.specs import CAPABILITIES, KINDS, VERBS, import_object

BASE: dict[type, dict[str, Any]] = {
    ModelSpec: {"config": "a:B"},
    LossSpec: {"example": "a:b"},
    SamplerSpec: {"needs": ("latent",)},
    RecipeSpec: {"model": "m"},
    AdapterSpec: {"model": "m", "formats": ("tensorflow",)},
}


def make(cls: type, **changes: Any) -> Any:
    return cls(**{"name": "thing", "factory": "a.b:C.d", **BASE[cls], **changes})


@pytest.mark.parametrize("cls", BASE)
def test_minimal_specs(cls: type) -> None:
    spec = make(cls)
    assert spec.kind in KINDS
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"


@pytest.mark.parametrize("cls", BASE)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "No Name"}, "'No Name' is no valid name"),
        ({"name": 7}, "no valid name"),
        ({"factory": "a.b.C"}, "factory must be an import string"),
        ({"factory": "a:b:c"}, "factory must be an import string"),
        ({"factory": None}, "factory must be an import string"),
        ({"summary": "two\nlines"}, "one line"),
        ({"summary": None}, "one line"),
        ({"deprecated": True}, "deprecated must be one line"),
        ({"post": "5807"}, "post must be a number"),
        ({"post": True}, "post must be a number"),
        ({"papers": "1807.03039"}, "papers must be a tuple"),
        ({"aliases": ["old"]}, "aliases must be a tuple"),
        ({"aliases": ("Old",)}, "no valid name"),
    ],
)
def test_what_every_spec_refuses(cls: type, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpecError, match=said) as caught:
        make(cls, **change)
    assert cls.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "change", "said"),
    [
        (ModelSpec, {"config": "a.B"}, "config must be an import string"),
        (ModelSpec, {"capabilities": ("fly",)}, "unknown capability 'fly'"),
        (ModelSpec, {"capabilities": "latent"}, "capabilities must be a tuple"),
        (ModelSpec, {"tiny": [1]}, "tiny must be a mapping"),
        (ModelSpec, {"example_input": "x"}, "example_input must be an import string"),
        (ModelSpec, {"float32": "*"}, "float32 must be a tuple"),
        (ModelSpec, {"bound": True}, "bound says something of a density"),
        (ModelSpec, {"bound": "no"}, "bound must be True or False"),
        (LossSpec, {"stop_gradient": None}, "stop_gradient must be True or False"),
        (LossSpec, {"example": "x"}, "example must be an import string"),
        (SamplerSpec, {"needs": ("fly",)}, "needs the unknown capability 'fly'"),
        (SamplerSpec, {"options": {"steps": 3}}, "options must map names to Option"),
        (SamplerSpec, {"options": {"a b": Option(default=1, help="")}}, "names no argument"),
        (SamplerSpec, {"options": {"a": Option(default=1, help=3)}}, "help of a must be one line"),
        (SamplerSpec, {"options": {"a": Option(default=[], help="")}}, "default of a must be"),
        (SamplerSpec, {"targets_density": 1}, "targets_density must be True or False"),
        (SamplerSpec, {"tiny": {"steps": 3}}, "tiny sets 'steps', which is none of options"),
        (SamplerSpec, {"tiny": 3}, "tiny must be a mapping"),
        (SamplerSpec, {"example": "x"}, "example must be an import string"),
        (RecipeSpec, {"model": "No"}, "no valid name"),
        (RecipeSpec, {"weights": ""}, "no valid name"),
        (RecipeSpec, {"data": 3}, "data must be one line"),
        (AdapterSpec, {"model": "No"}, "no valid name"),
        (AdapterSpec, {"formats": "tensorflow"}, "formats must be a tuple"),
    ],
)
def test_what_one_kind_refuses(cls: type, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpecError, match=said):
        make(cls, **change)


def test_a_sampler_of_a_bound_density_is_fine() -> None:
    assert make(ModelSpec, capabilities=("density",), bound=True).bound
    steps = Option(default=1, help="steps")
    assert make(SamplerSpec, options={"steps": steps}, tiny={"steps": 2}).tiny == {"steps": 2}


def test_verbs_follow_the_capabilities_in_one_order() -> None:
    spec = make(ModelSpec, capabilities=("density", "latent"))
    assert spec.verbs == ("sample", "reconstruct", "interpolate", "score")
    assert set(VERBS) == {verb for verbs in CAPABILITIES.values() for verb in verbs}
    assert make(ModelSpec, capabilities=("generator",)).verbs == ("sample", "interpolate")


def test_import_strings_are_followed() -> None:
    assert import_object("os.path:join") is __import__("os").path.join
    assert import_object("collections:OrderedDict.fromkeys") is not None
    with pytest.raises(PluginError, match="pip install no_such_module"):
        import_object("no_such_module:x")
    with pytest.raises(PluginError, match="Correct the import string"):
        import_object("os:no_such_name")


def test_declaring_costs_no_torch() -> None:
    code = "import sys, kexue_core as k; k.ModelSpec; k.hookimpl; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("source", ["def (", "raise ValueError('no')", "1 / 0"])
def test_a_module_that_breaks_while_imported_is_a_plugin_error(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"breaks_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=f"{name}:x cannot be imported"):
        import_object(f"{name}:x")
