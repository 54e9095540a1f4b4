from __future__ import annotations

import numpy as np
import pytest
import torch

from kexue_core.images import grid


def test_every_pixel_is_where_it_belongs() -> None:
    images = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    picture = np.asarray(grid(images, 3, padding=2, upscale=4))
    assert picture.shape == (2 * (16 + 2) + 2, 3 * (24 + 2) + 2, 3)
    for k, image in enumerate(images):
        top, left = k // 3 * 18 + 2, k % 3 * 26 + 2
        tile = picture[top : top + 16, left : left + 24]
        wanted = (image * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(tile, wanted.repeat(4, 0).repeat(4, 1)), "crisp, not blurred"


@pytest.mark.parametrize(("side", "tile"), [(8, 96), (28, 84), (64, 64), (128, 128)])
def test_small_images_are_enlarged_by_whole_factors(side: int, tile: int) -> None:
    assert grid(torch.zeros(1, 1, side, side)).size == (tile + 4, tile + 4)


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (16, 4), (17, 5)])
def test_it_is_about_square(n: int, columns: int) -> None:
    assert grid(torch.zeros(n, 3, 64, 64)).width == columns * 66 + 2


def test_grey_becomes_rgb_and_values_are_clipped() -> None:
    images = torch.tensor([-1.0, 0.5, 2.0, float("nan")]).view(4, 1, 1, 1)
    picture = np.asarray(grid(images, 4, padding=0, upscale=1))
    assert picture.tolist() == [[[0] * 3, [128] * 3, [255] * 3, [0] * 3]]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 2, 8, 8), (0, 3, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must have the shape"):
        grid(torch.zeros(shape))
