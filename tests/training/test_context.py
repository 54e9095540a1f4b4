from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from kexue_core.errors import NonFiniteLossError
from kexue_core.training.context import LoopContext


def context(rank: int = 0, world: int = 1, seed: int = 0, model: nn.Module | None = None) -> Any:
    accelerator: Any = SimpleNamespace(
        device=torch.device("cpu"),
        process_index=rank,
        num_processes=world,
        backward=lambda loss: loss.backward(),
    )
    optimizers = {"sgd": torch.optim.SGD(model.parameters(), lr=1.0)} if model else {}
    return LoopContext(accelerator, seed, 10, optimizers)


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_processes_draw_together_what_one_draws(draw: str) -> None:
    alone = context()
    alone.begin_step(7)
    expected = alone.noise(8, draw, 3)
    shares = []
    for rank in range(4):
        one = context(rank, 4)
        one.begin_step(7)
        shares.append(one.noise(2, draw, 3))
    assert torch.equal(torch.cat(shares), expected)


def test_dropout_differs_between_processes_and_steps_and_comes_again() -> None:
    def draw(rank: int, step: int) -> torch.Tensor:
        context(rank, 2).begin_step(step)
        return torch.rand(8)

    assert torch.equal(draw(0, 3), draw(0, 3))
    assert not torch.equal(draw(0, 3), draw(1, 3))
    assert not torch.equal(draw(0, 3), draw(0, 4))


def test_uniform_noise_is_in_the_unit_interval() -> None:
    one = context()
    one.begin_step(0)
    noise = one.noise(1000, "uniform")
    assert noise.shape == (1000,)
    assert 0 <= noise.min() < 0.05
    assert 0.95 < noise.max() < 1


def test_clipping_bounds_the_step_and_reports_the_norm_before() -> None:
    model = nn.Linear(4, 1, bias=False)
    before = model.weight.detach().clone()
    one = context(model=model)
    norm = one.minimize("sgd", 100 * model.weight.sum(), clip=1.0)["grad_norm"]
    assert norm == pytest.approx(200)  # 4 weights, each with the gradient 100
    assert float((model.weight.detach() - before).norm()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nothing_is_stepped_where_something_is_not_finite(what: str) -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    one = context(model=model)
    one.begin_step(4)
    # The square root is finite at 0, its derivative is not.
    loss = model.weight.sum() * float("inf") if what == "loss" else model.weight.abs().sum().sqrt()
    with pytest.raises(NonFiniteLossError, match=f"The {what} of 'sgd' .* at step 4"):
        one.minimize("sgd", loss)
    assert torch.equal(model.weight, torch.zeros(1, 2))


def test_another_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="'normal' or 'uniform'"):
        context().noise(2, "gauss")
