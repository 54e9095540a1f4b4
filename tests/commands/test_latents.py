"""Walks between latents, and errors of images."""

from __future__ import annotations

import math

import pytest
import torch

from kexue_core.latents import max_error, psnr, slerp


@pytest.fixture
def ends():
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(1, 3, 4, 4, generator=generator), torch.randn(1, 12, generator=generator))
        for _ in range(2)
    ]


def norm(parts, k):
    return math.sqrt(sum(float(p[k].square().sum()) for p in parts))


def test_both_ends_are_exact_and_the_angle_grows_evenly(ends):
    a, b = ends
    walk = slerp(a, b, 9)
    for part, x, y in zip(walk, a, b, strict=True):
        assert part.shape == (9, *x.shape[1:])
        torch.testing.assert_close(part[:1], x, rtol=0, atol=0)
        torch.testing.assert_close(part[-1:], y, rtol=0, atol=0)
    flat = torch.cat([p.flatten(1) for p in walk], 1).double()
    flat_a = torch.cat([p.flatten(1) for p in a], 1)
    flat_b = torch.cat([p.flatten(1) for p in b], 1)
    # On a circle of unit vectors, cosines to neighbours are all alike.
    unit = slerp(flat_a / flat_a.norm(), flat_b / flat_b.norm(), 9).double()
    cosines = (unit[1:] * unit[:-1]).sum(1)
    torch.testing.assert_close(cosines, cosines[:1].expand(8), rtol=1e-5, atol=1e-6)
    assert flat.isfinite().all()


def test_the_walk_keeps_to_the_radius_of_the_prior(ends):
    a, b = ends
    walk = slerp(a, b, 11)
    ends_ = sorted((norm(walk, 0), norm(walk, 10)))
    for k in range(11):
        assert 0.9 * ends_[0] <= norm(walk, k) <= 1.1 * ends_[1]
    # The straight line falls to about 1 / sqrt(2) of it.
    middle = tuple((x + y) / 2 for x, y in zip(a, b, strict=True))
    assert norm(middle, 0) < 0.85 * ends_[0]


def test_backwards_it_is_the_same_walk(ends):
    forth, back = slerp(*ends, 7), slerp(*reversed(ends), 7)
    for x, y in zip(forth, back, strict=True):
        torch.testing.assert_close(x, y.flip(0))


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.0])
def test_parallel_opposite_and_zero_ends_stay_finite(scale):
    a = torch.ones(1, 5)
    walk = slerp(a, scale * a, 3)
    torch.testing.assert_close(walk[1:2], (1 + scale) / 2 * a)


def test_whole_numbers_are_those_of_the_nearer_end():
    a = (torch.zeros(1, 2), torch.tensor([3]))
    b = (torch.ones(1, 2), torch.tensor([7]))
    assert slerp(a, b, 4)[1].tolist() == [3, 3, 7, 7]


def test_shapes_must_agree_and_a_walk_has_two_ends(ends):
    with pytest.raises(ValueError, match="same shapes"):
        slerp(torch.zeros(1, 2), torch.zeros(1, 3), 2)
    with pytest.raises(ValueError, match="at least 2"):
        slerp(*ends, 1)


def test_psnr_of_known_errors():
    x = torch.zeros(3, 3, 4, 4)
    y = torch.stack([x[0], x[1] + 0.1, x[2]])
    y[2, 0, 0, 0] = 1
    assert psnr(x, y) == [math.inf, pytest.approx(20), pytest.approx(10 * math.log10(48))]
    assert max_error(x, y) == [0, pytest.approx(0.1), 1]
