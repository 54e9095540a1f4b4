"""Publishing: to a folder mirror, and with the real client to the loopback Hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from kexue_core.commands import cli
from kexue_core.errors import (
    AccessError,
    KexueError,
    PluginError,
    RegistryError,
    WeightsFormatError,
)
from kexue_core.hub import locate
from kexue_core.hub.mirroring import push_to_mirror
from kexue_core.hub.registry_file import read_entry, write_entry
from kexue_core.hub.stanza import split_card
from kexue_core.plugins import discover
from kexue_core.registry import load_registry
from kexue_core.saving import save_folder

SHOP = Path(__file__).parent / "shop"

CARD = """---
library_name: kexue
license: other
license_name: my-terms   # as agreed
---

# line

A straight line through the origin.

## Data and terms

Made up.
"""

REGISTRY = """# By hand.
format: 1
mirrors: [mirror]

plugins:
  kexue-shop: {summary: "A shop", requires: kexue-shop}   # kept

weights: {}
"""


@pytest.fixture
def shop(world, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(SHOP)
    monkeypatch.setenv("KEXUE_PLUGINS", "kexue-shop")
    # Read when huggingface_hub is imported, which may have been long ago in this process.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    discover.cache_clear()
    world.registry.write_text(REGISTRY)
    load_registry.cache_clear()
    world.out = tmp_path / "out"
    world.mirror = tmp_path / "mirror"
    make_folder(world.out)
    yield world
    discover.cache_clear()


def make_folder(folder: Path, *, seed: int = 0) -> str:
    """A folder of weights with one result; its sha256."""
    from kexue_core.api import create

    torch.manual_seed(seed)
    save_folder(folder, create("line"), card=CARD)
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    record(folder, sha256)
    return sha256


def record(folder: Path, sha256: str, **changes) -> None:
    result = {
        "metric": "bits_per_dim",
        "value": 3.25,
        "dataset": "Made up",
        "split": "val",
        "n": 10,
        "seed": 0,
        "command": "kexue eval line",
        "weights": sha256,
        "versions": {"torch": "2.13"},
        "device": "cpu",
        **changes,
    }
    with (folder / "results.jsonl").open("a") as stream:
        stream.write(json.dumps(result) + "\n")


def mirror_it(world, **more):
    done = push_to_mirror(world.out, world.mirror, name="line", registry=world.registry, **more)
    load_registry.cache_clear()
    return done


def test_a_mirror_is_filled_and_read_in_place(shop):
    done = mirror_it(shop)
    found = locate("line")
    assert (found.folder, found.source) == (shop.mirror / "line", "mirror")
    assert found.entry.license == "LicenseRef-my-terms"
    assert found.entry.summary == "A straight line through the origin."
    assert found.entry.dataset == "Made up"
    assert found.entry.capabilities == ("score",)
    assert found.entry.results[0]["value"] == 3.25
    assert sorted(p.name for p in done.folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card, body = split_card((done.folder / "README.md").read_text())
    [index] = card["model-index"]
    assert index["results"][0]["metrics"] == [{"type": "bits_per_dim", "value": 3.25}]
    assert body == split_card(CARD)[1]
    text = shop.registry.read_text()
    assert text.startswith("# By hand.\n")
    assert "# kept" in text


def test_mirroring_twice_changes_nothing(shop):
    mirror_it(shop)
    before = shop.registry.read_text(), (shop.mirror / "line/README.md").read_bytes()
    mirror_it(shop)
    assert (shop.registry.read_text(), (shop.mirror / "line/README.md").read_bytes()) == before


def test_new_weights_lose_old_results_and_keep_words(shop):
    mirror_it(shop, given={"summary": "Mine", "parts": ["other"]})
    (shop.out / "results.jsonl").unlink()
    sha256 = make_folder(shop.out, seed=1)
    done = mirror_it(shop)
    assert done.entry["summary"] == "Mine"
    assert done.entry["parts"] == ["other"]
    assert [r["weights"] for r in done.entry["results"]] == [sha256]


def test_a_later_measurement_replaces_the_same_one(shop):
    mirror_it(shop)
    sha256 = hashlib.sha256((shop.out / "model.safetensors").read_bytes()).hexdigest()
    record(shop.out, sha256, value=3.0)
    record(shop.out, sha256, metric="other", value=1.0)
    assert [r["value"] for r in mirror_it(shop).entry["results"]] == [3.0, 1.0]


def test_dry_run_writes_nothing(shop):
    mirror_it(shop, dry_run=True)
    assert not shop.mirror.exists()
    assert shop.registry.read_text() == REGISTRY


def spoil_card(text: str):
    def spoil(folder: Path) -> None:
        (folder / "README.md").write_text(text)

    return spoil


def spoil_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "config": {"width": 5}}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_card("# no metadata"), "metadata"),
        (spoil_card("---\ntags: [x]\n---\n## Data"), "licence"),
        (spoil_card("---\nlicense: other\n---\n## Data"), "license_name"),
        (spoil_card("---\nlicense: mit\n---\n# x"), "data"),
        (lambda folder: (folder / "README.md").unlink(), "README"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model"),
        (spoil_config, "weight"),
    ],
)
def test_what_is_not_whole_is_not_published(shop, spoil, words):
    spoil(shop.out)
    with pytest.raises(WeightsFormatError, match=words):
        mirror_it(shop)
    assert not shop.mirror.exists()
    assert shop.registry.read_text() == REGISTRY


def test_the_plugin_must_be_there(shop, monkeypatch):
    monkeypatch.setenv("KEXUE_PLUGINS", "nothing")
    discover.cache_clear()
    with pytest.raises((PluginError, KexueError), match="shop"):
        mirror_it(shop)


# --- the Hub --------------------------------------------------------------------------------------


def kexue(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_push_to_the_hub_and_pull_back(shop):
    shop.setenv("HF_TOKEN", "hf_loopback")
    registry = str(shop.registry)
    done = kexue("push", str(shop.out), "tester/line", "--registry", registry)
    assert done.exit_code == 0, done.exception
    repo = shop.hub.store.repos["tester/line"]
    entry = yaml.safe_load(shop.registry.read_text())["weights"]["line"]
    assert yaml.safe_load(done.stdout)["line"] == entry
    assert (entry["repo"], entry["status"]) == ("tester/line", "published")
    assert repo.refs["main"] == entry["revision"]
    assert entry["revision"] in [c for ref, c in repo.refs.items() if ref.startswith("kexue-")]
    load_registry.cache_clear()
    found = locate("line")
    assert found.source == "cache"
    assert "model-index" in (found.folder / "README.md").read_text()
    again = kexue("push", str(shop.out), "tester/line", "--registry", registry)
    assert again.exit_code == 0, again.exception
    assert again.stdout == done.stdout  # the same bytes: the same commit
    load_registry.cache_clear()
    assert locate("line", download=False).folder == found.folder


def test_push_replaces_what_was_there(shop):
    shop.setenv("HF_TOKEN", "hf_loopback")
    (shop.out / "vocab.txt").write_text("old")
    assert kexue("push", str(shop.out), "tester/line").exit_code == 0
    (shop.out / "vocab.txt").unlink()
    assert kexue("push", str(shop.out), "tester/line").exit_code == 0
    repo = shop.hub.store.repos["tester/line"]
    assert "vocab.txt" not in repo.commits[repo.refs["main"]]


def test_push_without_a_login_is_one_line(shop):
    done = kexue("push", str(shop.out), "tester/line")
    assert isinstance(done.exception, AccessError)
    assert "hf auth login" in str(done.exception)
    assert not shop.hub.store.repos


def test_push_dry_run_sends_nothing(shop):
    done = kexue("push", str(shop.out), "tester/line", "--dry-run")
    assert done.exit_code == 0, done.exception
    assert "tester/line" in done.stdout
    assert not shop.hub.seen


def test_push_all_publishes_every_mirrored_weight(shop):
    mirror_it(shop)
    push_to_mirror(shop.out, shop.mirror, name="line-2", registry=shop.registry)
    shop.setenv("HF_TOKEN", "hf_loopback")
    arguments = ["push", "--all", "--owner", "tester", "--registry", str(shop.registry)]
    done = kexue(*arguments)
    assert done.exit_code == 0, done.exception
    assert set(shop.hub.store.repos) == {"tester/line", "tester/line-2"}
    weights = yaml.safe_load(shop.registry.read_text())["weights"]
    assert [w["repo"] for w in weights.values()] == ["tester/line", "tester/line-2"]
    load_registry.cache_clear()
    for path in shop.mirror.glob("line*/*"):  # the mirror is what the Hub has
        repo = shop.hub.store.repos[f"tester/{path.parent.name}"]
        blob = repo.commits[repo.refs["main"]][path.name]
        assert blob.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


# --- the registry file ----------------------------------------------------------------------------


def test_entries_go_in_order_and_comments_stay(tmp_path):
    path = tmp_path / "registry.yaml"
    path.write_text(
        "format: 1\nweights:\n  # about b\n  b:\n    plugin: x\n    # lost\n\n  # about d\n"
        "  d: {plugin: x}\n# tail\nplugins: {}\n"
    )
    for name in ("c", "a", "e", "b"):
        write_entry(path, name, {"plugin": "x", "summary": f"{name}: #1"})
    text = path.read_text()
    order = [line.strip(" :") for line in text.splitlines() if line.startswith("  ")]
    assert [o for o in order if o in "abcde"] == ["a", "b", "c", "e"]
    for comment in ("# about b", "# about d", "# tail"):
        assert comment in text
    assert list(yaml.safe_load(text)["weights"]) == ["a", "b", "c", "d", "e"]
    assert read_entry(path, "e") == {"plugin": "x", "summary": "e: #1"}


@pytest.mark.parametrize(
    "text", ["format: 1\nweights: {a: {plugin: x}}\n", "format: 1\nweights:\n    a:\n      b: 1\n"]
)
def test_a_layout_that_cannot_be_edited_is_left_alone(tmp_path, text):
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    with pytest.raises(RegistryError, match="Indent"):
        write_entry(path, "b", {"plugin": "x"})
    assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["registry.yaml"]
