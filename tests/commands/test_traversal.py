"""Walks along the dimensions of a latent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kexue_core.errors import ConfigError, UnsupportedError
from kexue_core.samplers.latent_traversal import latent_traversal

#: How much each latent number moves the datum that it owns.
GAINS = torch.tensor([0.01, 0.1, 0.03])


class Three:
    """Data are (3,), each a sigmoid of one latent number around 1."""

    def prior(self, n, *, temperature=1.0, condition=None, generator=None) -> Tensor:
        return 1 + temperature * torch.randn(n, 3, generator=generator)

    def decode(self, latent: Tensor) -> Tensor:
        return (latent * GAINS).sigmoid()


def walk(n: int, model: object = None, seed: int = 0, **options: object) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return latent_traversal(model or Three(), n, generator=generator, **options)


def test_a_row_moves_one_dimension_and_the_most_active_comes_first() -> None:
    rows = walk(15, points=5, reach=2.0).view(3, 5, 3)
    for row, dimension in zip(rows, (1, 2, 0), strict=True):
        still = [d for d in range(3) if d != dimension]
        assert torch.equal(row[:, still], row[:1, still].expand(5, 2))
        expected = ((1 + torch.tensor([-2.0, -1, 0, 1, 2])) * GAINS[dimension]).sigmoid()
        torch.testing.assert_close(row[:, dimension], expected)
    later = walk(10, points=5, reach=2.0, first=1).view(2, 5, 3)
    torch.testing.assert_close(later, rows[1:])


def test_it_starts_from_a_draw_of_the_prior() -> None:
    cold = walk(3, points=3)
    torch.testing.assert_close(walk(3, points=3, seed=1), cold)
    assert not torch.allclose(walk(3, points=3, temperature=1.0), cold)
    assert walk(0).shape == (0, 3)


@pytest.mark.parametrize(
    "options", [{"points": 1}, {"reach": 0.0}, {"reach": float("nan")}, {"first": -1}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="points >= 2, reach > 0"):
        walk(4, **options)


def test_codes_and_levels_have_no_axes() -> None:
    class Codes(Three):
        def prior(self, n, **options) -> Tensor:
            return torch.zeros(n, 3, dtype=torch.int64)

    class Levels(Three):
        def prior(self, n, **options) -> tuple[Tensor, ...]:
            return (torch.zeros(n, 3), torch.zeros(n, 3))

    for model in (Codes(), Levels()):
        with pytest.raises(UnsupportedError, match="vectors of real numbers"):
            walk(4, model)
