"""Flows find the density of points that they are trained on; with a wrong sign they do not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from kexue_flow.toys import FLOWS, TOYS, Toys, divergence, fit
from torch import Tensor, nn

from kexue_core.reproduce import reproduce

#: Least and largest divergence in nats a point. An untrained flow is off by one to three.
LEAST, BOUNDS = -0.01, {"gaussian": 0.04, "mixture": 0.2}


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_drawn_as_it_is_scored(name: str) -> None:
    toy = TOYS[name]
    axis = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    density = toy.log_prob(grid).exp() / 400**2
    # All but one in ten thousand lies in the unit square.
    assert density.sum().item() == pytest.approx(1, abs=1e-3)
    points = toy.sample(40_000, torch.Generator().manual_seed(0))
    mean = (density[..., None] * grid).sum((0, 1))
    spread = grid - mean
    covariance = torch.einsum("ij,ija,ijb->ab", density, spread, spread)
    assert (points.mean(0) - mean).abs().max() < 0.003
    assert (points.T.cov() - covariance).abs().max() < 3e-4
    assert covariance[0, 1].abs() > 0.005  # correlated


@pytest.mark.parametrize(
    ("flow", "toy", "steps"),
    [
        ("nice", "gaussian", 100),
        ("realnvp", "gaussian", 100),
        ("glow", "gaussian", 80),
        ("nice", "mixture", 250),
        ("realnvp", "mixture", 120),
    ],
)
def test_a_flow_finds_the_density_of_its_data(flow: str, toy: str, steps: int) -> None:
    torch.manual_seed(0)
    model = FLOWS[flow]()
    before = divergence(model, TOYS[toy], n=2000)
    fit(model, TOYS[toy], steps, seed=0)
    assert LEAST < divergence(model, TOYS[toy]) < BOUNDS[toy] < 0.2 * before


@pytest.mark.parametrize("flow", FLOWS)
def test_a_wrong_sign_is_seen(flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = FLOWS[flow]()
    right = type(model).transform

    def wrong(self: nn.Module, x: Tensor, **options: Any) -> tuple[tuple[Tensor, ...], Tensor]:
        latents, log_det = right(self, x, **options)
        return latents, -log_det

    monkeypatch.setattr(type(model), "transform", wrong)
    fit(model, TOYS["gaussian"], 60, seed=0)
    found = divergence(model, TOYS["gaussian"], n=2000)
    assert math.isnan(found) or not -1 < found < 1


def test_the_experiment_from_points_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toys, "settings", lambda self, v, *, quick: {"steps": 2, "batch_size": 8})
    report = reproduce(Toys(), out=tmp_path, seeds=1, device="cpu")
    assert [run["variant"] for run in report["runs"]] == list(FLOWS)
    assert report["verdict"] == "does not hold here"  # after two steps
    assert (tmp_path / "flow-toys" / "plot.png").is_file()
    again = reproduce(Toys(), out=tmp_path, seeds=1, device="cpu")
    assert again["runs"] == report["runs"]
