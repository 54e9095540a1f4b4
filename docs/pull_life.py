"""What befalls a cache and a process, rather than a connection: acts of ``measure_pulls.py``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from pull_clients import BIG, THEIRS, THEIRS_WHOLE, Client, Outcome, clients

from kexue_core.testing.loopback_hub import LoopbackHub
from kexue_core.testing.loopback_scenarios import REPO, content

__all__ = ["measure_life"]

#: What is done with a client and its Hub, and what came of it.
Act: TypeAlias = Callable[[LoopbackHub, Client], Outcome]

FILES = {"config.json": b"{}", BIG: content()}
REFERENCE = f"hf:{REPO}"


def damaged(damage: Callable[[Path], object]) -> Act:
    def act(hub: LoopbackHub, client: Client) -> Outcome:
        client.run(REFERENCE, FILES)
        [link] = client.folder.rglob(f"snapshots/*/{BIG}")
        damage(link.resolve())
        return client.run(REFERENCE, FILES)

    return act


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def killed(hub: LoopbackHub, client: Client) -> Outcome:
    fault = hub.fault(file=BIG, rate=20e6)
    process = client.start(REFERENCE)
    while hub.sent(BIG) < 7_000_000:
        time.sleep(0.01)
    process.kill()
    process.wait()
    fault.rate = None
    hub.seen.clear()
    outcome = client.run(REFERENCE, FILES)
    again = hub.sent(BIG)
    outcome.words += f", {again / len(FILES[BIG]):.0%} of the file sent the second time"
    return outcome


def at_once(hub: LoopbackHub, client: Client) -> Outcome:
    hub.fault(file=BIG, rate=20e6)
    *others, last = [client.start(REFERENCE) for _ in range(4)]
    for process in others:
        process.wait()
    outcome = client.finish(last, FILES)
    outcome.words += f", {hub.sent(BIG) / len(FILES[BIG]):.1f} transfers"
    return outcome


def holder_killed(hub: LoopbackHub, client: Client) -> Outcome:
    fault = hub.fault(file=BIG, rate=5e6)
    holder = client.start(REFERENCE)
    while hub.sent(BIG) < 2_000_000:
        time.sleep(0.01)
    waiting = client.start(REFERENCE)
    time.sleep(1)
    holder.kill()
    fault.rate = None
    holder.wait()
    return client.finish(waiting, FILES)


def full(*, midway: bool) -> Act:
    # A real file system of 4 MB, or one of 16 MB that another program fills meanwhile.
    def act(hub: LoopbackHub, client: Client) -> Outcome:
        cache = client.folder / "cache"
        cache.mkdir()
        mount = f'mount -t tmpfs -o size={16 if midway else 4}m tmpfs "{cache}" || exit 9; '
        if midway:
            hub.fault(file=BIG, rate=5e6)
            mount += f'(sleep 2; cat /dev/zero > "{cache}/filler") 2> /dev/null & '
        return client.run(
            REFERENCE, FILES, within=("unshare", "-rm", "sh", "-c", mount + 'exec "$@"', "sh")
        )

    return act


def read_only(*, warm: bool) -> Act:
    def act(hub: LoopbackHub, client: Client) -> Outcome:
        (client.folder / "cache").mkdir()
        (client.folder / "home").mkdir()
        (client.folder / "hf").mkdir()
        if warm:
            client.run(REFERENCE, FILES)
        client.folder.parent.chmod(0o755)
        for path in [client.folder, *client.folder.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o777 if path.is_dir() else 0o666)
        for path in [client.folder / "cache", *(client.folder / "cache").rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o555 if path.is_dir() else 0o444)
        nobody = ("setpriv", "--reuid=65534", "--clear-groups") if os.getuid() == 0 else ()
        return client.run(REFERENCE, FILES, within=nobody)

    return act


def offline(*, warm: bool) -> Act:
    def act(hub: LoopbackHub, client: Client) -> Outcome:
        if warm:
            client.run(REFERENCE, FILES)
        client.environment["HF_HUB_OFFLINE"] = "1"
        return client.run(REFERENCE, FILES)

    return act


def listing(hub: LoopbackHub, client: Client, names: list[str]) -> Outcome:
    blob = hub.store.blob("file.bin", b"")
    hub.store.repos[REPO].commit(dict.fromkeys(names, blob))
    client.body = THEIRS_WHOLE if client.body == THEIRS else client.body
    client.environment["KEXUE_STALL_TIMEOUT"] = "30"  # a long answer is no stall
    return client.run(REFERENCE, FILES)


ACTS: dict[str, Act] = {
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


def measure_life(root: Path) -> list[tuple[str, list[Outcome]]]:
    """The outcome of every act for both, of a server of their own each."""
    rows = []
    for title, act in ACTS.items():
        outcomes = []
        for name in ("ours", "theirs"):
            with LoopbackHub() as hub:
                hub.store.add(REPO, FILES)
                outcomes.append(act(hub, clients(hub, root)[name]))
        rows.append((title, outcomes))
        print(title, [o.words for o in outcomes], flush=True)
    return rows
