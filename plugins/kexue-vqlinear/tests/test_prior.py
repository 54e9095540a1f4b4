"""The prior over codes, its sampler, and the codec that it requires."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from kexue_vqlinear import CodePrior, CodePriorConfig, VQAutoencoder, VQAutoencoderConfig
from kexue_vqlinear.prior import draw
from kexue_vqlinear.sampler import code_prior, code_prior_example

import kexue_core as kexue
from kexue_core.errors import ConfigError, UnsupportedError, WeightsFormatError


def make(**settings: object) -> CodePrior:
    """A tiny prior, its parameters large enough for codes to depend on each other."""
    torch.manual_seed(0)
    sizes = {"shape": (2, 2), "num_embeddings": 3, "width": 8, "depth": 2, "heads": 2}
    prior = CodePrior(CodePriorConfig(**{**sizes, **settings}))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior.eval()


def codec(**settings: object) -> VQAutoencoder:
    torch.manual_seed(1)
    sizes = {"size": 8, "num_embeddings": 16, "dim": 8, "hidden": (8, 8), "blocks": 1}
    return VQAutoencoder(VQAutoencoderConfig(**{**sizes, **settings})).eval()  # type: ignore[arg-type]


def every_grid() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)


def test_the_probabilities_of_all_grids_sum_to_one() -> None:
    total = make().double().log_prob(every_grid()).exp().sum()
    assert float(total.detach()) == pytest.approx(1, abs=1e-12)


def test_no_code_sees_itself_or_a_later_one() -> None:
    prior = make(shape=(3, 4), num_embeddings=5).double()
    codes = torch.randint(5, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    logits = prior(codes).flatten(1, 2)
    for i in range(12):
        other = codes.flatten(1).clone()
        other[:, i:] = (other[:, i:] + 1) % 5
        changed = (prior(other.view(2, 3, 4)).flatten(1, 2) - logits).abs().amax(-1) > 1e-12
        assert not changed[:, : i + 1].any()
        assert changed[:, i + 1 :].all()


def test_drawn_grids_have_the_probabilities_of_the_model() -> None:
    """The cache of sampling agrees with the forward pass over whole grids."""
    prior, n = make(), 20_000
    codes = prior.sample_codes(n, generator=torch.Generator().manual_seed(0))
    number = (codes.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)
    shares = torch.bincount(number, minlength=81) / n
    p = prior.log_prob(every_grid()).exp().detach()
    # Chi-square with 80 degrees of freedom: mean 80, deviation 12.6; six deviations.
    assert float((n * (shares - p).square() / p).sum()) < 80 + 6 * 12.7


def test_temperature_and_top_k_sharpen() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0]]).expand(1000, -1)
    uniform = (torch.arange(1000) + 0.5) / 1000  # evenly spread: shares are exact to 1/1000

    def shares(**options: float) -> list[float]:
        codes = draw(logits, uniform, **options)  # type: ignore[arg-type]
        return (torch.bincount(codes, minlength=4) / 1000).tolist()

    assert shares() == pytest.approx(logits[0].softmax(0).tolist(), abs=2e-3)
    assert shares(temperature=0.5) == pytest.approx((2 * logits[0]).softmax(0).tolist(), abs=2e-3)
    two = logits[0, 2:].softmax(0).tolist()
    assert shares(top_k=2) == pytest.approx([0, 0, *two], abs=2e-3)
    assert shares(temperature=0) == shares(top_k=1) == [0, 0, 1, 0]
    assert shares(top_k=100) == shares()


def test_the_ends_of_the_unit_interval_give_a_class() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(2, -1)
    almost_one = torch.nextafter(torch.ones(1).double(), torch.zeros(1).double())
    uniform = torch.cat([torch.zeros(1).double(), almost_one])
    assert draw(logits, uniform).tolist() == [1, 1]


def test_samples_need_a_codec() -> None:
    prior = make(num_embeddings=16)
    with pytest.raises(UnsupportedError, match="has no codec"):
        code_prior(prior, 2, generator=torch.Generator())
    for wrong in ([], [codec(), codec()], [torch.nn.Linear(2, 2)]):
        with pytest.raises(ValueError, match="exactly one codec"):
            prior.attach(wrong)
    for other in (codec(num_embeddings=32), codec(size=16)):
        with pytest.raises(ValueError, match="the codec's codes are"):
            prior.attach([other])


def test_the_codec_is_no_part_of_the_prior() -> None:
    prior = make(num_embeddings=16)
    before = list(prior.state_dict())
    mine = codec()
    prior.attach([mine])
    assert list(prior.state_dict()) == before
    assert not {id(p) for p in mine.parameters()} & {id(p) for p in prior.parameters()}
    prior.double()  # but it comes along
    assert {p.dtype for p in mine.parameters()} == {torch.float64}
    codes = prior.sample_codes(2, generator=torch.Generator())
    assert torch.equal(prior.from_codes(codes), mine.from_codes(codes))


@pytest.mark.parametrize(
    "options", [{"n": -1}, {"batch_size": 0}, {"temperature": -1.0}, {"top_k": -1}]
)
def test_wrong_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Cannot draw"):
        code_prior(code_prior_example(), **{"n": 2, "generator": torch.Generator(), **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "codes",
    [
        torch.full((1, 2, 2), 3),
        torch.full((1, 2, 2), -1),
        torch.zeros(1, 2, 3, dtype=torch.long),
        torch.zeros(1, 2, 2),
        torch.zeros(2, 2, dtype=torch.long),
    ],
)
def test_wrong_codes_are_refused(codes: torch.Tensor) -> None:
    prior = make()
    for method in (prior, prior.log_prob):
        with pytest.raises(ValueError, match="codes must be"):
            method(codes)


@pytest.mark.parametrize(
    "settings",
    [{"shape": (2,)}, {"shape": (0, 2)}, {"heads": 3}, {"dropout": 1.0}, {"num_embeddings": 0}],
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|multiple"):
        make(**settings)


def test_saved_weights_come_back_with_their_codec(tmp_path: Path) -> None:
    mine, prior = codec(), make(num_embeddings=16)
    home = kexue.save(mine, tmp_path / "codec")
    sampler = ("code-prior", {"temperature": 0.8})
    kexue.save(prior, tmp_path / "prior", sampler=sampler, requires=[f"file:{home}"])
    loaded = kexue.load(f"file:{tmp_path / 'prior'}")
    prior.attach([mine])
    images = kexue.sample(loaded, 3, seed=4)
    assert images.shape == (3, 3, 8, 8)
    torch.testing.assert_close(images, kexue.sample(prior, 3, seed=4, temperature=0.8))

    kexue.save(codec(num_embeddings=32), tmp_path / "codec")
    with pytest.raises(WeightsFormatError, match=r"does not fit file:.*which it requires"):
        kexue.load(f"file:{tmp_path / 'prior'}")
