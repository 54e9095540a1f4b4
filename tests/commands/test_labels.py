"""Asking a conditional model for classes, through the sampler that all models share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kexue_core.errors import ConfigError
from kexue_core.samplers.latent_prior import latent_prior


class Labelled:
    """Data are (2,): the class over ten, and noise."""

    def prior(self, n, *, temperature=1.0, condition=None, generator=None) -> Tensor:
        noise = torch.rand(n, 1, generator=generator)
        labels = torch.zeros(n, dtype=torch.int64) if condition is None else condition
        if bool((labels > 9).any()):
            raise ValueError("labels must be in 0..9")
        return torch.cat([labels[:, None] / 10, temperature * noise], dim=1)

    def decode(self, latent: Tensor) -> Tensor:
        return latent


class Unconditional(Labelled):
    def prior(self, n, *, temperature=1.0, condition=None, generator=None) -> Tensor:
        if condition is not None:
            raise ValueError("this model is unconditional")
        return super().prior(n, temperature=temperature, generator=generator)


def draw(n: int, model: object = None, **options: object) -> Tensor:
    return latent_prior(
        model or Labelled(), n, generator=torch.Generator().manual_seed(0), **options
    )


def test_one_label_is_that_of_all_samples_and_several_come_in_turn() -> None:
    assert draw(3, labels=7)[:, 0].tolist() == pytest.approx([0.7] * 3)
    assert draw(5, labels=[1, 2])[:, 0].tolist() == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.1])
    assert torch.equal(draw(5, labels=[1, 2])[:, 1], draw(5)[:, 1])  # the same noise


def test_neither_batches_nor_their_number_change_a_sample() -> None:
    whole = draw(7, labels=[3, 1, 4])
    assert torch.equal(draw(7, labels=[3, 1, 4], batch_size=2), whole)
    assert torch.equal(draw(4, labels=[3, 1, 4]), whole[:4])
    assert draw(0, labels=3).shape == (0, 2)


@pytest.mark.parametrize("labels", ["shirt", 1.5, [], [0.5], True, [True], {"a": 1}])
def test_what_is_no_label_is_refused(labels: object) -> None:
    with pytest.raises(ConfigError, match="labels must be a class such as 3"):
        draw(2, labels=labels)


def test_a_model_says_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match=r"labels=10: labels must be in 0\.\.9"):
        draw(2, labels=10)
    with pytest.raises(ConfigError, match="labels=3: this model is unconditional"):
        draw(2, Unconditional(), labels=3)
    with pytest.raises(ConfigError, match="one of the two"):
        draw(1, labels=1, condition=torch.tensor([1]))
    # A fault of the model itself is not dressed up as the user's.
    with pytest.raises(ValueError, match="unconditional"):
        draw(1, Unconditional(), condition=torch.tensor([1]))
