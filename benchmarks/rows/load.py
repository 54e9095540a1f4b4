"""What loading weights costs: time until every weight was read once, and memory."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import process_time

import torch
from harness import Row, interleave, timed_row
from safetensors.torch import load_file
from torch import nn

from kexue_core import ModelSpec, hookimpl
from kexue_core.loading import load_folder
from kexue_core.plugins import discover
from kexue_core.saving import save_folder

FASTER, MEMORY = 8, 1.1


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    layers: int = 24
    width: int = 1024


class Stack(nn.Module):
    """100 MB of float32 in torch's commonest layer."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            nn.Linear(config.width, config.width) for _ in range(config.layers)
        )


@hookimpl
def kexue_components() -> Iterator[ModelSpec]:
    yield ModelSpec(name="stack", factory=f"{__name__}:Stack", config=f"{__name__}:StackConfig")


@contextmanager
def installed() -> Iterator[Path]:
    """A folder on sys.path, in which this file is a distribution with a plugin."""
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder, "kexue_bench-1.dist-info")
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kexue-bench\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[kexue]\nbench = {__name__}\n")
        sys.path.insert(0, folder)
        discover.cache_clear()
        try:
            yield Path(folder)
        finally:
            sys.path.remove(folder)
            discover.cache_clear()


def ours(folder: Path) -> nn.Module:
    return load_folder(folder)


def ours_unmapped(folder: Path) -> nn.Module:
    return load_folder(folder, mmap=False)


def usual(folder: Path) -> nn.Module:
    """Build, then copy into what was built; safetensors is the faster of torch's two formats."""
    model = Stack(StackConfig())
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def read(model: nn.Module) -> float:
    """Read every weight once."""
    return sum(p.detach().sum().item() for p in model.parameters())


def growth(load: Callable[[Path], nn.Module], folder: Path, tiny: Path) -> int:
    """Bytes by which the peak memory of this process grows while weights are loaded and read."""
    torch.set_num_threads(1)
    read(load_folder(tiny))  # imports, and the first use of torch's kernels
    before = peak()
    read(load(folder))
    return peak() - before


def peak() -> int:
    """Peak resident bytes of this process; getrusage would count those of its parent too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measure() -> list[Row]:
    torch.set_num_threads(1)
    with installed() as place:
        folder = save_folder(place / "stack", Stack(StackConfig()))
        tiny = save_folder(place / "tiny", Stack(StackConfig(layers=1, width=8)))
        size = (folder / "model.safetensors").stat().st_size
        contenders = {"ours": ours, "unmapped": ours_unmapped, "usual": usual}
        timing = interleave(
            {name: lambda load=load: read(load(folder)) for name, load in contenders.items()},
            rounds=15,
            clock=process_time,
        )
        context = multiprocessing.get_context("spawn")
        grown = {}
        for name, load in contenders.items():
            # A process each: peaks never fall again, and freed memory would be used once more.
            with context.Pool(1) as pool:
                grown[name] = pool.apply(growth, (load, folder, tiny)) / size
    peer = f"torch {metadata.version('torch')}, build + load_state_dict(load_file())"
    what = f"loading {size / 1e6:.0f} MB of float32 linear layers"
    return [
        timed_row(timing, f"{what}, every weight read", "ours", "usual", peer=peer, bar=FASTER),
        timed_row(timing, f"{what}, mmap=False", "unmapped", "usual", peer=peer),
        *(
            Row(
                what=f"{what}{suffix}, peak memory over the file's size",
                ours=grown[name],
                unit="times",
                peer=peer,
                theirs=grown["usual"],
                ratio=grown["usual"] / grown[name],
                bar=MEMORY,
                kind="at most",
                judged="ours",
            )
            for name, suffix in (("ours", ""), ("unmapped", ", mmap=False"))
        ),
    ]
