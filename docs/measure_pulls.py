"""Measure ``kexue pull`` beside huggingface_hub's own client, fault by fault, and write pull.md.

Run ``python docs/measure_pulls.py``; it takes a quarter of an hour. Both clients meet the same
loopback Hub, in fresh processes with empty caches, Xet off. Patience is scaled for both: a stall is
one second of silence, and whoever is still at it after a minute is stopped.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from kexue_core.hub.network import Patience
from kexue_core.testing.loopback_hub import LoopbackHub
from kexue_core.testing.loopback_scenarios import REPO, SCENARIOS, Scenario, content, serve

HERE = Path(__file__).parent
BIG = "model.safetensors"
LIMIT = 60.0
SPEED_BYTES = 500_000_000

PATIENCE = {
    "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    "HF_HUB_ETAG_TIMEOUT": "1",
    "KEXUE_STALL_TIMEOUT": "1",
    "KEXUE_RATE_WINDOW": "2",
    "KEXUE_RETRY_WAIT": "0.5",
}

OURS = """
from kexue_core.hub.download import pull
[done] = pull([reference])
found = {name: str(done.folder / name) for name in done.files}
"""

THEIRS = """
from huggingface_hub import hf_hub_download
repo, _, revision = reference.removeprefix("hf:").partition("@")
found = {
    name: hf_hub_download(repo, name, revision=revision or None)
    for name in ("config.json", "model.safetensors")
}
"""

# Memory is taken before and after: what importing costs is not the transfer's.
RUNNER = """
import json, logging, os, re, sys, time
os.environ.update({environment!r})
sys.stderr = open(os.devnull, "w")
reference = {reference!r}

def memory(field):
    with open("/proc/self/status") as status:
        return int(re.search(field + r":\\s+(\\d+)", status.read())[1]) * 1024

import huggingface_hub, httpx2, huggingface_hub.hf_api, huggingface_hub.file_download
import kexue_core.hub.download, kexue_core.hub.remote
huggingface_hub.get_session()
before = memory("VmRSS")
try:
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
except OSError:
    pass
start = time.monotonic()
try:
    {body}
    result = {{"found": found}}
except BaseException as error:
    result = {{"error": type(error).__name__}}
result["seconds"] = time.monotonic() - start
result["memory"] = memory("VmHWM") - before
with open({out!r}, "w") as stream:
    json.dump(result, stream)
"""


@dataclass
class Outcome:
    """What came of one pull, in words, and the seconds it took."""

    words: str
    seconds: float
    memory: int = 0


# Where a fault hits questions about the repository, theirs must be a client that asks them.
THEIRS_WHOLE = """
from huggingface_hub import snapshot_download
repo, _, revision = reference.removeprefix("hf:").partition("@")
folder = snapshot_download(repo, revision=revision or None)
found = {name: folder + "/" + name for name in ("config.json", "model.safetensors")}
"""


class Client:
    """One contender in a world of its own."""

    def __init__(self, hub_environment: dict[str, str], body: str, folder: Path) -> None:
        self.folder = folder
        self.body = body
        self.environment = {
            **hub_environment,
            **PATIENCE,
            "HF_HUB_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "KEXUE_HOME": str(folder / "home"),
        }

    def start(self, reference: str, within: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Begin a pull in a process of its own; ``within`` is a command to run it under."""
        code = RUNNER.format(
            environment=self.environment,
            reference=reference,
            body=self.body.strip().replace("\n", "\n    "),
            out=str(self.folder / "out.json"),
        )
        return subprocess.Popen([*within, sys.executable, "-c", code])

    def run(
        self,
        reference: str,
        files: dict[str, bytes],
        limit: float = LIMIT,
        within: tuple[str, ...] = (),
    ) -> Outcome:
        """Pull, hold what was reported as good against ``files``, and say what came of it."""
        (self.folder / "out.json").unlink(missing_ok=True)
        process = self.start(reference, within)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return Outcome(f"still at it after {limit:.0f} s", limit)
        return self.outcome(files)

    def outcome(self, files: dict[str, bytes]) -> Outcome:
        """What the last process reported, checked."""
        result = json.loads((self.folder / "out.json").read_text())
        seconds, memory = result["seconds"], result["memory"]
        if "error" in result:
            return Outcome(result["error"], seconds, memory)
        for name, data in files.items():
            if Path(result["found"][name]).read_bytes() != data:
                return Outcome("**wrong bytes, reported as good**", seconds, memory)
        return Outcome("right bytes", seconds, memory)


def clients(hub: LoopbackHub, root: Path) -> dict[str, Client]:
    """Both contenders, with empty caches."""
    made = {}
    for name, body in (("ours", OURS), ("theirs", THEIRS)):
        folder = Path(tempfile.mkdtemp(dir=root))
        made[name] = Client(hub.environment(), body, folder)
    return made


def measure_scenario(scenario: Scenario, root: Path) -> list[Outcome]:
    """The outcome for both, of a server of their own each."""
    outcomes = []
    for name in ("ours", "theirs"):
        with LoopbackHub() as hub:
            files = serve(hub, scenario)
            client = clients(hub, root)[name]
            if name == "theirs" and " on API" in scenario.name:
                client.body = THEIRS_WHOLE
            if scenario.token:
                client.environment |= hub.environment(token="hf_loopback")
            outcomes.append(client.run(scenario.reference, files))
    return outcomes


def measure_life(root: Path) -> list[tuple[str, list[Outcome]]]:
    """What befalls a cache and a process, rather than a connection."""
    files = {"config.json": b"{}", BIG: content()}
    reference = f"hf:{REPO}"

    def damaged(damage: Callable[[Path], object]) -> Callable[[LoopbackHub, Client], Outcome]:
        def act(hub: LoopbackHub, client: Client) -> Outcome:
            client.run(reference, files)
            [link] = client.folder.rglob(f"snapshots/*/{BIG}")
            damage(link.resolve())
            return client.run(reference, files)

        return act

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)

    def killed(hub: LoopbackHub, client: Client) -> Outcome:
        fault = hub.fault(file=BIG, rate=20e6)
        process = client.start(reference)
        while hub.sent(BIG) < 7_000_000:
            time.sleep(0.01)
        process.kill()
        process.wait()
        fault.rate = None
        hub.seen.clear()
        outcome = client.run(reference, files)
        again = hub.sent(BIG)
        outcome.words += f", {again / len(files[BIG]):.0%} of the file sent the second time"
        return outcome

    def at_once(hub: LoopbackHub, client: Client) -> Outcome:
        hub.fault(file=BIG, rate=20e6)
        processes = [client.start(reference) for _ in range(4)]
        for process in processes:
            process.wait()
        outcome = client.outcome(files)
        outcome.words += f", {hub.sent(BIG) / len(files[BIG]):.1f} transfers"
        return outcome

    def holder_killed(hub: LoopbackHub, client: Client) -> Outcome:
        fault = hub.fault(file=BIG, rate=5e6)
        holder = client.start(reference)
        while hub.sent(BIG) < 2_000_000:
            time.sleep(0.01)
        waiting = client.start(reference)
        time.sleep(1)
        holder.kill()
        fault.rate = None
        holder.wait()
        try:
            waiting.wait(LIMIT)
        except subprocess.TimeoutExpired:
            waiting.kill()
            waiting.wait()
            return Outcome(f"still at it after {LIMIT:.0f} s", LIMIT)
        return client.outcome(files)

    def full(*, midway: bool) -> Callable[[LoopbackHub, Client], Outcome]:
        # A real file system of 4 MB, or one of 16 MB that another program fills meanwhile.
        def act(hub: LoopbackHub, client: Client) -> Outcome:
            cache = client.folder / "cache"
            cache.mkdir()
            mount = f'mount -t tmpfs -o size={16 if midway else 4}m tmpfs "{cache}" || exit 9; '
            if midway:
                hub.fault(file=BIG, rate=5e6)
                mount += f'(sleep 2; cat /dev/zero > "{cache}/filler") 2> /dev/null & '
            return client.run(
                reference, files, within=("unshare", "-rm", "sh", "-c", mount + 'exec "$@"', "sh")
            )

        return act

    def read_only(*, warm: bool) -> Callable[[LoopbackHub, Client], Outcome]:
        def act(hub: LoopbackHub, client: Client) -> Outcome:
            (client.folder / "cache").mkdir()
            (client.folder / "home").mkdir()
            (client.folder / "hf").mkdir()
            if warm:
                client.run(reference, files)
            client.folder.parent.chmod(0o755)
            for path in [client.folder, *client.folder.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o777 if path.is_dir() else 0o666)
            for path in [client.folder / "cache", *(client.folder / "cache").rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o555 if path.is_dir() else 0o444)
            nobody = ("setpriv", "--reuid=65534", "--clear-groups") if os.getuid() == 0 else ()
            return client.run(reference, files, within=nobody)

        return act

    def offline(*, warm: bool) -> Callable[[LoopbackHub, Client], Outcome]:
        def act(hub: LoopbackHub, client: Client) -> Outcome:
            if warm:
                client.run(reference, files)
            client.environment["HF_HUB_OFFLINE"] = "1"
            return client.run(reference, files)

        return act

    def listing(hub: LoopbackHub, client: Client, names: list[str]) -> Outcome:
        blob = hub.store.blob("file.bin", b"")
        hub.store.repos[REPO].commit(dict.fromkeys(names, blob))
        client.body = THEIRS_WHOLE if client.body == THEIRS else client.body
        client.environment["KEXUE_STALL_TIMEOUT"] = "30"  # a long answer is no stall
        return client.run(reference, files)

    acts = {
        "offline, nothing here": offline(warm=False),
        "offline, pulled before": offline(warm=True),
        "a file named ../../evil": lambda hub, client: listing(hub, client, ["../../evil"]),
        "a repository of 100,000 files": lambda hub, client: listing(
            hub, client, [f"file-{n}.bin" for n in range(100_000)]
        ),
        "rotten blob in the cache": damaged(flip),
        "truncated blob in the cache": damaged(lambda p: os.truncate(p, 1000)),
        "missing blob in the cache": damaged(Path.unlink),
        "killed after 7 of 9 MB, then run again": killed,
        "four processes at once": at_once,
        "lock holder killed while another waits": holder_killed,
        "disk too small (tmpfs of 4 MB)": full(midway=False),
        "disk full midway (tmpfs, filled by another)": full(midway=True),
        "read-only cache, nothing there": read_only(warm=False),
        "read-only cache, pulled before": read_only(warm=True),
    }
    rows = []
    for title, act in acts.items():
        outcomes = []
        for name in ("ours", "theirs"):
            with LoopbackHub() as hub:
                hub.store.add(REPO, files)
                outcomes.append(act(hub, clients(hub, root)[name]))
        rows.append((title, outcomes))
        print(title, [o.words for o in outcomes], flush=True)
    return rows


def _serve_file(path: str, channel: Any) -> None:
    with LoopbackHub() as hub:
        hub.store.add(REPO, {"config.json": b"{}", BIG: Path(path)})
        channel.send(hub.environment())
        channel.recv()


@dataclass
class Speed:
    """Medians over rounds, in seconds and bytes; ``ratio`` is the median of the rounds' ratios."""

    ours: float
    theirs: float
    hashing: float
    ratio: float
    memory: int
    rounds: int


def measure_speed(root: Path, *, rounds: int = 5, size: int = SPEED_BYTES) -> Speed:
    """A clean loopback path: ours against theirs plus one sha256 pass over their file."""
    path = root / "speed.bin"
    with path.open("wb") as stream:
        for index in range(size // 1_000_000):
            stream.write(hashlib.shake_256(str(index).encode()).digest(1_000_000))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve_file, args=(str(path), there), daemon=True)
    server.start()
    environment = here.recv()
    ours, theirs, hashing, memory = [], [], [], []
    try:
        for index in range(rounds):
            order = (OURS, THEIRS) if index % 2 else (THEIRS, OURS)
            for body in order:
                folder = Path(tempfile.mkdtemp(dir=root))
                client = Client(environment, body, folder)
                outcome = client.run(f"hf:{REPO}", {}, limit=600)
                assert outcome.words == "right bytes", outcome.words
                if body is OURS:
                    ours.append(outcome.seconds)
                    memory.append(outcome.memory)
                else:
                    theirs.append(outcome.seconds)
                    [link] = folder.rglob(f"snapshots/*/{BIG}")
                    start = time.monotonic()
                    with link.open("rb") as stream:
                        hashlib.file_digest(stream, "sha256")
                    hashing.append(time.monotonic() - start)
                shutil.rmtree(folder)
    finally:
        here.send(None)
        server.join()
        path.unlink()
    ratio = statistics.median(o / (t + h) for o, t, h in zip(ours, theirs, hashing, strict=True))
    median = statistics.median
    return Speed(median(ours), median(theirs), median(hashing), ratio, max(memory), rounds)


PAGE = """# Pulling over bad networks

`kexue pull` fetches through huggingface_hub's session, tokens, endpoints and cache, and adds what
its client leaves out: every byte is hashed before it is placed, what breaks off goes on where it
broke, and whatever cannot be mended ends in bounded time with one error that names the next action.

## What happens

- **Plan.** Sizes, licence and free space first (`--dry-run` stops there). `requires:` and `parts:`
  of the registry are followed.
- **Sources.** Folders in `KEXUE_MIRROR`, the registry's own mirrors (both verified and read in
  place), the cache, mirrors by URL, the Hub. A token goes to the Hub and to no other host.
- **Transfer.** Each writer has a part file of its own, locked by the kernel, so the lock dies with
  its holder; the next run takes the part over, hashes what is there and asks for the rest.
- **Verification.** sha256 of the registry; where it knows none, what the Hub declares (sha256, or
  git sha-1 for small files), pinned in `$KEXUE_HOME/pins` at the first pull. A later change of the
  same revision is an error that names both hashes; `kexue rm` forgets the pin.
- **Receipts.** A verified file is not hashed again while its size, times and inode stay the same.
- **Mending.** `kexue verify` hashes everything again, offline, and moves bad files of the cache
  aside; `--repair` fetches them again. `kexue rm` knows every file that a pull leaves behind.

How patient a transfer is:

| variable | default | meaning |
|---|---|---|
{patience}

## Under faults

Measured by `python docs/measure_pulls.py` with huggingface_hub {hub} (Xet off) and kexue
{kexue}, Python {python}, on a loopback Hub, both clients in the same run. Patience is scaled for
both (one second of silence is a stall); whoever was still at it after {limit:.0f} s was stopped.
The large file has {size:.0f} MB. Every fault can be switched on in your own tests: `LoopbackHub`
and the scenarios are in `kexue_core.testing`.

| what goes wrong | `kexue pull` | | huggingface_hub | |
|---|---|---|---|---|
{rows}

huggingface_hub's rows are those of `hf_hub_download`, file by file, and of `snapshot_download`
where the repository is listed (API, `../../evil`, 100,000 files).

## Speed and memory

{speed}
"""


def _patience() -> str:
    """The rows of the table of variables, from the dataclass and its docstring."""
    meanings = dict(re.findall(r"^ {8}(\w+): (.+?)\.?$", Patience.__doc__ or "", re.MULTILINE))
    return "\n".join(
        f"| `KEXUE_{f.name.upper()}` | {f.default:g} | {meanings[f.name]} |"
        for f in fields(Patience)
    )


def main() -> None:
    """Measure everything and write the page."""
    root = Path(tempfile.mkdtemp(prefix="kexue-pulls-"))
    try:
        rows = []
        for scenario in SCENARIOS:
            outcomes = measure_scenario(scenario, root)
            print(scenario.name, [o.words for o in outcomes], flush=True)
            rows.append((scenario.name, outcomes))
        rows += measure_life(root)
        speed = measure_speed(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    cells = "\n".join(
        f"| {name} | {' | '.join(f'{o.words} | {o.seconds:.1f} s' for o in outcomes)} |"
        for name, outcomes in rows
    )
    words = (
        f"A file of {SPEED_BYTES // 1_000_000} MB on a clean path, medians of {speed.rounds} "
        f"rounds taken in turns: `kexue pull` {speed.ours:.2f} s; huggingface_hub "
        f"{speed.theirs:.2f} s and {speed.hashing:.2f} s for the sha256 pass that it leaves out; "
        f"ratio {speed.ratio:.2f}. "
        f"Memory above idle: {speed.memory / 1e6:.0f} MB."
    )
    page = PAGE.format(
        patience=_patience(),
        hub=metadata.version("huggingface_hub"),
        kexue=metadata.version("kexue"),
        python=platform.python_version(),
        limit=LIMIT,
        size=len(content()) / 1e6,
        rows=cells,
        speed=words,
    )
    (HERE / "pull.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
