"""Lipschitz constraints and SN-GAN: spectral norms that are right, GAN losses.

>>> from kexue_sngan import lipschitz_bound, spectral_norm                   # doctest: +SKIP
>>> critic = spectral_norm(critic)                                           # doctest: +SKIP
>>> print(lipschitz_bound(critic, images))                                   # doctest: +SKIP

Importing this package imports no torch; everything comes with its name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "CNNDiscriminator",
    "CNNGenerator",
    "GradientPenalty",
    "HingeGAN",
    "LipschitzBound",
    "NonSaturatingGAN",
    "RelativisticGAN",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "SNGANCNNConfig",
    "SNGANResNetConfig",
    "SpectralNorm",
    "SpectralNormPenalty",
    "WassersteinDivergence",
    "WassersteinGAN",
    "bake",
    "jacobian_norms",
    "lipschitz_bound",
    "load_discriminator",
    "operator_norm",
    "power_iterate",
    "sigmas",
    "spectral_norm",
]

if TYPE_CHECKING:
    from kexue_sngan.cnn import CNNDiscriminator, CNNGenerator, SNGANCNNConfig
    from kexue_sngan.discriminator import load_discriminator
    from kexue_sngan.lipschitz import LipschitzBound, jacobian_norms, lipschitz_bound
    from kexue_sngan.losses import (
        GradientPenalty,
        HingeGAN,
        NonSaturatingGAN,
        RelativisticGAN,
        WassersteinDivergence,
        WassersteinGAN,
    )
    from kexue_sngan.operators import operator_norm
    from kexue_sngan.penalty import SpectralNormPenalty
    from kexue_sngan.resnet import ResNetDiscriminator, ResNetGenerator, SNGANResNetConfig
    from kexue_sngan.spectral import SpectralNorm, bake, power_iterate, sigmas, spectral_norm

#: Module -> the names that come from it.
_MODULES = {
    "cnn": ("CNNDiscriminator", "CNNGenerator", "SNGANCNNConfig"),
    "discriminator": ("load_discriminator",),
    "lipschitz": ("LipschitzBound", "jacobian_norms", "lipschitz_bound"),
    "losses": (
        "GradientPenalty",
        "HingeGAN",
        "NonSaturatingGAN",
        "RelativisticGAN",
        "WassersteinDivergence",
        "WassersteinGAN",
    ),
    "operators": ("operator_norm",),
    "penalty": ("SpectralNormPenalty",),
    "resnet": ("ResNetDiscriminator", "ResNetGenerator", "SNGANResNetConfig"),
    "spectral": ("SpectralNorm", "bake", "power_iterate", "sigmas", "spectral_norm"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
