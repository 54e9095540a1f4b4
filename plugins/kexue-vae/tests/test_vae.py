"""The models: shapes, seeds, classes, and what they refuse."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kexue_vae import (
    CVAE,
    VAE,
    ClusterVAE,
    ClusterVAEConfig,
    CVAEConfig,
    GumbelVAE,
    GumbelVAEConfig,
    VAEConfig,
    binarize,
)

SMALL = {"size": 8, "latent": 3, "widths": (16,)}
MODELS: dict[str, tuple[Any, Any]] = {
    "vae": (VAE, VAEConfig(**SMALL)),
    "conv": (VAE, VAEConfig(**{**SMALL, "channels": 3, "net": "conv", "widths": (4, 8)})),
    "cvae": (CVAE, CVAEConfig(**SMALL, classes=4)),
    "cluster": (ClusterVAE, ClusterVAEConfig(**SMALL, clusters=4, hidden=8)),
    "gumbel": (GumbelVAE, GumbelVAEConfig(**SMALL, categories=4)),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=MODELS)
def model(request) -> VAE:
    factory, config = MODELS[request.param]
    return factory(config).eval()


def images(model: VAE, n: int) -> torch.Tensor:
    return binarize(torch.rand(n, *model.data_shape), seed=0)


def labels_of(model: VAE, n: int) -> torch.Tensor | None:
    return torch.arange(n) % 4 if isinstance(model, CVAE) else None


@pytest.mark.parametrize("n", [0, 1, 5])
def test_shapes(model: VAE, n: int) -> None:
    x = images(model, n)
    terms = model(x, labels_of(model, n), model.noise(n, 7))
    assert terms.log_likelihood.shape == terms.log_weights.shape == (n, 7)
    assert terms.kl.shape[0] == n
    assert model.log_prob(x, samples=6).shape == (n,)
    assert model.bits_per_dim(x).shape == (n,)
    latent = model.to_latent(x)
    assert latent.shape == model.prior(n).shape == (n, 3)
    assert model.decode(latent).shape == x.shape


def test_a_bound_is_the_same_in_any_batch(model: VAE) -> None:
    x = images(model, 6)
    whole = model.log_prob(x, samples=9)
    for part in (slice(0, 1), slice(2, 5)):
        torch.testing.assert_close(model.log_prob(x[part], samples=9), whole[part])


def test_priors_are_drawn_one_after_the_other(model: VAE) -> None:
    def draw(n: int) -> torch.Tensor:
        return model.prior(n, generator=torch.Generator().manual_seed(3))

    assert torch.equal(draw(5)[:2], draw(2))
    generator = torch.Generator().manual_seed(3)
    halves = [model.prior(n, generator=generator) for n in (2, 3)]
    assert torch.equal(torch.cat(halves), draw(5))


@pytest.mark.parametrize("name", ["cvae", "cluster"])
def test_a_condition_moves_the_prior_to_the_centre_of_the_class(name: str) -> None:
    factory, config = MODELS[name]
    model = factory(config).eval()
    centres = model.prior_mean if name == "cvae" else model.centres
    labels = torch.tensor([3, 0, 3])
    cold = model.prior(3, temperature=0.0, condition=labels)
    assert torch.equal(cold, centres[labels])
    drawn = model.prior(20_000, temperature=0.5, condition=torch.full((20_000,), 2))
    # Five standard errors of a mean over 20,000 draws of deviation 0.5.
    assert (drawn.mean(0) - centres[2]).abs().max() < 5 * 0.5 / math.sqrt(20_000)
    assert (drawn.std(0) - 0.5).abs().max() < 0.02
    # Without a condition all classes come up.
    whose = torch.cdist(model.prior(200, temperature=0.0), centres).argmin(1)
    assert whose.unique().tolist() == [0, 1, 2, 3]


def test_log_prob_of_a_label_is_above_that_of_the_mixture_on_average() -> None:
    factory, config = MODELS["cvae"]
    model = factory(config).double().eval()
    x = images(model, 4).double()
    each = torch.stack([model.log_prob(x, torch.full((4,), y), samples=50) for y in range(4)])
    # log p(x) = log mean_y p(x|y), and with common noise so are their estimates.
    torch.testing.assert_close(model.log_prob(x, samples=50), each.logsumexp(0) - math.log(4))


def test_clusters_are_probabilities_and_classify_ranks_them() -> None:
    factory, config = MODELS["cluster"]
    model = factory(config).eval()
    x = images(model, 5)
    probabilities = model.clusters(x)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))
    for row, ranked in zip(probabilities, model.classify(x), strict=True):
        assert int(ranked[0][0]) == int(row.argmax())
        assert len(ranked) == 4


def test_bits_per_dim_are_of_the_binarised_image() -> None:
    factory, config = MODELS["vae"]
    model = factory(config).eval()
    x = images(model, 3)
    expected = -model.log_prob(x) / (64 * math.log(2))
    torch.testing.assert_close(model.bits_per_dim(x), expected)  # nothing is left to draw
    grey = torch.full_like(x, 0.5)
    first = model.bits_per_dim(grey, generator=torch.Generator().manual_seed(1))
    again = model.bits_per_dim(grey, generator=torch.Generator().manual_seed(1))
    other = model.bits_per_dim(grey, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bits_per_dim_of_a_density_are_those_of_its_8_bit_images() -> None:
    # A decoder that says nothing of x: 8 bits, and what N(0.5, 0.4) is worse than uniform.
    config = VAEConfig(**{**SMALL, "likelihood": "gaussian-fixed", "sigma": 0.4})
    model = VAE(config).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        model.decoder[-2].bias.fill_(0.5)
    bits = model.bits_per_dim(torch.rand(50, 1, 8, 8))
    worse = 0.5 * math.log2(2 * math.pi * 0.16) + (1 / 12) / (2 * 0.16) / math.log(2)
    # Five standard errors over 3,200 values, which scatter by 0.34 bits.
    assert float(bits.mean()) == pytest.approx(8 + worse, abs=0.03)


def test_bfloat16_nets_are_for_training_alone() -> None:
    factory, config = MODELS["vae"]
    model = factory(config)
    x, noise = images(model, 4), model.noise(4, 1)
    exact = model(x, None, noise).log_weights
    model.net_dtype = torch.bfloat16
    rounded = model(x, None, noise).log_weights
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=0)  # 8 bits of mantissa
    model.eval()
    assert torch.equal(model(x, None, noise).log_weights, exact)


def test_binarisation_is_a_function_of_the_image_s_place_and_the_seed() -> None:
    grey = torch.rand(10, 1, 8, 8)
    once = binarize(grey, seed=4)
    assert set(once.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(once[:3], binarize(grey[:3], seed=4))
    assert not torch.equal(once, binarize(grey, seed=5))
    assert torch.equal(binarize(once, seed=6), once)
    many = binarize(torch.full((1, 1, 300, 300), 0.3), seed=0)
    assert float(many.mean()) == pytest.approx(0.3, abs=5 * 0.46 / 300)  # five standard errors


# What is refused.


@pytest.mark.parametrize("method", ["forward", "log_prob", "bits_per_dim", "to_latent"])
def test_wrong_images_are_refused(model: VAE, method: str) -> None:
    call = getattr(model, method)
    channels, size, _ = model.data_shape
    wrong_channels = torch.zeros(2, channels + 1, size, size)
    for bad in (wrong_channels, torch.zeros(2, channels, size, size + 1), torch.zeros(channels)):
        with pytest.raises(ValueError, match=rf"images must be \(n, {channels}, 8, 8\), not"):
            call(bad)
    for value in (-0.1, 1.5, math.nan, math.inf):
        bad = images(model, 2)
        bad[1, 0, 3, 3] = value
        with pytest.raises(ValueError, match=r"images must be in \[0, 1\]"):
            call(bad)


def test_grey_images_have_no_bernoulli_likelihood(model: VAE) -> None:
    grey = torch.full((2, *model.data_shape), 0.5)
    for call in (model.log_prob, model):
        with pytest.raises(ValueError, match="binarize"):
            call(grey)
    model.to_latent(grey)  # encoding is no likelihood


def test_options_out_of_range_are_refused(model: VAE) -> None:
    x = images(model, 2)
    for options in ({"samples": 0}, {"max_rows": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            model.log_prob(x, **options)
    with pytest.raises(ValueError, match="temperature"):
        model.prior(1, temperature=-1)
    with pytest.raises(ValueError, match="temperature"):
        model.prior(1, temperature=math.nan)
    with pytest.raises(ValueError, match="latents must be"):
        model.decode(model.prior(2)[:, :2])


@pytest.mark.parametrize("name", ["vae", "gumbel"])
def test_unconditional_models_refuse_a_condition(name: str) -> None:
    factory, config = MODELS[name]
    model = factory(config).eval()
    for call in (
        lambda c: model.prior(2, condition=c),
        lambda c: model.log_prob(images(model, 2), c),
        lambda c: model(images(model, 2), c),
    ):
        with pytest.raises(ValueError, match="unconditional"):
            call(torch.tensor([0, 1]))


def test_labels_that_are_none_are_refused() -> None:
    factory, config = MODELS["cvae"]
    model = factory(config).eval()
    x = images(model, 2)
    for bad, message in (
        (torch.tensor([0, 4]), r"labels must be in 0\.\.3, got 0\.\.4"),
        (torch.tensor([-1, 0]), r"labels must be in 0\.\.3"),
        (torch.tensor([0.0, 1.0]), "whole numbers"),
        (torch.tensor([[0], [1]]), r"whole numbers|labels must be \(2,\)"),
    ):
        for call in (
            lambda c: model(x, c),
            lambda c: model.log_prob(x, c),
            lambda c: model.prior(2, condition=c),
        ):
            with pytest.raises(ValueError, match=message):
                call(bad)
    with pytest.raises(ValueError, match="needs labels"):
        model(x)
    with pytest.raises(ValueError, match="1 conditions for 2 images"):
        model.log_prob(x, torch.tensor([1]))


def test_categories_that_are_none_are_refused() -> None:
    factory, config = MODELS["gumbel"]
    model = factory(config).eval()
    for bad in (torch.tensor([[0, 1, 4]]), torch.tensor([[-1, 0, 0]])):
        with pytest.raises(ValueError, match=r"categories must be in 0\.\.3"):
            model.decode(bad)
    with pytest.raises(ValueError, match="whole numbers"):
        model.decode(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"latent": 0}, "latent must be at least 1"),
        ({"net": "transformer"}, "net must be one of mlp, conv"),
        ({"likelihood": "mse"}, "likelihood must be one of bernoulli"),
        ({"widths": (0,)}, "widths must be at least 1"),
        ({"net": "conv", "size": 10, "widths": (4, 8)}, r"multiple of 2\*\*2"),
        ({"net": "conv", "widths": ()}, "no widths"),
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"sigma": math.nan}, "sigma must be above 0"),
    ],
)
def test_configs_that_make_no_model_are_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEConfig(**settings)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (CVAEConfig, {"classes": 0}, "classes must be at least 1"),
        (ClusterVAEConfig, {"clusters": 0}, "clusters must be at least 1"),
        (GumbelVAEConfig, {"categories": 1}, "categories must be at least 2"),
        (CVAEConfig, {"latent": 0}, "latent must be at least 1"),
    ],
)
def test_so_are_those_of_the_other_models(config, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_the_package_imports_no_torch() -> None:
    code = "import sys, kexue_vae, kexue_vae.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_mathematics_runs_without_kexue(tmp_path: Path) -> None:
    """Copied out, the files of the model need torch alone."""
    import kexue_vae.vae

    source = Path(kexue_vae.vae.__file__).parent
    folder = tmp_path / "kexue_vae"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in ("vae", "likelihoods", "networks", "cvae", "centres", "cluster", "gumbel"):
        text = (source / f"{name}.py").read_text(encoding="utf-8")
        assert "kexue_core" not in text
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    code = (
        "import sys, torch; sys.modules['kexue_core'] = None\n"
        "from kexue_vae.vae import VAE, VAEConfig, binarize\n"
        "vae = VAE(VAEConfig(size=8, widths=(32,), latent=4)).eval()\n"
        "x = binarize(torch.rand(5, 1, 8, 8), seed=0)\n"
        "assert vae.log_prob(x, samples=50).shape == (5,)\n"
        "assert vae.decode(vae.prior(3)).shape == (3, 1, 8, 8)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path)
    assert done.returncode == 0
