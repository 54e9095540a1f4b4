"""A world of its own for every test: a loopback Hub, an empty cache, an empty home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from kexue_core.registry import load_registry
from kexue_core.testing.loopback_hub import LoopbackHub

# Patience of a test: seconds become tenths.
FAST = {
    "KEXUE_STALL_TIMEOUT": "1.0",
    "KEXUE_ATTEMPTS": "4",
    "KEXUE_RATE_WINDOW": "0.5",
    "KEXUE_RETRY_WAIT": "0.02",
    "KEXUE_REPLY_TIMEOUT": "5",
}


@dataclass
class World:
    hub: LoopbackHub
    home: Path
    cache: Path
    registry: Path
    setenv: Callable[[str, str], None]
    delenv: Callable[[str], None]

    def environment(self) -> dict[str, str]:
        """For a child process."""
        return dict(os.environ)

    def files(self) -> set[str]:
        """Every file and link in home and cache, except pytest's and locks that may stay."""
        return {
            str(p.relative_to(root.parent))
            for root in (self.home, self.cache)
            for p in root.rglob("*")
            if not p.is_dir() or p.is_symlink()
        }

    def register(self, **weights: dict[str, object]) -> None:
        """Make these the only weights of the registry."""
        content = {
            "format": 1,
            "mirrors": ["mirror"],
            "weights": {
                n.replace("_", "-"): {"plugin": "kexue-x", **w} for n, w in weights.items()
            },
        }
        self.registry.write_text(yaml.safe_dump(content))
        load_registry.cache_clear()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in list(os.environ):
        if name.startswith(("KEXUE_", "HF_", "HUGGINGFACE_", "XDG_")):
            monkeypatch.delenv(name)
    home, cache, registry = tmp_path / "home", tmp_path / "cache", tmp_path / "registry.yaml"
    registry.write_text("format: 1\nweights: {}\n")
    with LoopbackHub() as hub:
        variables = {
            **hub.environment(),
            **FAST,
            "KEXUE_HOME": str(home),
            "HF_HUB_CACHE": str(cache),
            "HF_HOME": str(tmp_path / "hf-home"),
            "KEXUE_REGISTRY": str(registry),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        load_registry.cache_clear()
        yield World(hub, home, cache, registry, monkeypatch.setenv, monkeypatch.delenv)
    load_registry.cache_clear()
