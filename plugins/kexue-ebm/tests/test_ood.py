"""Areas under the curve and the two scores that need no training."""

import numpy as np
import pytest
import torch
from kexue_ebm.ood import GaussianScore, compare_scores, grey_fraction

from kexue_core.training.data import open_images


def test_grey_is_neither_black_nor_white() -> None:
    image = torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0, 0.3]).view(1, 1, 2, 3)
    assert grey_fraction(image).tolist() == pytest.approx([2 / 6])


def test_the_gaussian_score_is_the_mahalanobis_distance(tmp_path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images)
    data = open_images(tmp_path / "x.npz", "train", size=4, channels=3)
    score = GaussianScore.fit(data)
    x = data.batch(range(5))["image"]
    every = data.batch(range(len(data)))["image"].flatten(1).double()
    covariance = every.T.cov() + 1e-2 * torch.eye(48, dtype=torch.float64)
    d = x.flatten(1).double() - every.mean(0)
    expected = 0.5 * (d @ torch.linalg.inv(covariance) * d).sum(1)
    torch.testing.assert_close(score(x), expected)


def test_the_yardstick_takes_its_better_direction() -> None:
    bright, dark = [torch.rand(9, 1, 2, 2)], [torch.zeros(9, 1, 2, 2)]
    scores = {"grey": grey_fraction, "energy": grey_fraction}
    areas = compare_scores(scores, bright, {"dark": dark})
    assert areas["dark", "energy"] < 0.1
    assert areas["dark", "grey"] == pytest.approx(1 - areas["dark", "energy"])
