"""Arguments to try each loss with, as the specs name them."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

__all__ = ["critic", "generator_model", "scores", "weight"]


def scores(generator: Generator) -> tuple[Tensor, Tensor]:
    """Scores of four real and four generated images, none at a kink of the hinge."""
    drawn = torch.randn(2, 4, generator=generator)
    real, fake = drawn.requires_grad_().unbind()
    return real.detach().requires_grad_(), fake.detach().requires_grad_()


def critic(generator: Generator) -> tuple[nn.Module, Tensor, Tensor]:
    """A smooth critic, and four real and generated images of one grey 4x4."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for parameter in net.parameters():
            # Of moderate slopes: WGAN-div takes their sixth power, which float16 must hold.
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    images = torch.rand(2, 4, 1, 4, 4, generator=generator)
    return net, images[0].requires_grad_(), images[1]


def weight(generator: Generator) -> tuple[Tensor]:
    """A matrix whose largest singular value stands well apart, so that 16 rounds find it."""
    matrix = 0.1 * torch.randn(5, 7, generator=generator)
    matrix[0] += 1.0
    return (matrix.requires_grad_(),)


def generator_model() -> nn.Module:
    """A small generator to sample from."""
    from kexue_sngan.cnn import CNNGenerator, SNGANCNNConfig

    config = SNGANCNNConfig(size=8, channels=1, latent=8, width=4, critic_width=4, levels=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CNNGenerator(config).eval()
