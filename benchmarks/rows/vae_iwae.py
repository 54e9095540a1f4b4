"""IWAE-500 of binary images, by pythae's ``get_nll`` and by ours, with the same network."""

from __future__ import annotations

import copy
from importlib import metadata
from typing import Any

import torch
from harness import Row, interleave, timed_row
from kexue_vae import VAE, VAEConfig, binarize
from torch import Tensor, nn

SAMPLES = 500
LATENT = 16
#: Images of one call: the peer takes one after the other anyway.
IMAGES = {"MLP": 8, "conv net": 1}
#: Samples that the peer decodes at once: its default, and all of them. Its faster one counts.
PEER_BATCHES = (100, SAMPLES)
BARS = {"MLP": 2.0, "conv net": 1.0}


class Encoder(nn.Module):
    """A peer's encoder as ours: mean and log-variance side by side."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        found = self.encoder(x)
        return torch.cat([found.embedding, found.log_covariance], dim=1)


def peer_of(net: str) -> Any:
    """pythae's VAE with its default perceptrons, or with its convolutional nets for MNIST."""
    from pythae import models
    from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST

    config = models.VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    if net == "MLP":
        return models.VAE(config).eval()
    return models.VAE(
        config, encoder=Encoder_Conv_VAE_MNIST(config), decoder=Decoder_Conv_AE_MNIST(config)
    ).eval()


def ours_of(peer: Any) -> VAE:
    """Our VAE around a copy of the peer's networks, the decoder's sigmoid left out."""
    vae = VAE(VAEConfig(latent=LATENT))
    vae.encoder = Encoder(copy.deepcopy(peer.encoder))
    layers: list[nn.Module] = []
    for block in copy.deepcopy(peer.decoder).layers:
        layers += block if isinstance(block, nn.Sequential) else [block]
        if isinstance(block, nn.Linear):  # the convolutional decoder reshapes between its layers
            layers.append(nn.Unflatten(1, (-1, 4, 4)))
    assert isinstance(layers.pop(), nn.Sigmoid)
    vae.decoder = nn.Sequential(*layers)
    return vae.eval()


@torch.no_grad()
def measure() -> list[Row]:
    torch.set_num_threads(1)
    version = f"pythae {metadata.version('pythae')}"
    rows = []
    for net, images in IMAGES.items():
        torch.manual_seed(0)
        peer = peer_of(net)
        vae = ours_of(peer)
        x = binarize(torch.rand(images, 1, 28, 28), seed=0)
        # Before anything is timed: both estimate the same number.
        ours, theirs = float(vae.log_prob(x, samples=SAMPLES).mean()), peer.get_nll(x, SAMPLES)
        rows.append(
            Row(
                what=f"VAE {net} with the weights of {version}, IWAE-{SAMPLES} of {images} "
                "binary images: difference",
                ours=abs(ours - float(theirs)),
                unit="nats",
                bar=0.5,  # two Monte-Carlo estimates, of a network that learned nothing
                kind="at most",
                judged="ours",
            )
        )
        timing = interleave(
            {
                "ours": lambda vae=vae, x=x: vae.log_prob(x, samples=SAMPLES),
                **{
                    f"peer {size}": lambda peer=peer, x=x, size=size: peer.get_nll(
                        x, SAMPLES, batch_size=size
                    )
                    for size in PEER_BATCHES
                },
            },
            rounds=9,
        )
        best = min(PEER_BATCHES, key=lambda size: timing.median(f"peer {size}"))
        rows.append(
            timed_row(
                timing,
                f"IWAE-{SAMPLES} of {images} binary 28x28 images, {net}, float32 "
                f"(peer: {best} samples at once)",
                "ours",
                f"peer {best}",
                peer=version,
                bar=BARS[net],
            )
        )
    return rows
