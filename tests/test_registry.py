"""Registry files: good ones, bad entries, bad files, and who owns a name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from kexue_core.errors import AmbiguousNameError, NotFoundError, RegistryError
from kexue_core.registry import CORE_REGISTRY, Registry, load_registry, read_registry

SHA = "a" * 64
GOOD = f"""format: 1
mirrors: [here, "https://host/hub"]
plugins:
  kexue-flow: {{summary: flows, requires: "kexue-flow>=0.1"}}
weights:
  glow-toy:
    plugin: kexue-flow
    model: glow
    capabilities: [sample, score]
    aliases: [glow-old]
    files: {{model.safetensors: {{sha256: {SHA}, size: 7}}}}
"""


def read(tmp_path: Path, text: str, owner: str | None = None) -> Registry:
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    weights, plugins, problems = read_registry(path, owner=owner)
    return Registry(weights, plugins, problems)


def test_a_good_file(tmp_path: Path) -> None:
    registry = read(tmp_path, GOOD)
    assert registry.problems == ()
    entry = registry.find("glow-toy")
    assert (entry.qualified, entry.size, entry.status) == ("kexue-flow::glow-toy", 7, "unpublished")
    assert entry.mirrors == (str(tmp_path / "here"), "https://host/hub")
    for form in ("glow-old", "kexue-flow::glow-toy", "Kexue_Flow::glow-old", "glow-toy@v1"):
        assert registry.find(form) is entry
    assert registry.plugins["kexue-flow"].requires == "kexue-flow>=0.1"


def test_the_cores_own_file_is_in_order() -> None:
    assert read_registry(CORE_REGISTRY)[2] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("plugin: kexue-flow", "plugin: No Name"), "no valid name"),
        (("model: glow", "model: Glow!"), "no valid name"),
        (("model: glow", "modle: glow"), "unknown key modle"),
        (("model: glow", "mirrors: [here]"), "unknown key mirrors"),
        (("[sample, score]", "[fly]"), "unknown capability 'fly'"),
        (("[sample, score]", "sample"), "must be a list of strings"),
        ((SHA, "abc"), "sha256 must be 64 hex digits"),
        (("size: 7", "size: many"), "size must be a number of bytes"),
        (("size: 7", "size: -1"), "size must be a number of bytes"),
        (("model.safetensors:", "../x:"), "leads out of the folder"),
        (("model.safetensors:", "/x:"), "leads out of the folder"),
        (("glow-toy:", "Glow Toy:"), "no valid name"),
        (("aliases: [glow-old]", "aliases: [Glow]"), "no valid name"),
        (("model: glow", "repo: nobody"), "owner/name"),
        (("model: glow", "revision: main"), "40-hex"),
        (("model: glow", "status: perhaps"), "status must be one of"),
        (("model: glow", "results: 3"), "list of records"),
    ],
)
def test_a_bad_entry_is_named_and_left_out(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    second = "  other: {plugin: kexue-flow, status: unverified, repo: a/b}\n"
    registry = read(tmp_path, GOOD.replace(*change) + second)
    assert [entry.name for entry in registry.weights] == ["other"]
    (problem,) = registry.problems
    assert said in problem.cause
    assert problem.fix


@pytest.mark.parametrize(
    ("change", "entry", "said"),
    [
        (('mirrors: [here, "https://host/hub"]', "mirrors: here"), "mirrors", "a list of strings"),
        (('mirrors: [here, "https://host/hub"]', "mirrors: 3"), "mirrors", "a list of strings"),
        (("mirrors:", "miror:"), "miror", "no section of a registry"),
    ],
)
def test_a_bad_section_is_named_and_the_rest_is_read(
    tmp_path: Path, change: tuple[str, str], entry: str, said: str
) -> None:
    registry = read(tmp_path, GOOD.replace(*change))
    (problem,) = registry.problems
    assert problem.entry == entry
    assert said in problem.cause
    assert registry.find("glow-toy").mirrors == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format: 2\n", "pip install --upgrade kexue"),
        ("weights: {}\n", "Write `format: 1`"),
        ("[1, 2]", "holds no mapping"),
        ("a: [", "is no YAML"),
        ("a: \x00", "is no YAML"),
        ("", "holds no mapping"),
    ],
)
def test_a_bad_file_is_one_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RegistryError, match=said):
        read(tmp_path, text)


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="cannot be read"):
        read_registry(tmp_path / "none.yaml")
    with pytest.raises(RegistryError, match="cannot be read"):
        read_registry(tmp_path)


def test_a_plugins_file_names_no_other_plugin(tmp_path: Path) -> None:
    registry = read(tmp_path, GOOD, owner="someone-else")
    assert registry.weights == ()
    assert "the file belongs to someone-else" in registry.problems[0].cause
    own = read(tmp_path, GOOD.replace("    plugin: kexue-flow\n", ""), owner="someone-else")
    assert own.find("glow-toy").plugin == "someone-else"


def test_names_are_found_or_suggested(tmp_path: Path) -> None:
    registry = read(tmp_path, GOOD)
    with pytest.raises(NotFoundError, match="Did you mean glow-toy"):
        registry.find("glow-tyo")
    with pytest.raises(NotFoundError, match="kexue list"):
        registry.find("zzz")
    with pytest.raises(NotFoundError, match="glow is a model; its weights are glow-toy"):
        registry.find("glow")
    entry = registry.weights[0]
    import dataclasses

    twice = Registry([entry, dataclasses.replace(entry, plugin="other")], {}, [])
    with pytest.raises(AmbiguousNameError, match="kexue-flow::glow-toy or other::glow-toy"):
        twice.find("glow-toy")
    assert twice.find("other::glow-toy").plugin == "other"


def test_the_fix_for_a_plugins_missing_file_is_its_package_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kexue_core import plugins

    torn = tmp_path / "torn.yaml"
    torn.write_text("weights: [")
    record = SimpleNamespace(
        distribution="kexue-other", registries=(tmp_path / "registry.yaml", torn)
    )
    monkeypatch.setattr(plugins, "discover", lambda: [record])
    missing, broken = load_registry.__wrapped__().problems
    assert "registry.yaml cannot be read" in missing.cause
    assert "[tool.setuptools.package-data]" in missing.fix
    assert "Update or reinstall kexue-other" in missing.fix
    assert "KEXUE_REGISTRY" not in missing.fix
    assert broken.fix == "Correct it"
