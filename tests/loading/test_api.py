"""The Python interface, from a name to samples."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kexue_core as kexue
from kexue_core import api
from kexue_core.errors import (
    AmbiguousNameError,
    ChecksumMismatch,
    ConfigError,
    InvalidReferenceError,
    KexueError,
    NotFoundError,
    PluginError,
    UnsupportedError,
    WeightsFormatError,
)
from kexue_core.folder import WeightsConfig
from kexue_core.plugins import discover


def test_names_are_loaded_from_the_mirror(catalogue: Any) -> None:
    model = kexue.create("dreamer")
    folder = catalogue.add("beast", model, model="dreamer", aliases=["old-beast"])
    for name in ("beast", "kexue-zoo::beast", "old-beast"):
        loaded = kexue.load(name)
        assert torch.equal(loaded.linear.weight, model.linear.weight)
        known = api.provenance(loaded)
        assert known is not None
        assert known.reference == name
        assert known.folder == folder
        assert known.entry is not None
        assert known.entry.name == "beast"
        assert known.config == WeightsConfig.read(folder)


def test_folders_are_loaded_by_file_references(tmp_path: Path) -> None:
    model = kexue.create("mixed", width=3)
    folder = kexue.save(model, tmp_path / "out", half=True)
    loaded = kexue.load(f"file:{folder}", dtype="float16", mmap=False)
    assert loaded.config == model.config
    assert loaded.exact.dtype == torch.float16
    known = api.provenance(loaded)
    assert known is not None
    assert known.entry is None


def test_a_folder_that_changed_since_it_was_saved_is_not_loaded(tmp_path: Path) -> None:
    folder = kexue.save(kexue.create("mixed", width=3), tmp_path / "out")
    path, config = folder / "model.safetensors", folder / "config.json"
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ChecksumMismatch, match="is not as it was saved"):
        kexue.load(f"file:{folder}")
    # Whoever changed it on purpose says so.
    content = json.loads(config.read_text())
    del content["sha256"]
    config.write_text(json.dumps(content))
    kexue.load(f"file:{folder}")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("out/weights", r"looks like a path.*file:out/weights"),
        ("./out", r"looks like a path.*file:\./out"),
        ("Not A Name", "is no valid name"),
        (Path("out"), "For a folder write 'file:out'"),
        (3, "3 is no reference"),
    ],
)
def test_what_is_no_reference(reference: Any, message: str) -> None:
    with pytest.raises(InvalidReferenceError, match=message):
        kexue.load(reference)


def test_unknown_names_and_folders(catalogue: Any, tmp_path: Path) -> None:
    catalogue.add("beast", model="dreamer")
    with pytest.raises(NotFoundError, match=r"Did you mean beast\?"):
        kexue.load("beats")
    with pytest.raises(NotFoundError, match="is no folder"):
        kexue.load(f"file:{tmp_path}/none")


def test_missing_plugins_are_named_before_anything_is_fetched(
    catalogue: Any, tmp_path: Path
) -> None:
    catalogue.add("lost", plugin="kexue-gone", model="ghost")
    with pytest.raises(
        PluginError,
        match=r"lost needs the plugin kexue-gone, which is not installed\. "
        "Run `pip install kexue-gone`",
    ):
        kexue.load("lost")
    for name in ("ghost", "kexue-gone::ghost"):
        with pytest.raises(PluginError, match="Run `pip install kexue-gone`"):
            kexue.create(name)
    with pytest.raises(NotFoundError, match="Not installed: pip install kexue-gone"):
        kexue.create("something-else")
    catalogue.content["plugins"]["kexue-gone"]["requires"] = "kexue-gone @ git+https://a.b/c"
    catalogue.write()
    with pytest.raises(PluginError, match=r"Run `pip install 'kexue-gone @ git\+https://a.b/c'`"):
        kexue.load("lost")
    folder = kexue.save(kexue.create("mixed"), tmp_path / "out")
    config = (folder / "config.json").read_text().replace("kexue-zoo", "kexue-elsewhere")
    (folder / "config.json").write_text(config)
    with pytest.raises(PluginError, match="Run `pip install kexue-elsewhere`"):
        kexue.load(f"file:{folder}")


def test_broken_plugins_are_named_with_the_cause(
    catalogue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "kexue_broken-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kexue-broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[kexue]\nbroken = kexue_broken\n")
    (tmp_path / "site" / "kexue_broken.py").write_text("import surely_missing\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("KEXUE_PLUGINS", "kexue-zoo,kexue-broken")
    discover.cache_clear()
    catalogue.add("beast", plugin="kexue-broken", model="dreamer")
    with pytest.raises(PluginError, match="which is broken: cannot import surely_missing"):
        kexue.load("beast")
    assert not kexue.info("beast").installed


@pytest.mark.parametrize("position", [9, -1])
def test_no_byte_is_used_that_is_not_as_the_registry_says(catalogue: Any, position: int) -> None:
    folder = catalogue.add("beast", kexue.create("dreamer"), model="dreamer")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumMismatch, match=r"model\.safetensors has sha256"):
        kexue.load("beast")
    path.write_bytes(content[:-1])
    with pytest.raises(ChecksumMismatch, match="bytes"):
        kexue.load("beast")


def test_registry_and_folder_must_mean_the_same_model(catalogue: Any) -> None:
    catalogue.add("beast", kexue.create("dreamer"), model="mixed")
    with pytest.raises(WeightsFormatError, match="of the model dreamer, and mixed was expected"):
        kexue.load("beast")


def test_deprecated_weights_and_models_warn(catalogue: Any, tmp_path: Path) -> None:
    catalogue.add("beast", kexue.create("dreamer"), model="dreamer", deprecated="use monster")
    with pytest.warns(FutureWarning, match="beast is deprecated: use monster") as caught:
        kexue.load("beast")
    assert caught[0].filename == __file__
    with pytest.warns(FutureWarning, match="The model frozen is deprecated: use mixed") as caught:
        kexue.create("frozen")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kexue.create("mixed")


def test_models_are_left_as_they_are(tmp_path: Path) -> None:
    model = kexue.create("dreamer")
    loaded = kexue.load(f"file:{kexue.save(model, tmp_path / 'out')}")
    assert vars(loaded).keys() == vars(model).keys()
    assert api.provenance(model) is None
    assert api.provenance(copy.deepcopy(loaded)) is None
    before = len(api._PROVENANCE)
    del loaded
    gc.collect()
    assert len(api._PROVENANCE) == before - 1


def test_saving_a_loaded_model_keeps_what_its_folder_said(tmp_path: Path) -> None:
    first = kexue.save(
        kexue.create("dreamer"),
        tmp_path / "first",
        preprocess={"size": 8},
        sampler=("dream", {"steps": 5}),
        requires=["codec"],
    )
    loaded = kexue.load(f"file:{first}")
    second = kexue.save(loaded, tmp_path / "second")
    assert WeightsConfig.read(second) == WeightsConfig.read(first)
    third = kexue.save(loaded, tmp_path / "third", preprocess={}, requires=())
    assert WeightsConfig.read(third).preprocess == {}
    assert WeightsConfig.read(third).requires == ()


def test_create_takes_the_config_of_the_model() -> None:
    model = kexue.create("kexue-zoo::mixed", width=2, sizes=[9])
    assert model.config.sizes == (9,)
    assert isinstance(model, nn.Module)
    assert kexue.create("old-dreamer").config.width == 4
    for arguments, message in (
        (
            {"widht": 1},
            "Config has no widht. Did you mean width. It takes note, rate, sizes, width",
        ),
        ({"width": 0}, "width must be at least 1, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            kexue.create("mixed", **arguments)
    with pytest.raises(NotFoundError, match=r"Did you mean mixed\?"):
        kexue.create("mixd")


def test_create_loss() -> None:
    loss = kexue.create_loss("power", power=1.0)
    assert loss(torch.tensor([-2.0, 4.0])) == 3
    with pytest.raises(ConfigError, match="power refuses its options: power must be above 0"):
        kexue.create_loss("power", power=0.0)
    with pytest.raises(ConfigError, match="unexpected keyword argument 'force'"):
        kexue.create_loss("power", force=1)
    with pytest.raises(NotFoundError, match=r"Did you mean power\?"):
        kexue.create_loss("powre")


def test_samples_depend_on_the_seed_alone(tmp_path: Path) -> None:
    model = kexue.create("dreamer").eval()
    few, many = kexue.sample(model, 2, seed=3), kexue.sample(model, 5, seed=3)
    assert torch.equal(few, many[:2])
    assert not torch.equal(few, kexue.sample(model, 2, seed=4))
    assert kexue.sample(model, 0).shape == (0, 3)
    state = torch.get_rng_state()
    kexue.sample(model, 1)
    assert torch.equal(state, torch.get_rng_state())


def test_default_sampler_is_the_weights_then_the_plugins_then_any(tmp_path: Path) -> None:
    model = kexue.create("dreamer").eval()
    own = kexue.sample(model, 1)  # `dream` of the same plugin adds its 3 steps
    assert 3 < own.min() < own.max() < 4
    core = kexue.sample(model, 1, sampler="latent-prior")
    assert torch.equal(own, core + 3)
    folder = kexue.save(model, tmp_path / "a", sampler=("dream", {"steps": 7, "temperature": 0}))
    loaded = kexue.load(f"file:{folder}")
    assert torch.equal(kexue.sample(loaded, 1), model.decode(torch.zeros(1, 4)).detach() + 7)
    assert torch.equal(
        kexue.sample(loaded, 1, steps=1), model.decode(torch.zeros(1, 4)).detach() + 1
    )
    # Options of another sampler than the weights' own are not taken over.
    assert torch.equal(kexue.sample(loaded, 1, sampler="latent-prior"), core)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"temprature": 0.5},
            r"dream has no option 'temprature'\. Did you mean temperature\? Its ",
        ),
        ({"x": 1}, r"Its options are temperature, steps, clip, mode, seed_text"),
        ({"temperature": "hot"}, "temperature must be a number such as 1.0, not 'hot'"),
        ({"temperature": True}, "temperature must be a number"),
        ({"temperature": None}, "temperature must be a number"),
        ({"steps": 1.5}, "steps must be a whole number such as 3"),
        ({"steps": True}, "steps must be a whole number"),
        ({"clip": 1}, "clip must be True or False"),
        ({"mode": 3}, "mode must be text such as 'plain'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kexue.sample(kexue.create("dreamer"), 1, **options)


def test_whole_numbers_are_floats_and_none_admits_anything() -> None:
    model = kexue.create("dreamer")
    assert kexue.sample(model, 1, temperature=1, seed_text=[1]).shape == (1, 3)


def test_options_in_the_weights_are_checked_too(tmp_path: Path) -> None:
    folder = kexue.save(kexue.create("dreamer"), tmp_path / "a", sampler=("dream", {"stps": 7}))
    with pytest.raises(ConfigError, match=r"config\.json: dream has no option 'stps'"):
        kexue.sample(kexue.load(f"file:{folder}"), 1)


@pytest.mark.parametrize(
    "arguments", [{"n": -1}, {"n": 1.0}, {"n": True}, {"n": 1, "seed": -1}, {"n": 1, "seed": None}]
)
def test_counts_and_seeds_are_whole_numbers(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be a whole number from 0"):
        kexue.sample(kexue.create("dreamer"), **arguments)


def test_models_that_cannot_be_sampled() -> None:
    with pytest.raises(UnsupportedError, match="No installed sampler can draw from mixed"):
        kexue.sample(kexue.create("mixed"), 1)
    with pytest.raises(UnsupportedError, match="codes-only needs codes, and dreamer has latent"):
        kexue.sample(kexue.create("dreamer"), 1, sampler="codes-only")
    with pytest.raises(NotFoundError, match=r"Did you mean dream\?"):
        kexue.sample(kexue.create("dreamer"), 1, sampler="dreem")
    with pytest.raises(NotFoundError, match="No installed plugin declares a model"):
        kexue.sample(nn.Linear(1, 1), 1)


def test_list_weights(catalogue: Any) -> None:
    catalogue.add("beast-a", model="dreamer", license="Apache-2.0", capabilities=["sample"])
    catalogue.add("beast-b", model="dreamer", license="CC-BY-NC-4.0", summary="玩具")
    catalogue.add("zebra", model="mixed", plugin="kexue-gone")
    catalogue.add("old", model="mixed", deprecated="zebra")

    def names(*args: Any, **options: Any) -> list[str]:
        return [entry.name for entry in kexue.list_weights(*args, **options)]

    assert names() == ["beast-a", "beast-b", "zebra"]
    assert names("beast-*") == names("dreamer") == ["beast-a", "beast-b"]
    assert names("玩具") == ["beast-b"]
    assert names(capability="sample") == ["beast-a", "beast-b"]  # by registry, by spec
    assert names(capability="classify") == []
    assert names(license="apache") == ["beast-a"]
    assert names(installed=True) == ["beast-a", "beast-b"]
    assert names(installed=False) == ["zebra"]
    with pytest.raises(ConfigError, match=r"'smaple' is no capability\. Did you mean sample\?"):
        kexue.list_weights(capability="smaple")


def test_info(catalogue: Any) -> None:
    catalogue.add("beast", model="dreamer")
    catalogue.add("ghost", model="mixed", plugin="kexue-gone")
    known = kexue.info("beast")
    assert known.entry.name == "beast"
    assert known.installed
    assert known.spec is not None
    assert known.spec.name == "dreamer"
    assert known.verbs == ("sample", "reconstruct", "interpolate")
    lost = kexue.info("ghost")
    assert not lost.installed
    assert lost.plugin is not None
    assert lost.plugin.requires == "kexue-gone>=1"
    assert lost.spec is None
    with pytest.raises(NotFoundError, match="in no registry"):
        kexue.info("file:out")


def test_ambiguous_names_list_the_qualified_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "kexue_twin-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kexue-twin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[kexue]\ntwin = kexue_zoo.plugin\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("KEXUE_PLUGINS", "kexue-zoo,kexue-twin")
    discover.cache_clear()
    with pytest.raises(AmbiguousNameError, match="kexue-twin::mixed or kexue-zoo::mixed"):
        kexue.create("mixed")
    assert kexue.create("kexue-twin::mixed").config.width == 4


def test_looking_around_imports_no_torch(catalogue: Any) -> None:
    catalogue.add("beast", model="dreamer")
    script = (
        "import sys, kexue_core as kexue; kexue.list_weights(capability='sample'); "
        "kexue.info('beast'); sys.exit('torch' in sys.modules)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert child.returncode == 0


def test_every_error_is_one_line_with_the_next_action(catalogue: Any) -> None:
    catalogue.add("beast", model="dreamer")
    calls = [
        lambda: kexue.load("beats"),
        lambda: kexue.load("beast", download=False),
        lambda: kexue.create("mixd"),
        lambda: kexue.create("mixed", widht=3),
        lambda: kexue.sample(kexue.create("dreamer"), 1, heat=1),
    ]
    for call in calls:
        with pytest.raises(KexueError) as caught:
            call()
        assert caught.value.hint
        assert "\n" not in str(caught.value)
