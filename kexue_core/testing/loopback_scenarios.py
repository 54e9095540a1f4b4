"""Named ways in which a download goes wrong, and what must come of each.

The tests hold ``kexue pull`` to them, and ``docs/measure_pulls.py`` measures huggingface_hub beside
it. Times are scaled: a stall is anything longer than the client's patience.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kexue_core.testing.loopback_hub import LoopbackHub

__all__ = ["REPO", "SCENARIOS", "SIZE", "Scenario", "content", "serve"]

REPO = "owner/weights"

#: Bytes of the large file: more than two connections that drop every 4 MB.
SIZE = 9_000_000

_BIG = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that goes wrong.

    Attributes:
        name: In words, for tables.
        faults: Arguments for :meth:`LoopbackHub.fault`, one mapping a fault.
        outcome: ``recovered``, or the name of the error that must be raised.
        repo: Arguments for the repository: ``private``, ``gated``.
        reference: What is pulled.
        token: Whether the client is logged in.
        most: Bytes of the large file that may be sent, in sizes of the file; 0 for no bound.
    """

    name: str
    faults: tuple[Mapping[str, Any], ...]
    outcome: Literal[
        "recovered",
        "AccessError",
        "ChecksumMismatch",
        "NetworkError",
        "NotFoundError",
        "VerificationError",
    ]
    repo: Mapping[str, Any] = field(default_factory=dict)
    reference: str = f"hf:{REPO}"
    token: bool = False
    most: float = 0.0


def content(size: int = SIZE) -> bytes:
    """The large file: the same bytes every time, without repetition."""
    return hashlib.shake_256(b"kexue").digest(size)


def serve(hub: LoopbackHub, scenario: Scenario) -> dict[str, bytes]:
    """Put the repository on the server and switch the scenario's faults on; give its files."""
    files = {"config.json": b'{"format": 1}\n', _BIG: content()}
    hub.store.add(REPO, files, **scenario.repo)
    for fault in scenario.faults:
        hub.fault(**fault)
    return files


def _breaks() -> list[Scenario]:
    found = []
    for how, kind in (("closed", "close_after"), ("reset", "reset_after")):
        for where, at in (
            ("before the first byte", 0),
            ("after the first byte", 1),
            ("in the middle", SIZE // 2 + 7),
            ("before the last byte", SIZE - 1),
        ):
            fault = {"file": _BIG, "times": 1, kind: at}
            found.append(Scenario(f"connection {how} {where}, once", (fault,), "recovered"))
    fault = {"file": "config.json", "times": 1, "reset_after": 3}
    found.append(Scenario("connection reset within config.json, once", (fault,), "recovered"))
    every = {"file": _BIG, "close_after": 4_000_000}
    found.append(Scenario("connection closed every 4 MB", (every,), "recovered", most=1.2))
    every = {"file": _BIG, "reset_after": 4_000_000}
    found.append(Scenario("connection reset every 4 MB", (every,), "recovered"))
    never = {"file": _BIG, "reset_after": 0}
    found.append(Scenario("connection reset at byte 0, always", (never,), "NetworkError"))
    return found


def _statuses() -> list[Scenario]:
    found = []
    for method in ("HEAD", "GET", "API"):
        file = "*" if method == "API" else _BIG
        wait = {"method": method, "file": file, "status": 429, "retry_after": "1", "times": 1}
        found.append(Scenario(f"429 with Retry-After on {method}, once", (wait,), "recovered"))
        always = {k: v for k, v in wait.items() if k != "times"}
        found.append(
            Scenario(f"429 with Retry-After on {method}, always", (always,), "NetworkError")
        )
        for status in (500, 503):
            fault = {"method": method, "file": file, "status": status}
            found.append(
                Scenario(f"{status} on {method}, once", ({**fault, "times": 1},), "recovered")
            )
            found.append(Scenario(f"{status} on {method}, always", (fault,), "NetworkError"))
    return found


def _bytes() -> list[Scenario]:
    found = []
    for file, at in ((_BIG, SIZE // 3), ("config.json", 4)):
        flip = {"file": file, "flip": at}
        found.append(Scenario(f"bit flip in {file}, once", ({**flip, "times": 1},), "recovered"))
        found.append(Scenario(f"bit flip in {file}, always", (flip,), "ChecksumMismatch"))
    drop = {"file": _BIG, "close_after": SIZE // 2, "times": 1}
    found += [
        Scenario(
            "Content-Length too short, once",
            ({"file": _BIG, "shorten": 1000, "times": 1},),
            "recovered",
        ),
        Scenario("no Content-Length", ({"file": _BIG, "no_length": True},), "recovered"),
        Scenario(
            "no Content-Length, cut short once",
            ({"file": _BIG, "no_length": True}, drop),
            "recovered",
        ),
        Scenario(
            "Range ignored after a break", ({"file": _BIG, "ignore_range": True}, drop), "recovered"
        ),
        Scenario(
            "wrong X-Linked-Size",
            ({"file": _BIG, "method": "HEAD", "linked_size": SIZE - 5},),
            "recovered",
        ),
    ]
    return found


def _slowness() -> list[Scenario]:
    stall = {"file": _BIG, "stall_after": SIZE // 2}
    return [
        Scenario("stall in the middle, once", ({**stall, "times": 1},), "recovered"),
        Scenario("stall at byte 0, always", ({"file": _BIG, "stall_after": 0},), "NetworkError"),
        Scenario("1 KiB/s trickle, always", ({"file": _BIG, "rate": 1024},), "NetworkError"),
    ]


def _refusals() -> list[Scenario]:
    missing = {"file": _BIG, "method": "HEAD", "status": 404, "error_code": "EntryNotFound"}
    return [
        Scenario("403: gated, with a token", (), "AccessError", {"gated": True}, token=True),
        Scenario("private, with a token", (), "recovered", {"private": True}, token=True),
        Scenario("401: private, without a token", (), "AccessError", {"private": True}),
        Scenario("403: gated", (), "AccessError", {"gated": True}),
        Scenario(
            "404: no such repository", (), "NotFoundError", reference="hf:owner/other", token=True
        ),
        Scenario("404: no such revision", (), "NotFoundError", reference=f"hf:{REPO}@v9"),
        Scenario("404: no such file", (missing,), "NotFoundError"),
    ]


SCENARIOS: tuple[Scenario, ...] = (
    *_breaks(),
    *_statuses(),
    *_bytes(),
    *_slowness(),
    *_refusals(),
)
