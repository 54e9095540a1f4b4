"""``kexue pull``, ``verify`` and ``rm`` as a user meets them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from kexue_core.commands import cli
from kexue_core.errors import ChecksumMismatch, KexueError, NetworkError
from kexue_core.hub.download import pull
from kexue_core.testing.loopback_scenarios import REPO, content

BIG = "model.safetensors"
FILES = {"config.json": b"{}", BIG: content(200_000)}
HF = f"hf:{REPO}"


@pytest.fixture
def served(world):
    world.commit = world.hub.store.add(REPO, FILES)
    return world


def kexue(*arguments: str, **more) -> Result:
    return CliRunner().invoke(cli, arguments, **more)


def lines(result: Result) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_pull_prints_a_row_for_each_name(served):
    done = kexue("pull", HF)
    assert done.exit_code == 0, done.exception
    head, row = lines(done)
    assert head == ["name", "size", "source", "license", "folder"]
    assert row[:3] == [HF, str(sum(map(len, FILES.values()))), "hub"]
    assert lines(kexue("pull", HF))[1][2] == "cache"


def test_pull_json_and_dry_run(served):
    [seen] = json.loads(kexue("pull", HF, "--dry-run", "--json").stdout)
    assert seen["files"] == {n: len(d) for n, d in FILES.items()}
    assert seen["folder"] is None
    assert not served.files()
    [done] = json.loads(kexue("pull", HF, "--json").stdout)
    assert done["fetched"] == sum(map(len, FILES.values()))


def test_pull_revision_and_local_dir(served, tmp_path):
    served.hub.store.repos[REPO].refs["v1"] = served.commit
    served.hub.store.add(REPO, {BIG: bytes(10)})
    out = tmp_path / "out"
    done = kexue("pull", HF, "--revision", "v1", "--local-dir", str(out))
    assert done.exit_code == 0, done.exception
    assert {p.name: p.read_bytes() for p in out.iterdir()} == FILES
    assert not list(served.cache.rglob(BIG))
    assert kexue("pull", "file:x", "--revision", "v1").exit_code == 2


def test_verify_says_ok_and_bad(served):
    [done] = pull([HF])
    rows = lines(kexue("verify"))[1:]
    assert [row[:4] for row in rows] == [
        [f"{HF}@main", "config.json", "ok", "cache"],
        [f"{HF}@main", BIG, "ok", "cache"],
    ]
    blob = (done.folder / BIG).resolve()
    blob.write_bytes(bytes(len(FILES[BIG])))
    bad = kexue("verify", HF)
    assert isinstance(bad.exception, ChecksumMismatch)
    assert hashlib.sha256(FILES[BIG]).hexdigest() in str(bad.exception)
    assert "--repair" in str(bad.exception)
    repaired = kexue("verify", HF, "--repair")
    assert repaired.exit_code == 0, repaired.exception
    assert [row[2] for row in lines(repaired)[1:]] == ["ok", "repaired"]


def test_verify_without_anything(world):
    done = kexue("verify")
    assert done.exit_code == 0
    assert "no weights" in done.stderr


def test_rm_asks_shows_and_removes(served):
    pull([HF])
    assert kexue("rm", HF, "--dry-run").exit_code == 0
    assert kexue("rm", HF, input="n\n").exit_code == 1
    assert served.files()
    done = kexue("rm", HF, "-y", "--json")
    assert json.loads(done.stdout)[0]["size"] >= len(FILES[BIG])
    assert not served.files()
    assert "nothing" in kexue("rm", HF, "-y").stderr


def test_rm_leaves_what_another_revision_uses(served):
    served.hub.store.repos[REPO].refs["v1"] = served.commit
    served.hub.store.add(REPO, {"config.json": b'{"new": 1}'})
    old, new = pull([f"{HF}@v1"])[0], pull([HF])[0]
    done = kexue("rm", f"{HF}@v1", "-y")
    assert "1 files that other revisions" in done.stderr
    assert not old.folder.exists()
    locks = {p.stem for p in served.cache.rglob("*.lock")}
    assert locks == {p.name for p in served.cache.rglob("blobs/*")}
    assert (new.folder / BIG).read_bytes() == FILES[BIG]
    kexue("rm", HF, "-y")
    assert not served.files()


def test_rm_waits_for_nobody_but_hurts_nobody(served):
    served.setenv("KEXUE_STALL_TIMEOUT", "60")
    served.hub.fault(file=BIG, stall_after=100_000)
    code = f"from kexue_core.hub.download import pull; pull(['{HF}'])"
    process = subprocess.Popen([sys.executable, "-c", code], env=served.environment())
    try:
        while not list(served.cache.rglob("*.incomplete")):
            assert process.poll() is None
        done = kexue("rm", HF, "-y")
        assert isinstance(done.exception, KexueError)
        assert "another process" in str(done.exception)
    finally:
        process.kill()
        process.wait()


def test_errors_are_one_line_with_a_code(served):
    served.hub.fault(method="API", status=503)
    run = [sys.executable, "-m", "kexue_core", "pull", HF]
    done = subprocess.run(
        run, env=served.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == NetworkError.exit_code == 3
    assert done.stderr.count("\n") == 1
    assert "503" in done.stderr


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from kexue_core.hub import locate; locate('{hf}', download=False)", "huggingface_hub"),
        ("from kexue_core.hub.verification import verify; verify('{hf}')", "huggingface_hub"),
        ("from kexue_core.hub.removal import plan_removal; plan_removal('{hf}')", "safetensors"),
        ("from kexue_core.hub.download import pull; pull(['{hf}'])", "huggingface_hub"),
    ],
)
def test_nothing_heavy_where_everything_is_here(served, code, absent):
    pull([HF])
    code = (
        code.format(hf=HF) + f"; import sys; assert not {{'torch', {absent!r}}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=served.environment(), check=True)


def test_a_pull_over_the_network_imports_no_torch(served):
    code = f"from kexue_core.hub.download import pull; pull(['{HF}']); import sys; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=served.environment(), check=True)


def test_one_display_for_all_files(served, capsys):
    from kexue_core.hub.progress import Display, terminal_meter

    served.hub.fault(file=BIG, flip=9, times=1)
    display = Display()
    [done] = pull([HF], meter=display)
    assert done.fetched == sum(map(len, FILES.values())) + len(FILES[BIG])
    assert display._bar is None
    assert not isinstance(terminal_meter(), Display)  # stderr is no terminal here
    pull([HF], meter=Display())  # nothing to transfer: nothing to show
