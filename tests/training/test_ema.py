from __future__ import annotations

import torch
from torch import nn

from kexue_core.training.ema import MovingAverage


def test_it_is_the_ramped_average_of_every_step() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    average = MovingAverage(model, 0.9)
    expected = model.weight.detach().clone()
    for t in range(200):
        with torch.no_grad():
            model.weight.normal_()
        average.update(t)
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    # float64 and 200 steps: rounding stays far below 1e-12.
    torch.testing.assert_close(average.module.weight, expected, rtol=1e-12, atol=1e-12)


def test_buffers_are_copied_and_nothing_is_trained() -> None:
    model = nn.BatchNorm1d(4)
    average = MovingAverage(model, 0.99)
    model(torch.randn(16, 4))
    average.update(0)
    assert torch.equal(average.module.running_mean, model.running_mean)
    assert int(average.module.num_batches_tracked) == 1
    assert not any(p.requires_grad for p in average.module.parameters())
    assert not average.module.training


def test_zero_means_the_model_itself() -> None:
    model = nn.Linear(2, 2)
    assert MovingAverage(model, 0).module is model


def test_reset_takes_over_a_data_dependent_start() -> None:
    model = nn.Linear(2, 2)
    average = MovingAverage(model, 0.9)
    nn.init.ones_(model.weight)
    average.reset()
    assert torch.equal(average.module.weight, model.weight)
