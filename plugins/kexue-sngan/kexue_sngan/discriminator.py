"""The discriminator beside the published generator: ``discriminator.safetensors``.

The weights that are published are the generator's, since that is what samples. Who wants to train
on, or to judge samples, finds the discriminator in the same folder: its weights before
normalisation with the singular vectors, as it was trained, under the names of torch's own spectral
norm.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from kexue_core.configs import build_config
from kexue_core.errors import UnsupportedError, WeightsFormatError
from kexue_core.folder import WeightsConfig
from kexue_core.hub import locate
from kexue_sngan.cnn import CNNDiscriminator, SNGANCNNConfig
from kexue_sngan.resnet import ResNetDiscriminator, SNGANResNetConfig
from kexue_sngan.spectral import spectral_norm

__all__ = ["FILE", "load_discriminator", "save_discriminator"]

FILE = "discriminator.safetensors"

#: Model in ``config.json`` -> its config and discriminator.
_KINDS: dict[str, tuple[type, type[nn.Module]]] = {
    "sngan-cnn": (SNGANCNNConfig, CNNDiscriminator),
    "sngan-resnet": (SNGANResNetConfig, ResNetDiscriminator),
}


def load_discriminator(reference: str) -> nn.Module:
    """The discriminator that was trained with published weights, in evaluation mode.

    >>> critic = load_discriminator("sngan-fashion")                          # doctest: +SKIP
    >>> scores = critic(2 * images - 1)                                       # doctest: +SKIP

    :func:`~kexue_sngan.bake` turns it into plain layers.

    Args:
        reference: Weights of an SN-GAN, as ``kexue.load`` takes them.

    Raises:
        UnsupportedError: The weights are no SN-GAN's, or have no discriminator.
        WeightsFormatError: The file does not fit the config.
        KexueError: As :func:`kexue_core.load`.
    """
    folder = locate(reference).folder
    config = WeightsConfig.read(folder)
    if config.model not in _KINDS or not (folder / FILE).is_file():
        raise UnsupportedError(
            f"{reference} has no discriminator", hint="`kexue list sngan` shows weights with one"
        )
    config_class, model_class = _KINDS[config.model]
    critic = spectral_norm(model_class(build_config(config_class, config.config)), warmup=0)
    try:
        state = {name: value.float() for name, value in load_file(folder / FILE).items()}
        critic.load_state_dict(state)
    except (RuntimeError, SafetensorError) as error:
        raise WeightsFormatError(f"{folder / FILE} does not fit {config.model}: {error}") from error
    return critic.eval()


def save_discriminator(critic: nn.Module, folder: Path) -> None:
    """Write ``discriminator.safetensors``: weights in float16, singular vectors in float32."""
    state = {
        name: value.detach().cpu().to(_dtype(name, value)).contiguous()
        for name, value in critic.state_dict().items()
    }
    save_file(state, folder / FILE)


def _dtype(name: str, value: torch.Tensor) -> torch.dtype:
    return torch.float32 if name.endswith(("._u", "._v", "bias")) else torch.float16
