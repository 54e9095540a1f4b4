"""``kexue plugins`` and ``kexue doctor``."""

from __future__ import annotations

import json
import os
from collections import namedtuple

import pytest

from kexue_core.commands import _cache_health, _health
from kexue_core.hub.locks import FileLock
from kexue_core.hub.parts import fresh_part
from kexue_core.hub.receipts import write_receipt
from kexue_core.hub.sources import MIRROR_HINT
from kexue_core.registry import load_registry

QUICK = ("versions", "plugins", "verbs", "registry", "mirrors", "cache")


def checks(kexue, *sections, **variables):
    done = kexue("doctor", *sections, "--json", **variables)
    return done.returncode, {(c["section"], c["name"]): c for c in json.loads(done.stdout)}


def test_plugins_in_all_forms(kexue, site, toys):
    site.install("kexue-sick", "1 / 0", version="0.3")
    rows = {row["plugin"]: row for row in json.loads(kexue("plugins", "--json").stdout)}
    assert rows["kexue-toy"]["models"] == 2
    assert rows["kexue-toy"]["losses"] == 1
    assert rows["kexue-toy"]["state"] == "ok"
    assert rows["kexue-sick"]["state"] == "broken"
    assert "ZeroDivisionError" in rows["kexue-sick"]["problem"]
    assert kexue("plugins").stdout.splitlines()[0].startswith("plugin\tversion\tmodule\tmodels")
    lines = kexue("plugins", "--requirements").stdout.splitlines()
    assert {"kexue==0.1.0", "kexue-toy==1.0", "kexue-sick==0.3"} <= set(lines)
    assert kexue("plugins", "--requirements", "--json").returncode == 2


def test_all_is_well(kexue, toys):
    done = kexue("doctor")  # the one run that asks torch
    assert done.returncode == 0
    assert done.stderr == "kexue: nothing is broken\n"
    lines = done.stdout.splitlines()
    assert lines[0] == "section\tname\tstate\tdetail\tfix"
    assert any(line.startswith("devices\tcpu\tok") for line in lines)
    assert any(line.startswith("versions\ttorch\tok\t2.") for line in lines)
    assert kexue("doctor", "-q", *QUICK).stdout == ""


def test_everything_broken_is_named_with_its_fix(kexue, site, catalogue, toys, toy_source):
    site.install("kexue-sick", "import no_such_module")
    site.install("kexue-new", toy_source, requires="kexue>=7,<8")
    site.install("kexue-two", toy_source.replace("toy_", "two_"))
    site.install("kexue-slow", "import numpy\n" + toy_source.replace("toy", "slow"))
    catalogue.content["weights"]["bad"] = {"plugin": "kexue-toy", "licence": "MIT"}
    catalogue.write()
    code, found = checks(kexue, *QUICK, KEXUE_MIRROR="nowhere")
    assert code == 1
    sick = found["plugins", "kexue-sick"]
    assert (sick["state"], sick["detail"]) == ("broken", "cannot import no_such_module")
    assert "pip install no_such_module" in sick["fix"]
    new = found["plugins", "kexue-new"]
    assert "needs kexue>=7,<8, and 0.1.0 is installed" in new["detail"]
    assert "pip install --upgrade kexue-new" in new["fix"]
    assert found["plugins", "kexue-slow"]["state"] == "broken"
    assert "imports numpy" in found["plugins", "kexue-slow"]["detail"]
    conflict = found["plugins", "model toy"]
    assert conflict["state"] == "warning"
    assert conflict["fix"] == "Write kexue-toy::toy or kexue-two::toy"
    assert found["registry", "weights: bad"]["state"] == "broken"
    assert found["mirrors", "nowhere"]["state"] == "broken"


def test_warnings_alone_break_nothing(kexue, site, toys, toy_source):
    site.install("kexue-two", toy_source.replace("toy_", "two_"))
    code, found = checks(kexue, "plugins")
    assert code == 0
    assert {c["state"] for c in found.values()} == {"ok", "warning"}


def test_an_unreadable_registry_is_one_broken_thing(kexue, tmp_path):
    code, found = checks(kexue, *QUICK, KEXUE_REGISTRY=str(tmp_path / "none.yaml"))
    assert code == 1
    assert [key for key, c in found.items() if c["state"] == "broken"] == [("registry", "registry")]
    done = kexue("list", KEXUE_REGISTRY=str(tmp_path / "none.yaml"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_a_torch_that_crashes_is_reported_and_not_caught(kexue, site):
    site.folder.joinpath("torch.py").write_text("import os; os._exit(9)")
    code, found = checks(kexue, "devices")
    assert code == 1
    assert found["devices", "torch"]["detail"] == "cannot be asked: exit code 9"


def test_the_cache_is_counted(kexue, tmp_path):
    tmp_path.joinpath("home").mkdir()
    tmp_path.joinpath("home", "file").write_bytes(b"x" * 2000)
    _, found = checks(kexue, "cache")
    assert found["cache", "KEXUE_HOME"]["detail"].endswith("home: 2.0 kB in 1 files")


def test_versions_are_held_against_what_the_core_asks_for(kexue, site, toys):
    metadata = site.folder / "kexue-0.1.0.dist-info" / "METADATA"
    needs = ("click>=99", "rich>=1", 'torch<2; extra == "torch"')
    metadata.write_text(
        metadata.read_text() + "".join(f"Requires-Dist: {need}\n" for need in needs)
    )
    code, found = checks(kexue, "versions")
    assert code == 1
    click = found["versions", "click"]
    assert click["state"] == "broken"
    assert click["detail"].endswith(", and kexue 0.1.0 needs >=99")
    assert click["fix"] == "pip install 'click>=99'"
    assert found["versions", "torch"]["fix"] == "pip install 'torch<2'"
    assert {found["versions", n]["state"] for n in ("rich", "pluggy")} == {"ok"}


def test_a_busy_machine_is_not_called_broken(monkeypatch):
    monkeypatch.setattr(_health, "TIMEOUT", 0.01)
    [check] = _health.examine(["devices"])
    assert check.state == "warning"
    assert check.detail == "no answer within 0.01 s: the machine is busy, or its disk slow"
    assert "kexue doctor devices" in check.fix


# --- the caches -----------------------------------------------------------------------------------


@pytest.fixture
def caches(tmp_path, monkeypatch, catalogue):
    """Look at a home, a Hugging Face cache with one repository, and the toys' registry."""
    monkeypatch.setenv("KEXUE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("KEXUE_REGISTRY", str(catalogue.path))
    repo = tmp_path / "hub" / "models--someone--thing"
    for folder in ("blobs", "snapshots/c0ffee"):
        (repo / folder).mkdir(parents=True)
    (repo / "blobs" / "good").write_bytes(b"x")
    (repo / "snapshots" / "c0ffee" / "whole.txt").symlink_to("../../blobs/good")

    def look():
        load_registry.cache_clear()
        return {c.name: c for c in _cache_health.examine_cache() if c.state != "ok"}

    yield look, repo
    load_registry.cache_clear()


def test_links_that_lead_nowhere_are_named(caches):
    look, repo = caches
    assert look() == {}
    (repo / "snapshots" / "c0ffee" / "model.bin").symlink_to("../../blobs/gone")
    found = look()["someone/thing"]
    assert found.detail.endswith("c0ffee, links lead nowhere: model.bin")
    assert "kexue rm hf:someone/thing@c0ffee" in found.fix


@pytest.mark.parametrize("own", [True, False])
def test_leftovers_are_old_and_in_nobodys_hands(caches, own):
    look, repo = caches
    blob = "a" * 40
    part = repo / "blobs" / f"{blob}.incomplete"
    lock = repo.parent / ".locks" / repo.name / f"{blob}.lock"
    if own:
        lock = part = fresh_part(repo / "blobs" / blob)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    part.write_bytes(b"x" * 2000)
    assert look() == {}  # young
    os.utime(part, (1, 1))
    found = look()["someone/thing"]
    assert found.detail == f"1 leftover of an interrupted download, 2.0 kB: {part.name}"
    assert "kexue pull hf:someone/thing" in found.fix
    held = FileLock(lock)
    held.acquire()
    try:
        assert look() == {}
    finally:
        held.release()


def test_torn_receipts_are_counted(caches, tmp_path):
    look, _ = caches
    write_receipt(tmp_path / "catalogue" / "registry.yaml", "0" * 64)
    assert look() == {}
    (tmp_path / "home" / "receipts" / "torn.json").write_text('{"sha256": "0')
    found = look()["receipts"]
    assert "1 in " in found.detail
    assert found.fix.startswith(f"Delete {tmp_path / 'home' / 'receipts'}")


def test_files_of_another_size_are_broken(caches, catalogue, tmp_path):
    look, _ = caches
    catalogue.add("thing", {"model.safetensors": b"x" * 10}, plugin="kexue-toy")
    assert look() == {}
    (catalogue.mirror / "thing" / "model.safetensors").write_bytes(b"x" * 9)
    found = look()["thing"]
    assert found.state == "broken"
    assert found.detail.endswith("model.safetensors has 9 bytes and should have 10")
    assert found.fix == MIRROR_HINT


def test_a_nearly_full_disk_is_a_warning(caches, monkeypatch):
    look, _ = caches
    usage = namedtuple("usage", "total used free")(1 << 40, 1 << 40, 5_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    found = look()
    assert set(found) == {"KEXUE_HOME", "Hugging Face cache"}
    assert found["KEXUE_HOME"].detail.endswith("5.0 MB are free on its disk")
    assert "kexue rm NAME" in found["KEXUE_HOME"].fix
