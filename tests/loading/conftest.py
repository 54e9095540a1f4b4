"""The plugin kexue-zoo on the path, and a registry with a mirror of its own."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from kexue_core.api import create
from kexue_core.plugins import discover
from kexue_core.registry import load_registry
from kexue_core.saving import save_folder

ZOO = Path(__file__).parent / "zoo"


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder on sys.path that holds kexue-zoo, the only plugin beside the core."""
    monkeypatch.syspath_prepend(ZOO)
    monkeypatch.setenv("KEXUE_PLUGINS", "kexue-zoo")
    monkeypatch.setenv("KEXUE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("KEXUE_MIRROR", raising=False)
    discover.cache_clear()
    load_registry.cache_clear()
    yield ZOO
    discover.cache_clear()
    load_registry.cache_clear()


@pytest.fixture
def child() -> Iterator[Callable[..., BaseProcess]]:
    """Start functions in copies of this process: at once, without importing torch again."""
    started: list[BaseProcess] = []

    def start(function: Callable[..., object], *args: object) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(target=function, args=args)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[nn.Module, Path]:
    """A model of every dtype and its folder."""
    torch.manual_seed(1)
    model = create("mixed")
    return model, save_folder(tmp_path / "mixed", model)


class Catalogue:
    """A registry.yaml with a mirror beside it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "registry.yaml"
        self.mirror = folder / "hub"
        self.mirror.mkdir(parents=True)
        (self.mirror / "kexue-mirror.json").write_text('{"format": 1}')
        self.content: dict[str, Any] = {
            "format": 1,
            "mirrors": ["hub"],
            "plugins": {
                "kexue-zoo": {"summary": "Beasts", "requires": "kexue-zoo>=1,<2"},
                "kexue-gone": {"summary": "Not installed", "requires": "kexue-gone>=1"},
            },
            "weights": {},
        }
        self.write()

    def add(self, name: str, model: nn.Module | None = None, /, **entry: Any) -> Path:
        """Name weights; with a model, write its folder into the mirror, with its hashes."""
        options = entry.pop("save", {})
        folder = self.mirror / name
        files = {"model.safetensors": {"sha256": "0" * 64, "size": 1}}
        if model is not None:
            save_folder(folder, model, **options)
            files = {
                path.name: {
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "size": path.stat().st_size,
                }
                for path in folder.iterdir()
            }
        self.content["weights"][name] = {"plugin": "kexue-zoo", "files": files} | entry
        self.write()
        return folder

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.content))
        load_registry.cache_clear()


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    found = Catalogue(tmp_path / "catalogue")
    monkeypatch.setenv("KEXUE_REGISTRY", str(found.path))
    return found
