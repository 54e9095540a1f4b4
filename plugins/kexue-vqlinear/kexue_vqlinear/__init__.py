"""Vector quantisation with one linear map (SimVQ), six other quantisers and a code prior.

>>> from kexue_vqlinear import SimVQ                         # doctest: +SKIP

Importing this package imports no torch; the layers come with their names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "EMAVQ",
    "FSQ",
    "VQ",
    "CodePrior",
    "CodePriorConfig",
    "CodeUsage",
    "CosineVQ",
    "Diagnostics",
    "Quantized",
    "Quantizer",
    "SimVQ",
    "VQAutoencoder",
    "VQAutoencoderConfig",
    "VQCommitment",
    "commitment_loss",
    "make_quantizer",
    "nearest",
]

if TYPE_CHECKING:
    from kexue_vqlinear.autoencoder import VQAutoencoder, VQAutoencoderConfig, make_quantizer
    from kexue_vqlinear.fsq import FSQ
    from kexue_vqlinear.losses import VQCommitment, commitment_loss
    from kexue_vqlinear.nearest import nearest
    from kexue_vqlinear.prior import CodePrior, CodePriorConfig
    from kexue_vqlinear.quantizer import Diagnostics, Quantized, Quantizer
    from kexue_vqlinear.simvq import SimVQ
    from kexue_vqlinear.usage import CodeUsage
    from kexue_vqlinear.vq import EMAVQ, VQ, CosineVQ

_HOME = {
    "FSQ": "fsq",
    "VQ": "vq",
    "CodePrior": "prior",
    "CodePriorConfig": "prior",
    "CodeUsage": "usage",
    "CosineVQ": "vq",
    "Diagnostics": "quantizer",
    "EMAVQ": "vq",
    "Quantized": "quantizer",
    "Quantizer": "quantizer",
    "SimVQ": "simvq",
    "VQAutoencoder": "autoencoder",
    "VQAutoencoderConfig": "autoencoder",
    "VQCommitment": "losses",
    "commitment_loss": "losses",
    "make_quantizer": "autoencoder",
    "nearest": "nearest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
