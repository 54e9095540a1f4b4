"""Real distributions in temporary folders, a registry with a mirror, and processes to run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from kexue_core.commands import cli

ROOT = Path(__file__).parents[2]

PLUGIN = """
from kexue_core import LossSpec, ModelSpec, RecipeSpec, hookimpl

@hookimpl
def kexue_components():
    yield ModelSpec(
        name="toy", factory="toy_model:Toy", config="toy_model:ToyConfig", post=5776,
        capabilities=("latent", "density"), summary="A toy flow 玩具 🧸", aliases=("old-toy",),
    )
    yield ModelSpec(
        name="gone", factory="toy_model:Toy", config="toy_model:ToyConfig",
        summary="Superseded", deprecated="toy",
    )
    yield LossSpec(name="toy-loss", factory="toy_model:loss", example="toy_model:args")
    yield RecipeSpec(name="toy-recipe", factory="toy_model:Recipe", model="toy", data="user/set")
"""


class Site:
    """A folder on PYTHONPATH with distributions, as pip leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def install(
        self,
        name: str,
        source: str | None = None,
        *,
        version: str = "1.0",
        entry_points: Mapping[str, Mapping[str, str]] | None = None,
        requires: str = "kexue>=0.1,<0.2",
    ) -> None:
        """Write a dist-info and one module, by default as a plugin of the group ``kexue``."""
        module = name.replace("-", "_")
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: {requires}\n"
        )
        groups = entry_points or {"kexue": {module: module}}
        info.joinpath("entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items())
                for group, entries in groups.items()
            )
        )
        if source is not None:
            self.folder.joinpath(f"{module}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """The core and kexue-flow as installed, and room for more."""
    site = Site(tmp_path / "site")
    site.install("kexue", version="0.1.0", entry_points={"kexue": {"core": "kexue_core.builtin"}})
    if (ROOT / "plugins/kexue-flow/kexue_flow/plugin.py").exists():
        site.install(
            "kexue-flow", version="0.1.0", entry_points={"kexue": {"flow": "kexue_flow.plugin"}}
        )
    return site


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """An empty registry with an empty mirror beside it."""
    return Catalogue(tmp_path / "catalogue")


class Catalogue:
    """A registry.yaml and its mirror."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "registry.yaml"
        self.mirror = folder / "hub"
        self.mirror.mkdir(parents=True)
        self.mirror.joinpath("kexue-mirror.json").write_text('{"format": 1}')
        self.content: dict[str, Any] = {
            "format": 1,
            "mirrors": ["hub"],
            "plugins": {"kexue-toy": {"summary": "Toys", "requires": "kexue-toy>=1,<2"}},
            "weights": {},
        }
        self.write()

    def add(
        self, name: str, files: Mapping[str, bytes], *, mirrored: bool = True, **entry: Any
    ) -> None:
        """Add weights, and put their files into the mirror."""
        for file, data in files.items():
            if mirrored:
                path = self.mirror / name / file
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
        self.content["weights"][name] = {
            "plugin": "kexue-toy",
            "files": {
                file: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
                for file, data in files.items()
            },
        } | entry
        self.write()

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.content, allow_unicode=True))


@pytest.fixture
def environment(site: Site, catalogue: Catalogue, tmp_path: Path) -> dict[str, str]:
    """What a process of these tests sees: nothing of the machine's own caches and settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEXUE_", "HF_", "COLUMNS"))}
    for name in ("NO_COLOR", "FORCE_COLOR", "PYTHONDONTWRITEBYTECODE"):
        kept.pop(name, None)
    flow = ROOT / "plugins" / "kexue-flow"
    return kept | {
        "PYTHONPATH": os.pathsep.join(map(str, (site.folder, ROOT, flow))),
        "KEXUE_REGISTRY": str(catalogue.path),
        "KEXUE_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
        "TERM": "xterm-256color",
    }


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kexue(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run ``kexue ...`` as a process with pipes; keyword arguments are environment variables."""

    def run(
        *args: object, code: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        # The script's own line, but for a code of the test's own.
        code = code or "from kexue_core.commands import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, args)],
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def toys(site: Site, catalogue: Catalogue) -> None:
    """The plugin kexue-toy, and three weights: mirrored, unavailable and deprecated."""
    site.install("kexue-toy", PLUGIN)
    config = json.dumps(
        {
            "format": 1,
            "model": "toy",
            "plugin": "kexue-toy",
            "config": {"levels": 2},
            "preprocess": {"modality": "image", "size": 8, "range": [0, 1], "crop": "center"},
            "sampler": {"name": "latent-prior", "options": {"temperature": 0.7}},
            "requires": [],
        }
    ).encode()
    catalogue.add(
        "toy-faces",
        {"model.safetensors": b"\0" * 13_400_000, "config.json": config},
        model="toy",
        capabilities=["sample", "reconstruct", "score"],
        summary="Faces of toys 玩具的脸",
        license="LicenseRef-toys-noncommercial",
        dataset="ToyA",
        results=[
            {"metric": "bits_per_dim", "value": 2.7182818, "dataset": "ToyA", "split": "val",
             "n": 1000, "seed": 0}
        ],
    )  # fmt: skip
    catalogue.add("toy-bears", {"model.safetensors": b"123"}, mirrored=False, model="toy")
    catalogue.add("toy-old", {"model.safetensors": b"123"}, model="toy", deprecated="toy-faces")


@pytest.fixture
def toy_source() -> str:
    """The source of kexue-toy's plugin module."""
    return PLUGIN


class Terminal:
    """Run ``kexue`` with a pseudo-terminal as its stdout and stderr."""

    def __init__(self, environment: dict[str, str], cwd: Path) -> None:
        self.environment = environment
        self.cwd = cwd

    def __call__(
        self, *args: object, columns: int = 80, raw: bool = False, **variables: str
    ) -> str:
        """What appears, without the codes of colours and styles unless ``raw``."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "kexue_core", *map(str, args)],
            env=self.environment | variables,
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        chunks = []
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux says EIO where the last writer has gone
                break
            if not chunk:
                break
            chunks.append(chunk)
        os.close(ours)
        self.code = process.wait(60)
        text = b"".join(chunks).decode().replace("\r\n", "\n")
        return text if raw else re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.fixture
def terminal(environment: dict[str, str], tmp_path: Path) -> Terminal:
    return Terminal(environment, tmp_path)


@pytest.fixture
def here(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Let this process see what the processes of ``kexue`` see, for click's CliRunner."""
    from kexue_core.commands._verbs import foreign_verbs
    from kexue_core.plugins import discover
    from kexue_core.registry import load_registry

    for path in reversed(environment["PYTHONPATH"].split(os.pathsep)):
        monkeypatch.syspath_prepend(path)
    for name in ("KEXUE_REGISTRY", "KEXUE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.chdir(tmp_path)
    caches = (discover, load_registry, foreign_verbs)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()
    site = environment["PYTHONPATH"].split(os.pathsep)[0]
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(site):
            del sys.modules[name]


@pytest.fixture
def invoke(here: None) -> Callable[..., Result]:
    """Run a command in this process, which is ten times as fast; errors are raised."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(cli, [*map(str, args)], catch_exceptions=False)

    return run
