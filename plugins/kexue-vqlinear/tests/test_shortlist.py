"""The short list of bfloat16 holds the nearest code, or there is none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kexue_vqlinear.shortlist import CODES, GROUPS, ROWS, shortlist
from torch import Tensor


def reference(z: Tensor, table: Tensor) -> Tensor:
    """Nearest in float64, a row at a time; of equals the lowest."""
    squares = [(row.double() - table.double()).square().sum(1) for row in z]
    return torch.stack([(d == d.min()).nonzero()[0, 0] for d in squares])


def centred(near: Tensor, length: float) -> Tensor:
    """`near` among codes that no z is near, their middle exactly 0: vectors are rounded as given.

    The last coordinate of `near` and of z is 0; of the others it is +-length.
    """
    far = torch.zeros(1000, near.shape[1])
    far[::2, -1], far[1::2, -1] = length, -length
    return torch.cat([near, -near, far])


@pytest.mark.parametrize("n", [1, 7, ROWS + 9])
@pytest.mark.parametrize("k", [1, 3, GROUPS, 5 * GROUPS, CODES + 1, CODES + 3 * GROUPS])
def test_it_is_the_nearest(n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(n * k)
    z, table = (torch.randn(size, 16, generator=generator) for size in (n, k))
    assert shortlist(z, table) is not None
    assert torch.equal(shortlist(z, table), reference(z, table))


def test_it_parts_codes_that_bfloat16_cannot() -> None:
    torch.manual_seed(0)
    centres = torch.randn(1000, 64)
    # Three versions of each, a thousandth apart; a step of bfloat16 is up to eight thousandths.
    table = torch.cat([centres + 1e-3 * torch.randn_like(centres) for _ in range(3)])
    z = centres[torch.randint(len(centres), (300,))] + 0.3 * torch.randn(300, 64)
    nearest = reference(z, table)
    bias = -0.5 * table.square().sum(1)
    rounded = F.linear(z.bfloat16(), table.bfloat16(), bias.bfloat16()).argmax(1)
    assert float((rounded == nearest).float().mean()) < 0.9  # or this test would say nothing
    assert torch.equal(shortlist(z, table), nearest)


def test_the_worst_that_rounding_can_do_is_within_the_bound() -> None:
    """Of two codes every product of the one loses, and every product of the other gains."""
    low, high = 1 + 0.99 * 2.0**-8, 1 + 1.01 * 2.0**-8  # round to 1 and to 1 + 2^-7
    z, near = torch.zeros(1, 258), torch.zeros(2, 258)
    z[:, :128], near[0, :128] = low, 2 * low
    z[:, 128:256], near[1, 128:256] = high, 2 * high
    near[1, 256] = 0.01  # the second is a little further away
    bias = -0.5 * near.square().sum(1)
    scores = F.linear(z.bfloat16(), near.bfloat16(), bias.bfloat16()).float()
    assert float(scores[0, 1] - scores[0, 0]) > 3
    table = centred(near, 6.0)
    assert reference(z, table).tolist() == [0]
    found = shortlist(z, table)
    assert found is not None
    assert found.tolist() == [0]


def test_what_the_scores_lose_is_within_the_bound() -> None:
    """Vectors without rounding: what is left is that of their norms and of the sums."""
    torch.manual_seed(0)
    z, near = (torch.randn(size, 3).bfloat16().float() for size in (2000, 30))
    z[:, -1] = near[:, -1] = 0.0
    table = centred(near, 4.0)
    found = shortlist(z, table)
    assert found is not None
    assert torch.equal(found, reference(z, table))


def test_what_the_bias_loses_is_within_the_bound() -> None:
    """Codes near 2z, whose products and biases cancel: scores are small, and lose little."""
    torch.manual_seed(0)
    z = torch.tensor([[1.4, 0.7, 0.3, 0.1, 0.0]]).bfloat16().float()
    wrong = 0
    for _ in range(20):
        near = (2 * z + torch.empty(20, 5).uniform_(-0.05, 0.05)).bfloat16().float()
        near[:, -1] = 0.0
        table = centred(near, 0.5)
        bias = -0.5 * table.square().sum(1)
        rounded = F.linear(z.bfloat16(), table.bfloat16(), bias.bfloat16()).argmax(1)
        wrong += int(rounded != reference(z, table))
        assert torch.equal(shortlist(z, table), reference(z, table))
    assert wrong > 0


def test_norms_lost_to_underflow_are_within_the_bound() -> None:
    """As the worst above, with codes whose squares are 0 in float32."""
    low, high, tiny = 1 + 0.99 * 2.0**-8, 1 + 1.01 * 2.0**-8, 2.0**-84
    z, near = torch.zeros(1, 258), torch.zeros(2, 258)
    z[:, :128], near[0, :128] = low, tiny * low
    z[:, 128:256], near[1, 128:256] = high, tiny * high
    z[:, 256], near[0, 256] = 1.0, tiny / 32
    table = centred(near, tiny)
    assert (table.double() @ z[0].double()).argmax() == 0
    assert F.linear(z.bfloat16(), table.bfloat16()).argmax() == 1
    found = shortlist(z, table)
    assert found is None or found.tolist() == [0]


@pytest.mark.parametrize("z_scale", [1e-25, 1e-12, 1e-3, 1e3, 1e12])
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e-3, 1e3, 1e12])
def test_it_is_the_nearest_at_any_scale_or_says_none(z_scale: float, scale: float) -> None:
    """Squares of 1e-25 are 0 in float32."""
    torch.manual_seed(0)
    z, table = z_scale * torch.randn(50, 32), scale * torch.randn(200, 32)
    found = shortlist(z, table)
    assert found is None or torch.equal(found, reference(z, table))
    if 1e-12 <= z_scale == scale:
        assert found is not None


def test_what_all_have_in_common_does_not_matter() -> None:
    """A net's vectors lie far from 0 and near each other."""
    torch.manual_seed(0)
    z, table = 100 + torch.randn(50, 32), 100 + torch.randn(300, 32)
    found = shortlist(z, table)
    assert found is not None
    assert torch.equal(found, reference(z, table))


def test_one_long_code_or_row_spoils_nothing() -> None:
    torch.manual_seed(0)
    z, table = torch.randn(50, 32), torch.randn(200, 32)
    z[3] *= 1e4
    table[5] *= 3
    assert torch.equal(shortlist(z, table), reference(z, table))


def test_of_equals_the_lowest_wins() -> None:
    torch.manual_seed(0)
    table = torch.randn(300, 16).repeat(4, 1)[torch.randperm(1200)]
    z = torch.randn(100, 16)
    assert torch.equal(shortlist(z, table), reference(z, table))


def test_many_codes_about_equally_near_give_none() -> None:
    torch.manual_seed(0)
    table = 1 + 1e-4 * torch.randn(4096, 16)
    table[::2] *= -1
    assert shortlist(torch.randn(20, 16), table) is None


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("side", ["z", "table"])
def test_what_is_not_finite_gives_none(bad: float, side: str) -> None:
    z, table = torch.zeros(20, 4), torch.ones(CODES + 200, 4)
    (z if side == "z" else table)[-1, 2] = bad
    assert shortlist(z, table) is None
