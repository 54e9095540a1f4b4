"""Variational autoencoders: four decoders, class-wise priors, bounds of the likelihood.

>>> from kexue_vae import ELBO, VAE, VAEConfig                  # doctest: +SKIP

Importing this package imports no torch; the models come with their names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "CVAE",
    "ELBO",
    "IWAE",
    "VAE",
    "CVAEConfig",
    "ClusterVAE",
    "ClusterVAEConfig",
    "GumbelVAE",
    "GumbelVAEConfig",
    "VAEConfig",
    "binarize",
]

if TYPE_CHECKING:
    from kexue_vae.cluster import ClusterVAE, ClusterVAEConfig
    from kexue_vae.cvae import CVAE, CVAEConfig
    from kexue_vae.gumbel import GumbelVAE, GumbelVAEConfig
    from kexue_vae.losses import ELBO, IWAE
    from kexue_vae.vae import VAE, VAEConfig, binarize

_HOME = {
    "CVAE": "cvae",
    "CVAEConfig": "cvae",
    "ClusterVAE": "cluster",
    "ClusterVAEConfig": "cluster",
    "ELBO": "losses",
    "GumbelVAE": "gumbel",
    "GumbelVAEConfig": "gumbel",
    "IWAE": "losses",
    "VAE": "vae",
    "VAEConfig": "vae",
    "binarize": "vae",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
