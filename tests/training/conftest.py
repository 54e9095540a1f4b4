"""The toy plugin on the path, some data to train it on, and a way to run it as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOY = Path(__file__).parent / "toy"
# Its metadata is on the path only while these tests run: other tests count what is installed.
TOY_METADATA = Path(__file__).parent / "toy_installed"
ROOT = Path(__file__).parents[2]

sys.path.insert(0, str(TOY))


@pytest.fixture(autouse=True, scope="module")
def _toy_installed() -> Iterator[None]:
    from kexue_core.plugins import discover

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOY_METADATA))
        discover.cache_clear()
        yield
    discover.cache_clear()


@pytest.fixture(autouse=True)
def _toy_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from kexue_core.plugins import discover

    monkeypatch.setenv("KEXUE_PLUGINS", "kexue-trainee")
    discover.cache_clear()
    yield
    discover.cache_clear()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> Path:
    """An .npz of 120 8x8 images with structure to learn."""
    ramp = np.linspace(0, 255, 8)[:, None] * np.ones(8)
    scale = rng.uniform(0, 1, (120, 1, 1))
    path = tmp_path / "toy.npz"
    np.savez(path, images=(ramp * scale).astype(np.uint8))
    return path


@pytest.fixture
def environment() -> dict[str, str]:
    path = os.pathsep.join(map(str, (ROOT, TOY, TOY_METADATA)))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "KEXUE_PLUGINS": "kexue-trainee",
        "CUDA_VISIBLE_DEVICES": "",
    }


@pytest.fixture
def kexue(
    environment: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``kexue`` as a process of its own."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kexue_core", *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )

    return run
