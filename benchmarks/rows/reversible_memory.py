"""What a training step of Glow takes with and without stored activations, as it gets deeper."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from time import process_time

import torch
from harness import Row
from kexue_flow.glow import Glow, GlowConfig

#: Activations, not parameters, are what fills the memory at this width and batch.
BATCH, HIDDEN = 256, 64
SHALLOW, DEEP = 8, 32

#: Peak of K32 over K8, demanded of reversible steps.
MEMORY = 1.3
#: Relative difference of the two gradients.
GRADIENT = 1e-4


def glow(steps: int, *, reversible: bool) -> Glow:
    torch.manual_seed(0)
    model = Glow(GlowConfig(size=32, levels=3, steps=steps, hidden=HIDDEN)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.reversible = reversible
    return model


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def train(steps: int, batch: int, *, reversible: bool) -> None:
    """One step: loss, gradients, Adamax and its state."""
    model = glow(steps, reversible=reversible)
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-5)
    (-model(images(batch)).mean()).backward()
    optimizer.step()


def growth(steps: int, reversible: bool) -> tuple[int, float]:
    """Bytes by which this process grows over a training step, model and all; CPU seconds."""
    torch.set_num_threads(1)
    train(1, 1, reversible=reversible)  # imports, and the first use of torch's kernels
    before, began = peak(), process_time()
    train(steps, BATCH, reversible=reversible)
    return peak() - before, process_time() - began


def peak() -> int:
    """Peak resident bytes of this process; getrusage would count those of its parent too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def gradient(*, reversible: bool) -> torch.Tensor:
    model = glow(DEEP, reversible=reversible)
    (-model(images(8)).mean()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def measure() -> list[Row]:
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    found = {}
    for reversible in (False, True):
        for steps in (SHALLOW, DEEP):
            # A process each: peaks never fall again, and freed memory would be used once more.
            with context.Pool(1) as pool:
                found[reversible, steps] = pool.apply(growth, (steps, reversible))
    ordinary, other = gradient(reversible=False), gradient(reversible=True)
    what = f"Glow L3 h{HIDDEN}, 32x32, training step of {BATCH}, float32"
    peer = "the same with stored activations"
    ratios = {r: found[r, DEEP][0] / found[r, SHALLOW][0] for r in (False, True)}
    return [
        Row(
            what=f"{what}, reversible: peak memory of K{DEEP} over K{SHALLOW}",
            ours=ratios[True],
            unit="times",
            peer=peer,
            theirs=ratios[False],
            bar=MEMORY,
            kind="at most",
            judged="ours",
        ),
        Row(
            what=f"{what}, K{DEEP}, reversible: peak memory",
            ours=found[True, DEEP][0] / 2**20,
            unit="MiB",
            peer=peer,
            theirs=found[False, DEEP][0] / 2**20,
            ratio=found[False, DEEP][0] / found[True, DEEP][0],
        ),
        Row(
            what=f"{what}, K{DEEP}, reversible: time",
            ours=1e3 * found[True, DEEP][1],
            unit="ms",
            peer=peer,
            theirs=1e3 * found[False, DEEP][1],
            ratio=found[False, DEEP][1] / found[True, DEEP][1],
        ),
        Row(
            what=f"Glow K{DEEP} L3 h{HIDDEN}, 32x32, reversible: difference of the gradient over "
            "its norm, float32",
            ours=((other - ordinary).norm() / ordinary.norm()).item(),
            unit="relative",
            bar=GRADIENT,
            kind="at most",
            judged="ours",
        ),
    ]
