"""The project as a stranger gets it: wheels in an empty environment, weights from a mirror."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HUB = ROOT / "hub"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheels of the core and kexue-flow, and no source tree."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = folder / "sources"
    # Built from a copy: setuptools leaves build/ beside the source, and what an earlier build left
    # there would end up in the wheel.
    for part in ("kexue_core", "plugins/kexue-flow"):
        shutil.copytree(
            ROOT / part,
            sources / part,
            ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "tests"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources / name)
    for project in (sources, sources / "plugins/kexue-flow"):
        run(
            [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"],
            [*("--wheel-dir", folder / "dist"), project],
        )
    shutil.rmtree(sources)
    wheels = sorted((folder / "dist").glob("*.whl"))
    assert [w.name.split("-")[0] for w in wheels] == ["kexue", "kexue_flow"]

    root = folder / "venv"
    venv.create(root, with_pip=True)
    python = root / "bin" / "python"
    run(
        [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *wheels],
    )
    return root


def run(
    *parts: list[str | Path], env: dict[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run a command; its standard error is in the failure's message."""
    command = [str(word) for part in parts for word in part]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def kexue(environment: Path, tmp_path: Path):
    """Run `kexue`, or Python, in that environment, from an empty folder, offline."""
    mirror = tmp_path / "mirror"
    shutil.copytree(HUB, mirror)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KEXUE_", "PYTHON"))}
    env |= {
        "KEXUE_MIRROR": str(mirror),
        "KEXUE_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    work = tmp_path / "work"
    work.mkdir()

    def call(program: str, *arguments: str) -> str:
        return run([environment / "bin" / program, *arguments], env=env, cwd=work)

    return call


def test_the_wheels_stand_alone(kexue, environment: Path, tmp_path: Path) -> None:
    found = kexue(
        "python",
        "-c",
        "import kexue_core, kexue_flow; print(kexue_core.__file__, kexue_flow.__file__)",
    )
    assert all(Path(p).is_relative_to(environment) for p in found.split())

    listed = {entry["name"] for entry in json.loads(kexue("kexue", "list", "--json"))}
    assert {"glow-celeba", "glow-fashion"} <= listed, "the wheel of the core carries registry.yaml"

    kexue("kexue", "pull", "glow-celeba")
    kexue("kexue", "verify", "glow-celeba")
    kexue("kexue", "sample", "glow-celeba", "-n", "4", "--seed", "0", "--out", "faces.png")
    assert (tmp_path / "work" / "faces.png").read_bytes().startswith(b"\x89PNG")

    program = (
        "import kexue_core as kexue\n"
        "model = kexue.load('glow-celeba')\n"
        "images = kexue.sample(model, 2, temperature=0.7, seed=0)\n"
        "assert images.shape[1:] == model.data_shape and 0 <= images.min() <= images.max() <= 1\n"
        "print('loaded', type(model).__name__)"
    )
    assert kexue("python", "-c", program).strip() == "loaded Glow"


def test_nothing_installed_is_broken(kexue) -> None:
    report = json.loads(kexue("kexue", "plugins", "--json"))
    assert {entry["plugin"]: entry["state"] for entry in report} == {
        "kexue": "ok",
        "kexue-flow": "ok",
    }
