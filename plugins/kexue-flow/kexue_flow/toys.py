"""Points of the plane, drawn from densities that are known: does a flow find the density again?

The likelihood of real images cannot be checked, since nobody knows their density. Here it is known,
and the Kullback-Leibler divergence of the learned density from it is what is left to learn: a flow
whose log-determinant is wrong does not come near zero, or falls below it.

References:
    [1] Su Jianlin, https://kexue.fm/archives/5776
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kexue_core.experiments import Curve, Experiment, Results, RunContext, Verdict
from kexue_core.plots import figure, save
from kexue_core.training.records import ResultRecord, device_name, versions
from kexue_core.training.seeding import derive
from kexue_flow.glow import Flow, Glow, GlowConfig
from kexue_flow.nice import NICE, NICEConfig
from kexue_flow.realnvp import RealNVP, RealNVPConfig

__all__ = ["FLOWS", "TOYS", "Toy", "Toys", "divergence", "fit"]

BATCH = 256
LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class Toy:
    """A mixture of normals in the unit square.

    Attributes:
        means: (K, 2), one a component; all have the same weight.
        factor: (2, 2) lower triangle, whose product with its transpose is their covariance.
    """

    means: tuple[tuple[float, float], ...]
    factor: tuple[tuple[float, float], tuple[float, float]]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2) points."""
        which = torch.randint(len(self.means), (n,), generator=generator)
        noise = torch.randn(n, 2, generator=generator)
        return torch.tensor(self.means)[which] + noise @ torch.tensor(self.factor).T

    def log_prob(self, points: Tensor) -> Tensor:
        """log p (...) in nats of points (..., 2)."""
        means, factor = (torch.tensor(v).to(points) for v in (self.means, self.factor))
        noise = (points[..., None, :] - means) @ torch.linalg.inv(factor).T
        log_component = -0.5 * noise.square().sum(-1) - math.log(2 * math.pi)
        log_weight = -factor.diagonal().log().sum() - math.log(len(means))
        return torch.logsumexp(log_component, -1) + log_weight


TOYS: Mapping[str, Toy] = {
    "gaussian": Toy(((0.5, 0.5),), ((0.12, 0.0), (0.08, 0.05))),
    "mixture": Toy(((0.35, 0.35), (0.65, 0.65)), ((0.06, 0.0), (-0.02, 0.05))),
}

#: Flows of a few thousand parameters. Those of NICE and RealNVP see a pixel of two channels. A
#: Glow begins with a squeeze: it sees four pixels, which are two independent points.
FLOWS: Mapping[str, Callable[[], Flow]] = {
    "nice": lambda: NICE(NICEConfig(size=1, channels=2, couplings=4, hidden=32, depth=2)),
    "realnvp": lambda: RealNVP(
        RealNVPConfig(
            size=1, channels=2, levels=1, couplings=5, checkerboard=False, hidden=32, blocks=0
        )
    ),
    "glow": lambda: Glow(GlowConfig(size=2, channels=1, levels=1, steps=8, hidden=32)),
}


def fit(flow: Flow, toy: Toy, steps: int, *, seed: int) -> list[tuple[float, float]]:
    """Maximise the likelihood of points; returns a curve of the loss, in nats a point.

    The learning rate falls to zero as a cosine.
    """
    generator = torch.Generator().manual_seed(derive(seed, "points"))

    def batch() -> Tensor:
        points = toy.sample(BATCH * _points(flow), generator)
        return points.clamp(0, 1).reshape(BATCH, *flow.data_shape)

    flow.initialize(batch())
    flow.train()
    optimizer = torch.optim.Adam(flow.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve = []
    for step in range(1, steps + 1):
        loss = -flow(batch()).mean() / _points(flow)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 50) == 0:
            curve.append((float(step), loss.item()))
    flow.eval()
    return curve


@torch.no_grad()
def divergence(flow: Flow, toy: Toy, *, n: int = 20_000) -> float:
    """KL(toy || flow) in nats a point, over `n` points of a seed of their own."""
    generator = torch.Generator().manual_seed(derive(0, "divergence"))
    points = toy.sample(n, generator)
    points = points[((points >= 0) & (points <= 1)).all(1)]
    points = points[: len(points) // _points(flow) * _points(flow)]
    learned = flow.log_prob(points.reshape(-1, *flow.data_shape)).sum()
    return (toy.log_prob(points).sum() - learned).item() / len(points)


def _points(flow: Flow) -> int:
    return math.prod(flow.data_shape) // 2


class Toys(Experiment):
    """[1]: a flow trained by maximum likelihood becomes the density of its data."""

    name = study = "flow-toys"
    claim = "NICE, RealNVP and Glow find the density that points of the plane were drawn from"
    criterion = (
        "on every seed the divergence of every flow is between -0.01 and 0.02 nats a point from a "
        "correlated normal, and between -0.01 and 0.1 from a mixture of two"
    )
    post = 5776
    papers = ("1410.8516", "1605.08803", "1807.03039")
    variants: ClassVar[tuple[str, ...]] = tuple(FLOWS)
    bounds: ClassVar[Mapping[str, float]] = {"gaussian": 0.02, "mixture": 0.1}
    #: Divergences are not negative, but for the scatter of a mean over 20,000 points.
    least: ClassVar[float] = -0.01

    def settings(self, variant: str, *, quick: bool) -> Mapping[str, Any]:
        """The budget; flows and densities are code."""
        return {"steps": 60 if quick else 1_500, "batch_size": BATCH}

    def identity(self, data: str | None) -> str:
        """There is no data but what is drawn."""
        return "drawn"

    def run(
        self, variant: str, seed: int, context: RunContext
    ) -> tuple[Sequence[ResultRecord], Mapping[str, Curve]]:
        """Fit one flow to both densities, and keep what it learned on a grid."""
        settings = self.settings(variant, quick=context.quick)
        records, curves, grids = [], {}, {}
        for toy_name, toy in TOYS.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(seed, "build"))
                flow = FLOWS[variant]()
            curves[toy_name] = fit(flow, toy, settings["steps"], seed=seed)
            records.append(
                ResultRecord(
                    metric=f"kl_{toy_name}",
                    value=divergence(flow, toy),
                    dataset="points of the plane",
                    split="fresh",
                    n=20_000,
                    seed=seed,
                    command=context.command,
                    weights="",
                    versions=versions("kexue-flow"),
                    device=device_name("cpu"),
                    settings=dict(settings),
                )
            )
            grids[toy_name] = _density(flow, _grid())
        save_file(grids, context.folder / "densities.safetensors")
        return records, curves

    def verdict(self, results: Results) -> Verdict:
        """Judge by the criterion."""
        because, holds = [], True
        for toy_name, bound in self.bounds.items():
            for variant in self.variants:
                values = [r.value(f"kl_{toy_name}") for r in results.of(variant).values()]
                holds = holds and all(self.least <= v <= bound for v in values)
                shown = ", ".join(f"{v:.4f}" for v in values)
                because.append(f"{variant} on the {toy_name}: {shown} nats (bound {bound})")
        return Verdict(holds=holds, because=tuple(because))

    def plot(self, results: Results, verdict: Verdict, path: Path) -> None:
        """The true densities, and beside them what the flows of the first seed learned."""
        drawn = figure(8.0, 4.2)
        axes = drawn.subplots(len(TOYS), 1 + len(self.variants))
        for row, (toy_name, toy) in zip(axes, TOYS.items(), strict=True):
            true = toy.log_prob(_grid()).exp()
            row[0].set_title(f"{toy_name}, true", fontsize="small")
            shown = [true]
            for axis, variant in zip(row[1:], self.variants, strict=True):
                run = next(iter(results.of(variant).values()))
                assert run.folder is not None
                shown.append(load_file(run.folder / "densities.safetensors")[toy_name])
                kl = run.value(f"kl_{toy_name}")
                axis.set_title(f"{variant}, KL {kl:.3f}", fontsize="small")
            for axis, density in zip(row, shown, strict=True):
                axis.imshow(density.numpy(), origin="lower", vmin=0, vmax=true.max().item())
                axis.set_xticks([])
                axis.set_yticks([])
        save(drawn, path)


def _grid(points: int = 96) -> Tensor:
    # (points, points, 2), the middles of squares.
    axis = (torch.arange(points) + 0.5) / points
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1)


@torch.no_grad()
def _density(flow: Flow, grid: Tensor) -> Tensor:
    # Of one point: where a flow sees two, both are the same, and their density is a square.
    repeated = grid.flatten(0, 1).repeat(1, _points(flow)).reshape(-1, *flow.data_shape)
    return (flow.log_prob(repeated) / _points(flow)).exp().reshape(grid.shape[:2])
