"""Measure ``kexue pull`` beside huggingface_hub's own client, fault by fault, and write pull.md.

Run ``python docs/measure_pulls.py``; it takes a quarter of an hour. Both clients meet the same
loopback Hub, in fresh processes with empty caches, Xet off. Patience is scaled for both: a stall is
one second of silence, and whoever is still at it after a minute is stopped.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import platform
import re
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from pull_clients import BIG, LIMIT, OURS, THEIRS, THEIRS_WHOLE, Client, Outcome, clients
from pull_life import measure_life

from kexue_core.hub.network import Patience
from kexue_core.testing.loopback_hub import LoopbackHub
from kexue_core.testing.loopback_scenarios import REPO, SCENARIOS, Scenario, content, serve

HERE = Path(__file__).parent
SPEED_BYTES = 500_000_000


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
The large file has {size:.0f} MB and comes, as from the real Hub, by a redirect to another server.
Every fault can be switched on in your own tests: `LoopbackHub` and the scenarios are in
`kexue_core.testing`.

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
