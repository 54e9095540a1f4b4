"""Runs that are killed, stopped, short of disk or spread over processes: real processes."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

Kexue = Callable[..., "subprocess.CompletedProcess[str]"]


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(max((folder / "checkpoints").glob("step-*")) / "tensors.safetensors")


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def start(environment: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kexue_core", "train", "toy-made", *map(str, arguments)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


@pytest.fixture
def reference(kexue: Kexue, data: Path, tmp_path: Path) -> Path:
    """The run that nobody disturbs."""
    out = tmp_path / "whole"
    done = kexue("train", "toy-made", "--data", data, "--out", out, "--set", "sleep=0.01")
    assert done.returncode == 0, done.stderr
    return out


def test_killed_at_random_and_run_again_it_gives_the_same_bits(
    environment: dict[str, str], kexue: Kexue, data: Path, tmp_path: Path, reference: Path
) -> None:
    out = tmp_path / "killed"
    arguments = ("--data", data, "--out", out, "--set", "sleep=0.01")
    moment = random.Random()  # a new moment every time: the claim is about any of them
    for _ in range(3):
        process = start(environment, *arguments)
        wait_for((out / "log.jsonl").exists, process)
        time.sleep(moment.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = kexue("train", "toy-made", *arguments)
    assert done.returncode == 0, done.stderr
    a, b = checkpoint(reference), checkpoint(out)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    weights = "weights/model.safetensors"
    assert (reference / weights).read_bytes() == (out / weights).read_bytes()
    steps = [json.loads(x)["step"] for x in (out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps), "what a killed run logged beyond its checkpoint is gone"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_step_and_says_how_to_go_on(
    environment: dict[str, str], data: Path, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "stopped"
    process = start(environment, "--data", data, "--out", out, "--set", "sleep=0.2")
    log = out / "log.jsonl"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= 3, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    last = max((out / "checkpoints").glob("step-*"))
    step = int(last.name.removeprefix("step-"))
    assert 3 <= step < 40
    assert f"Stopped after step {step} of 40, which is saved. Go on with: kexue train" in said
    assert "Traceback" not in said
    assert not list((out / "checkpoints").glob(".partial-*"))
    assert not (out / "weights").exists()


def test_a_full_disk_costs_no_checkpoint(
    environment: dict[str, str], kexue: Kexue, data: Path, tmp_path: Path
) -> None:
    """The disk fills up once the first checkpoint is there; with room again, the run goes on."""
    out = tmp_path / "small" / "run"
    out.parent.mkdir()
    settings = ["--set", "width=400", "--set", "preview_every=0", "--set", "checkpoint_every=5"]
    arguments = ["--data", str(data), "--out", str(out), *settings]
    train = [sys.executable, "-m", "kexue_core", "train", "toy-made", *arguments]
    # A checkpoint of this model has 0.85 MB: one fits, a second does not.
    space = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    saved = tmp_path / "saved"
    script = (
        f"mount -t tmpfs -o size=1300k tmpfs {out.parent} && "
        f"{{ {' '.join(train)}; code=$?; cp -r {out} {saved}; exit $code; }}"
    )
    probe = [*space, f"mount -t tmpfs tmpfs {out.parent}"]
    options: dict[str, object] = {"env": environment, "capture_output": True, "text": True}
    if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
        done = subprocess.run([*space, script], check=False, **options)  # type: ignore[call-overload]
    else:
        # Where no file system may be mounted, the largest file that may be written is bounded
        # instead, after the first checkpoint.
        assert kexue("train", "toy-made", *arguments, "--max-minutes", 0.0001).returncode == 0
        limit = 500_000
        done = subprocess.run(  # type: ignore[call-overload]
            train,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            **options,
        )
        shutil.copytree(out, saved)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "of step 10 could not be written" in done.stderr
    assert "is whole. Make room and run the same command again" in done.stderr
    [left] = (saved / "checkpoints").iterdir()
    assert left.name <= "step-00000005"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(saved, out)
    again = kexue("train", "toy-made", *arguments)
    assert again.returncode == 0, again.stderr
    assert (out / "weights" / "model.safetensors").is_file()


PROCESSES = """
import sys, torch
from pathlib import Path
from kexue_trainee.recipe import ToyRecipe, ToyRecipeConfig
from kexue_core.plugins import discover
from kexue_core.training.loop import train

class Watched(ToyRecipe):
    def step(self, modules, batch, context):
        assert torch.distributed.get_world_size() == 2
        assert len(batch["image"]) == 4
        assert type(modules["model"]).__name__ == "DistributedDataParallel"
        return super().step(modules, batch, context)

for minutes in (0.0001, None):  # one step, and then the rest from its checkpoint
    train(
        Watched(ToyRecipeConfig(dropout=False)), name="toy-made",
        model=discover().find("model", "toy"), data=sys.argv[1], out=Path(sys.argv[2]),
        device="cpu", max_minutes=minutes,
    )
world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
sys.stdout.write(f"world {world} rank {rank}\\n")  # in one piece: both write to one pipe
torch.distributed.destroy_process_group()
"""


def test_two_processes_learn_what_one_learns(
    environment: dict[str, str], kexue: Kexue, data: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = ("--data", data, "--set", "dropout=false")
    done = kexue("train", "toy-made", *settings, "--out", one)
    assert done.returncode == 0, done.stderr
    script = tmp_path / "watched.py"
    script.write_text(PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    spread = subprocess.run(
        [*launch, str(script), str(data), str(two)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert spread.returncode == 0, spread.stderr
    assert {line for line in spread.stdout.splitlines() if line.startswith("world")} == {
        "world 2 rank 0",
        "world 2 rank 1",
    }
    a, b = checkpoint(one), checkpoint(two)
    assert a.keys() == b.keys()
    for key, value in a.items():
        # Not bit for bit: the gradient is the mean of two means over four samples instead of one
        # over eight, whose sums round differently. Measured after 40 steps: 6e-8.
        torch.testing.assert_close(b[key], value, rtol=1e-5, atol=2e-6)
    assert losses(one) == pytest.approx(losses(two), rel=1e-3)
    assert len(list((two / "weights").iterdir())) == 4
