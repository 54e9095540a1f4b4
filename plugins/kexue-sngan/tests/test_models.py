"""Generators and discriminators: the paper's sizes, ranges, truncation."""

import pytest
import torch
from kexue_sngan.cnn import CNNDiscriminator, CNNGenerator, SNGANCNNConfig
from kexue_sngan.resnet import ResNetDiscriminator, ResNetGenerator, SNGANResNetConfig
from kexue_sngan.truncation import truncate, truncated_prior

from kexue_core.errors import ConfigError

PAIRS = [
    (SNGANCNNConfig, CNNGenerator, CNNDiscriminator),
    (SNGANResNetConfig, ResNetGenerator, ResNetDiscriminator),
]


def test_the_default_networks_have_the_sizes_of_the_paper():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        cnn, resnet = SNGANCNNConfig(), SNGANResNetConfig()
        # 3x3(3, 64), 4x4(64, 64), ..., 3x3(256, 512), 8192 -> 1, with biases
        widths = [(3, 64, 3), (64, 64, 4), (64, 128, 3), (128, 128, 4)]
        widths += [(128, 256, 3), (256, 256, 4), (256, 512, 3)]
        expected = sum(i * o * k * k + o for i, o, k in widths) + 512 * 16 + 1
        assert count(CNNDiscriminator(cnn)) == expected  # 2.94 million
        # 3 blocks of 256: the figures of the authors' own networks
        assert count(ResNetGenerator(resnet)) == pytest.approx(4.27e6, rel=0.01)
        assert count(ResNetDiscriminator(resnet)) == pytest.approx(1.05e6, rel=0.01)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("size", "levels", "channels"), [(28, 2, 1), (32, 3, 3), (64, 4, 3)])
def test_shapes_and_ranges(pair, size, levels, channels):
    config_class, generator_class, critic_class = pair
    config = config_class(
        size=size, channels=channels, latent=5, width=4, critic_width=4, levels=levels
    )
    torch.manual_seed(0)
    generator, critic = generator_class(config), critic_class(config)
    z = generator.prior(3, generator=torch.Generator().manual_seed(0))
    images = generator(z)
    assert images.shape == (3, channels, size, size)
    assert -1 <= images.min() < images.max() <= 1
    assert critic(images).shape == (3,)
    torch.testing.assert_close(generator.eval().decode(z), (generator(z) + 1) / 2)


@pytest.mark.parametrize("config_class", [SNGANCNNConfig, SNGANResNetConfig])
def test_sizes_that_do_not_halve_are_refused(config_class):
    with pytest.raises(ValueError, match="multiple"):
        config_class(size=30, levels=2)
    with pytest.raises(ValueError, match="at least 1"):
        config_class(width=0)


def test_a_generator_takes_no_condition():
    generator = CNNGenerator(SNGANCNNConfig(size=8, width=4, levels=2))
    with pytest.raises(ValueError, match="condition"):
        generator.prior(1, condition=torch.zeros(1))


def test_truncation_keeps_the_order_and_the_quantiles():
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    found = truncate(z, 1.0)
    assert found.abs().max() <= 1
    assert found[z.argsort()].diff().min() >= 0
    # deviation of the standard normal truncated to [-1, 1]: sqrt(1 - 2 phi(1) / (2 Phi(1) - 1))
    assert float(found.std()) == pytest.approx(0.5396, abs=3e-3)
    torch.testing.assert_close(truncate(z, 30.0), z, rtol=1e-5, atol=1e-6)
    far = truncate(torch.tensor([-40.0, -9.0, 0.0, 9.0, 40.0]), 2.0)
    torch.testing.assert_close(far, torch.tensor([-2.0, -2.0, 0.0, 2.0, 2.0]))


def test_truncated_samples_are_the_same_in_any_batches():
    torch.manual_seed(0)
    config = SNGANCNNConfig(size=8, channels=1, latent=6, width=4, critic_width=4, levels=2)
    model = CNNGenerator(config).eval()

    def draw(n, **options):
        return truncated_prior(model, n, generator=torch.Generator().manual_seed(3), **options)

    # Kernels for other batches add up in another order.
    torch.testing.assert_close(draw(5, batch_size=2), draw(5), rtol=0, atol=1e-6)
    torch.testing.assert_close(draw(5)[:1], draw(1), rtol=0, atol=1e-6)
    assert not torch.equal(draw(5, truncation=0.3), draw(5))
    assert draw(0).shape == (0, 1, 8, 8)
    with pytest.raises(ConfigError, match="truncation"):
        draw(1, truncation=0.0)
