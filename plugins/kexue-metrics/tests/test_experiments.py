"""The disturbances disturb, the criteria judge, and a run measures what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from kexue_metrics.experiments import (
    CHANGES,
    LEVELS,
    Disturbances,
    TwoAxes,
    blurred,
    covered,
    keep_classes,
    noisy,
)

from kexue_core.errors import DataError
from kexue_core.experiments import Results, RunContext, RunResult


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CHANGES)
def test_changes_start_at_nothing_and_stay_images(name, images):
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(CHANGES[name](images, 0.0, generator), images)
    before = 0.0
    for level in LEVELS[1:]:
        changed = CHANGES[name](images, level, generator)
        assert changed.shape == images.shape
        assert 0 <= changed.min() <= changed.max() <= 1
        distance = float((changed - images).square().mean())
        assert distance > before
        before = distance


def test_each_change_is_what_it_is_called(images):
    generator = torch.Generator().manual_seed(1)
    flat = torch.full((500, 1, 16, 16), 0.5)
    # At level 1 half the image, half noise of deviation 1 / sqrt(12).
    assert float(noisy(flat, 1.0, generator).std()) == pytest.approx(0.5 / 12**0.5, rel=0.02)
    torch.testing.assert_close(blurred(flat, 1.0, generator), flat)
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1
    spread = blurred(point, 1.0, generator)[0, 0].sum(0)
    x = torch.arange(33.0) - 16
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    # Cut at three deviations, the variance of 2 pixels' deviation is a little below 4.
    assert 3.7 < float((spread * x.square()).sum()) < 4
    black = covered(torch.ones(3000, 1, 16, 16), 0.5, generator) == 0
    assert black.sum((1, 2, 3)).tolist() == [16] * 3000  # 4 x 4, whole, wherever it lies
    assert black.any(0).all()


def test_classes_are_left_out_from_the_last():
    labels = torch.arange(10).repeat(3)
    for level, left in zip(LEVELS, (10, 8, 6, 4, 2), strict=True):
        assert sorted(set(labels[keep_classes(labels, level)].tolist())) == list(range(left))


def results(**curves):
    """Runs of two seeds, each disturbance with the same curves."""
    return Results(
        RunResult(
            variant=variant,
            seed=seed,
            records=(),
            curves={m: list(zip(LEVELS, ys, strict=True)) for m, ys in curves[variant].items()},
        )
        for variant in Disturbances.variants
        for seed in range(2)
    )


def test_the_distance_must_rise_everywhere(tmp_path):
    rising = {"frechet_distance": [0.1, 0.2, 0.3, 0.4, 0.5]}
    level = {"frechet_distance": [0.1, 0.2, 0.2, 0.4, 0.5]}
    experiment = Disturbances()
    every = dict.fromkeys(Disturbances.variants, rising)
    assert experiment.verdict(results(**every)).holds
    verdict = experiment.verdict(results(**{**every, "blurred": level}))
    assert not verdict.holds
    assert "blurred: 0.1, 0.2, 0.2, 0.4, 0.5" in verdict.because[1]
    experiment.plot(results(**every), verdict, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_precision_and_recall_must_fall_apart(tmp_path):
    high, low = [0.9] * 5, [0.9, 0.8, 0.6, 0.5, 0.2]
    good = {
        "dropped": {"precision": high, "recall": low},
        "noisy": {"precision": low, "recall": high},
        "blurred": {"precision": high, "recall": high},
        "covered": {"precision": high, "recall": high},
    }
    experiment = TwoAxes()
    assert experiment.verdict(results(**good)).holds
    for variant, metric, values in (
        ("dropped", "precision", low),
        ("dropped", "recall", high),
        ("noisy", "precision", high),
    ):
        bad = {**good, variant: {**good[variant], metric: values}}
        assert not experiment.verdict(results(**bad)).holds
    experiment.plot(results(**good), experiment.verdict(results(**good)), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_run_measures_every_figure_at_every_level(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (450, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x_train=pictures[:2], x_test=pictures)
    context = RunContext(
        folder=tmp_path, data=str(tmp_path / "noise.npz"), device="cpu", quick=True, command="x"
    )
    records, curves = Disturbances().run("blurred", 0, context)
    assert {r.metric for r in records} == curves.keys()
    assert [level for level, _ in curves["coverage"]] == list(LEVELS)
    for record in records:
        points = curves[record.metric]
        assert (record.value, record.floor) == (points[-1][1], points[0][1])
        assert (record.n, record.split) == (200, "test")
        assert record.settings["features"].startswith("classifier-fashion@")
    labels = np.arange(450) % 10
    few = {"x_train": pictures[:2], "y_train": labels[:2], "x_test": pictures, "y_test": labels}
    np.savez(tmp_path / "few.npz", **few)
    with pytest.raises(DataError, match=r"has .* of 200 images at"):
        Disturbances().run("dropped", 0, replace(context, data=str(tmp_path / "few.npz")))
    # Noise that is blurred to grey is far from noise.
    assert curves["frechet_distance"][-1][1] > 10 * curves["frechet_distance"][0][1]
