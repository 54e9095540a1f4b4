"""The search over codes, against all distances in float64."""

from __future__ import annotations

import importlib

import pytest
import torch
from kexue_vqlinear.nearest import CODES, GROUP, ROWS, NotFiniteError, nearest
from torch import Tensor


@pytest.fixture(params=["float32 alone", "shortlist first"])
def both_searches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this processor is good at, each search is tried at every size."""
    first = request.param == "shortlist first"
    # The function of the module's name hides the module in the package.
    module = importlib.import_module("kexue_vqlinear.nearest")
    monkeypatch.setattr(module, "is_worth_it", lambda z, table: first and z.dtype == torch.float32)


def reference(z: Tensor, table: Tensor) -> Tensor:
    return (z.double()[:, None] - table.double()[None]).square().sum(-1).argmin(1)


@pytest.mark.parametrize("n", [1, 15, 16, 33, ROWS + 16])
@pytest.mark.parametrize("k", [1, 3, GROUP, 2 * GROUP, 3 * GROUP + 5, CODES + 1, 2 * CODES])
def test_it_is_the_nearest(n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(n * k)
    z, table = (torch.randn(size, 8, generator=generator) for size in (n, k))
    # In float64 no two of so few random distances are near enough to be confused by rounding.
    assert torch.equal(nearest(z.double(), table.double()), reference(z, table))


@pytest.mark.usefixtures("both_searches")
@pytest.mark.parametrize("n", [512, 7])
def test_float32_is_the_nearest_but_for_its_rounding(n: int) -> None:
    torch.manual_seed(0)
    z, table = torch.randn(n, 32), torch.randn(4096, 32)
    found = nearest(z, table)
    distance = (z.double() - table[found].double()).square().sum(1)
    least = (z.double() - table[reference(z, table)].double()).square().sum(1)
    # Scores of the size of 30 with 32 terms each: a few units in the last place of float32.
    assert float((distance - least).max()) < 1e-4


@pytest.mark.usefixtures("both_searches")
@pytest.mark.parametrize("n", [1, 16, 512])
@pytest.mark.parametrize("copies", [2, 5])
def test_of_equals_the_lowest_wins(n: int, copies: int) -> None:
    """Whole numbers, whose products and sums have no rounding: ties are exact."""
    torch.manual_seed(0)
    table = torch.randint(-3, 4, (1000, 4)).float().unique(dim=0)
    z = torch.randint(-6, 7, (n, 4)).float() / 2  # half-way between codes, too
    many = table.repeat(copies, 1)
    found = nearest(z, many)
    distance = (z[:, None] - many).square().sum(-1)
    lowest = (distance == distance.min(1, keepdim=True).values).int().argmax(1)
    assert torch.equal(found, lowest)


@pytest.mark.usefixtures("both_searches")
def test_a_block_without_groups_has_the_same_rule() -> None:
    table = torch.ones(70, 2)
    assert nearest(torch.zeros(3, 2), table).tolist() == [0, 0, 0]


@pytest.mark.usefixtures("both_searches")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("side", ["z", "table"])
def test_what_is_not_finite_is_refused(bad: float, side: str) -> None:
    z, table = torch.zeros(20, 4), torch.ones(200, 4)
    if side == "z":
        z[7, 2] = bad
        if bad == 1e30:
            table *= 1e30
    else:
        table[:, 1] = bad
    with pytest.raises(NotFiniteError, match="NaN, infinite, or too large") as caught:
        nearest(z, table)
    # The first is what a caller expects, the second what ends a training.
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FloatingPointError)


@pytest.mark.usefixtures("both_searches")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, CODES + 3, 2 * CODES + 7])
def test_one_bad_code_among_many_is_refused(bad: float, place: int) -> None:
    table = torch.ones(2 * CODES + 8, 2)
    table[place, 0] = bad
    with pytest.raises(ValueError, match="NaN, infinite, or too large"):
        nearest(torch.ones(3, 2), table)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_searched_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    z, table = torch.randn(64, 16, dtype=dtype), torch.randn(300, 16, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest(z, table)
    assert torch.equal(found, reference(z, table))


def test_drawn_codes_follow_their_distribution() -> None:
    table = torch.tensor([[0.0], [1.0], [2.0]])
    z = torch.full((20_000, 1), 0.8)
    expected = torch.softmax(-(table[:, 0] - 0.8).square() / 0.5, 0)
    generator = torch.Generator().manual_seed(0)
    codes = nearest(z, table, temperature=0.5, generator=generator)
    shares = torch.bincount(codes, minlength=3) / len(z)
    # Five standard errors of a share among 20,000.
    assert float((shares - expected).abs().max()) < 5 * 0.5 / 20_000**0.5


def test_no_rows_give_no_codes() -> None:
    assert nearest(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0,)
