"""Kills, interrupts and several processes at once."""

from __future__ import annotations

import multiprocessing
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from kexue_core.hub import locate
from kexue_core.hub.parts import leftovers
from kexue_core.hub.removal import remove
from kexue_core.testing.loopback_scenarios import REPO, SIZE, content

BIG = "model.safetensors"
PULL = f"from kexue_core.hub.download import pull; pull(['hf:{REPO}'])"


def serve(world) -> None:
    world.hub.store.add(REPO, {"config.json": b"{}", BIG: content()})


def child(world, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, *(arguments or ("-c", PULL))]
    return subprocess.Popen(
        command, env=world.environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


# A server that has huggingface_hub imported forks clean processes in milliseconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["kexue_core.hub.download", "huggingface_hub.hf_api", "httpx2"])


def fork(world):
    code = f"import os; os.environ.update({world.environment()!r}); {PULL}"
    process = FORKS.Process(target=exec, args=(code,))
    process.start()
    return process


def wait_until(condition, limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def parts(world) -> list[Path]:
    return [
        p for p in leftovers(world.cache / "models--owner--weights" / "blobs") if p.stat().st_size
    ]


def test_goes_on_after_kills_at_random_points(world):
    serve(world)
    slow = world.hub.fault(file=BIG, rate=20e6)
    before = 0
    points = sorted(random.Random(0).sample(range(SIZE // 20, SIZE), 10))
    for point in points:
        process = fork(world)
        wait_until(lambda point=point: sum(p.stat().st_size for p in parts(world)) >= point)
        process.kill()
        process.join()
        [part] = parts(world)
        size = part.stat().st_size
        asked = [s.headers.get("range") for s in world.hub.seen if s.file == BIG]
        world.hub.seen.clear()
        if point != points[0]:
            # The bytes that were there when this process started were not asked for again.
            assert asked[-1] == f"bytes={before}-"
        before = size
    slow.rate = None
    process = fork(world)
    process.join(60)
    assert process.exitcode == 0
    assert world.hub.sent(BIG) == SIZE - before
    folder = locate(f"hf:{REPO}", download=False).folder
    assert (folder / BIG).read_bytes() == content()
    assert not parts(world)


def test_four_processes_make_one_transfer(world):
    serve(world)
    world.hub.fault(file=BIG, rate=20e6)
    processes = [fork(world) for _ in range(4)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert world.hub.count(BIG) == 1
    assert world.hub.sent(BIG) == SIZE
    assert (locate(f"hf:{REPO}", download=False).folder / BIG).read_bytes() == content()


def test_the_lock_of_a_killed_process_is_free(world):
    serve(world)
    world.setenv("KEXUE_STALL_TIMEOUT", "60")
    world.hub.fault(file=BIG, stall_after=SIZE // 2, times=1)
    holder = child(world)
    wait_until(lambda: sum(p.stat().st_size for p in parts(world)) >= SIZE // 2 - 1000)
    waiter = child(world)
    wait_until(lambda: world.hub.count(BIG, "HEAD") == 2)
    time.sleep(0.2)
    assert waiter.poll() is None
    holder.kill()
    holder.communicate()
    _, stderr = waiter.communicate(timeout=60)
    assert waiter.returncode == 0, stderr
    ranges = [s.headers.get("range") for s in world.hub.seen if s.file == BIG]
    assert ranges[-1] is not None
    assert world.hub.count(BIG) == 2
    assert (locate(f"hf:{REPO}", download=False).folder / BIG).read_bytes() == content()


def test_interrupt_keeps_the_part_and_says_how_to_go_on(world):
    serve(world)
    world.setenv("KEXUE_STALL_TIMEOUT", "60")
    world.hub.fault(file=BIG, stall_after=SIZE // 2, times=1)
    process = child(world, "-m", "kexue_core", "pull", f"hf:{REPO}")
    wait_until(lambda: sum(p.stat().st_size for p in parts(world)) >= SIZE // 2 - 1000)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"kexue pull hf:{REPO}" in stderr
    assert "Traceback" not in stderr
    assert time.monotonic() - start < 5  # nobody waits for the silent socket
    [part] = parts(world)
    size = part.stat().st_size
    again = child(world, "-m", "kexue_core", "pull", f"hf:{REPO}", "--json")
    stdout, stderr = again.communicate(timeout=60)
    assert again.returncode == 0, stderr
    assert f'"fetched": {SIZE - size + (0 if world.hub.count("config.json") == 1 else 2)}' in stdout


def test_rm_knows_the_part_of_a_killed_process(world):
    serve(world)
    world.hub.fault(file=BIG, stall_after=SIZE // 2)
    process = child(world)
    wait_until(lambda: parts(world))
    process.kill()
    process.communicate()
    remove(f"hf:{REPO}")
    assert not world.files()
