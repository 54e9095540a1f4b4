"""Disks that are full, read-only or rotten."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kexue_core.errors import ChecksumMismatch
from kexue_core.hub import locate
from kexue_core.hub.download import pull
from kexue_core.hub.removal import remove
from kexue_core.hub.verification import verify
from kexue_core.testing.loopback_scenarios import REPO, SIZE, content

BIG = "model.safetensors"
PULL = [sys.executable, "-m", "kexue_core", "pull", f"hf:{REPO}"]


@pytest.fixture
def served(world):
    world.hub.store.add(REPO, {"config.json": b"{}", BIG: content()})
    return world


def pulled_blob(world) -> Path:
    [done] = pull([f"hf:{REPO}"])
    return (done.folder / BIG).resolve()


def can_mount() -> bool:
    """Whether this user may mount a tmpfs in a namespace of its own."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and not subprocess.call(
        probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def test_full_disk_is_refused_before_the_first_byte(served):
    served.cache.mkdir()
    if can_mount():
        script = f'mount -t tmpfs -o size=4m tmpfs "{served.cache}" && shift 0 && exec "$@"'
        command = ["unshare", "-rm", "sh", "-c", script, "sh", *PULL]
        limit = None
    else:  # a limit on the size of files is the next best thing
        command = PULL

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    done = subprocess.run(
        command,
        env=served.environment(),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "disk" in done.stderr
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


FILL_UP = """
import os, subprocess, sys, time
from pathlib import Path

cache, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", cache], check=True)
pull = subprocess.Popen(command)
while not (parts := [p for p in Path(cache).rglob("*.incomplete") if p.stat().st_size > 1 << 20]):
    time.sleep(0.01)
filler = Path(cache, "filler")
with filler.open("wb", buffering=0) as stream:
    try:
        while True:
            stream.write(bytes(1 << 16))
    except OSError:
        pass
assert pull.wait() == 1
[part] = parts
assert part.stat().st_size < int(os.environ["SIZE"])
filler.unlink()
sys.exit(subprocess.call(command))
"""


@pytest.mark.skipif(not can_mount(), reason="needs a file system of its own to fill")
def test_disk_that_another_program_fills_up(served):
    served.cache.mkdir()
    served.hub.fault(file=BIG, rate=6e6)
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FILL_UP, str(served.cache), *PULL],
        env={**served.environment(), "SIZE": str(SIZE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "full after" in done.stderr
    assert "Traceback" not in done.stderr
    assert served.hub.count(BIG) == 2
    assert served.hub.sent(BIG) < 1.5 * SIZE  # the second run asked for what was missing


def test_disk_that_fills_up_while_bytes_arrive(served):
    # The free space is enough when asked; then a limit on the size of files plays the full disk.
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    done = subprocess.run(
        PULL,
        env=served.environment(),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "full after" in done.stderr
    [part] = served.cache.rglob("*.incomplete")
    assert part.read_bytes() == content()[: part.stat().st_size]
    pull([f"hf:{REPO}"])
    assert served.hub.count(BIG) == 2
    remove(f"hf:{REPO}")
    assert not served.files()


def run_unprivileged(world, root: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run where nothing under ``root`` can be written; root itself is not bound by permissions."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in root.parents:
        if parent.stat().st_uid == os.getuid() and len(parent.parts) > 2:
            parent.chmod(0o755)
    world.home.mkdir(exist_ok=True)
    world.home.chmod(0o777)
    for path in world.home.rglob("*"):
        path.chmod(0o777)
    prefix = ["setpriv", "--reuid=65534", "--clear-groups"] if os.getuid() == 0 else []
    done = subprocess.run(
        prefix + command, env=world.environment(), capture_output=True, text=True, check=False
    )
    for path in [root, *root.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    return done


def test_read_only_cache_cold_says_what_to_do(served):
    served.cache.mkdir()
    done = run_unprivileged(served, served.cache, PULL)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "HF_HUB_CACHE" in done.stderr
    assert "Traceback" not in done.stderr


def test_read_only_cache_warm_works(served):
    pull([f"hf:{REPO}"])
    done = run_unprivileged(served, served.cache, PULL)
    assert done.returncode == 0, done.stderr
    assert served.hub.count(BIG) == 1


def rot(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rot_and_hide(path: Path) -> None:
    before = path.stat()
    rot(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES = [rot, rot_and_hide, truncate, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_the_cache_is_never_used(served, damage):
    damage(pulled_blob(served))
    if damage is Path.unlink:
        assert locate(f"hf:{REPO}").folder  # nothing to refuse: it is fetched again
    else:
        with pytest.raises(ChecksumMismatch, match=r"verify .* --repair"):
            locate(f"hf:{REPO}")


@pytest.mark.parametrize("damage", DAMAGES)
def test_pull_mends_the_cache(served, damage):
    blob = pulled_blob(served)
    damage(blob)
    [done] = pull([f"hf:{REPO}"])
    assert (done.folder / BIG).read_bytes() == content()
    assert served.hub.sent("config.json") == 2
    remove(f"hf:{REPO}")
    assert not served.files()


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_moves_aside_offline_and_repairs_online(served, damage):
    blob = pulled_blob(served)
    damage(blob)
    served.setenv("HF_HUB_OFFLINE", "1")
    states = {r.file: r.state for r in verify(f"hf:{REPO}")}
    gone = damage is Path.unlink
    assert states == {"config.json": "ok", BIG: "missing" if gone else "bad"}
    assert not blob.exists()  # nor will huggingface_hub use it
    served.delenv("HF_HUB_OFFLINE")
    states = {r.file: r.state for r in verify(f"hf:{REPO}", repair=True)}
    assert states == {"config.json": "ok", BIG: "repaired"}
    assert {r.state for r in verify(f"hf:{REPO}")} == {"ok"}
    assert (locate(f"hf:{REPO}", download=False).folder / BIG).read_bytes() == content()
    remove(f"hf:{REPO}")
    assert not served.files()


def test_rotten_part_is_hashed_again_and_thrown_away(served):
    served.hub.fault(file=BIG, stall_after=SIZE // 2)
    served.setenv("KEXUE_ATTEMPTS", "1")
    with pytest.raises(Exception, match="timed out"):
        pull([f"hf:{REPO}"])
    served.hub.faults.clear()
    [part] = served.cache.rglob("*.incomplete")
    rot(part)
    [done] = pull([f"hf:{REPO}"])
    assert (done.folder / BIG).read_bytes() == content()
