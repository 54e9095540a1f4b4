"""``kexue plugins`` and ``kexue doctor``."""

from __future__ import annotations

import json

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
