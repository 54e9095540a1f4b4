"""Finding specs: aliases, qualified names, conflicts. Isolation is in tests/isolation."""

from __future__ import annotations

import types

import pytest

from kexue_core import LossSpec, ModelSpec, hookimpl
from kexue_core.distributions import EntryPoint
from kexue_core.errors import AmbiguousNameError, NotFoundError, PluginError
from kexue_core.isolation import load_plugin
from kexue_core.plugins import PluginRecord, Plugins, Problem, discover
from kexue_core.specs import Spec


def model(name: str, **changes: object) -> ModelSpec:
    return ModelSpec(name=name, factory="a:B", config="a:C", **changes)  # type: ignore[arg-type]


def record(name: str, *specs: Spec, problems: tuple[Problem, ...] = ()) -> PluginRecord:
    return PluginRecord(name, "1.0", f"{name}.plugin", specs, (), problems, 0.0)


GLOW = model("glow", aliases=("glow-old",))
LOSS = LossSpec(name="glow", factory="a:B", example="a:e")
PLUGINS = Plugins(
    [
        record("b-plugin", model("nice"), model("twin")),
        record("a-plugin", GLOW, LOSS, model("twin")),
        record("broken", problems=(Problem("cannot import x", "Run `pip install x`"),)),
    ]
)


def test_records_are_in_order_and_found_under_any_spelling() -> None:
    assert [r.distribution for r in PLUGINS] == ["a-plugin", "b-plugin", "broken"]
    assert PLUGINS.record("A_Plugin") is PLUGINS.records[0]
    assert PLUGINS.record("none") is None


def test_a_spec_is_found_by_name_alias_and_qualified_name() -> None:
    for name in ("glow", "glow-old", "a-plugin::glow", "A_Plugin::glow-old"):
        found = PLUGINS.find("model", name)
        assert found.spec is GLOW
        assert found.qualified == "a-plugin::glow"
    assert PLUGINS.find("loss", "glow").spec is LOSS


def test_an_ambiguous_name_lists_the_qualified_forms() -> None:
    with pytest.raises(AmbiguousNameError, match="a-plugin::twin or b-plugin::twin"):
        PLUGINS.find("model", "twin")
    assert PLUGINS.find("model", "twin", "b-plugin").distribution == "b-plugin"
    assert set(PLUGINS.conflicts()) == {("model", "twin")}


def test_unknown_names_are_answered_with_suggestions() -> None:
    with pytest.raises(NotFoundError, match="Did you mean glow"):
        PLUGINS.find("model", "glwo")
    with pytest.raises(NotFoundError, match="kexue list --kind sampler"):
        PLUGINS.find("sampler", "zzz")
    with pytest.raises(PluginError, match="pip install absent"):
        PLUGINS.find("model", "absent::glow")
    with pytest.raises(PluginError, match=r"broken is broken: cannot import x\. Run `pip"):
        PLUGINS.find("model", "broken::glow")


def test_a_model_is_found_by_its_class() -> None:
    from kexue_flow.glow import Glow, GlowConfig

    glow = Glow(GlowConfig(size=4, levels=2, steps=1, hidden=4))
    spec, distribution = discover().spec_of(glow)
    assert (spec.name, distribution) == ("glow", "kexue-flow")
    with pytest.raises(NotFoundError, match="Declare it in a plugin"):
        discover().spec_of(object())


@pytest.mark.parametrize(
    ("requirement", "refused"),
    [
        ("kexue>=0.1,<0.2", None),
        ("kexue[torch]>=0.1,<0.2", None),
        ("kexue (>=0.1,<0.2)", None),
        ("kexue~=0.1", None),
        ("kexue", None),
        ("kexue-flow>=9", None),
        ("kexue>=9; extra == 'x'", None),
        ("kexue!!nonsense", None),
        ("kexue>=9", ">=9"),
        ("kexue[torch]<0.1", "<0.1"),
        ("kexue==9.9", "==9.9"),
    ],
)
def test_the_requirement_on_the_core_is_held(
    requirement: str, refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fake_plugin", _fake(model("fake")))
    entry = EntryPoint("fake", "fake_plugin", "fake", "1.0", (requirement,))
    loaded, _ = load_plugin("fake", [entry])
    assert loaded.broken == (refused is not None)
    if refused:
        assert f"needs kexue{refused}, and " in loaded.problems[0].cause


def test_an_object_that_answers_to_everything_is_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    class Everything:
        def __getattr__(self, name: str) -> object:
            return self

    fake = _fake(model("fake"))
    fake.lazy = Everything()  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "fake_plugin", fake)
    loaded, _ = load_plugin("fake", [EntryPoint("fake", "fake_plugin", "fake", "1.0", ())])
    assert not loaded.problems


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        ((model("x"), model("x")), "declares the model 'x' twice"),
        ((model("x"), model("y", aliases=("x",))), "declares the model 'x' twice"),
    ],
)
def test_a_name_is_declared_once(
    specs: tuple[Spec, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fake_plugin", _fake(*specs))
    loaded, _ = load_plugin("fake", [EntryPoint("fake", "fake_plugin", "fake", "1.0", ())])
    assert loaded.specs == ()
    assert loaded.problems[0].cause == said


def test_one_module_a_distribution() -> None:
    entries = [EntryPoint(n, "fake_plugin", "fake", "1.0", ()) for n in ("a", "b")]
    loaded, _ = load_plugin("fake", entries)
    assert "declares 2 modules" in loaded.problems[0].cause


def _fake(*specs: Spec) -> types.ModuleType:
    fake = types.ModuleType("fake_plugin")

    @hookimpl
    def kexue_components() -> tuple[Spec, ...]:
        return specs

    fake.kexue_components = kexue_components  # type: ignore[attr-defined]
    return fake
