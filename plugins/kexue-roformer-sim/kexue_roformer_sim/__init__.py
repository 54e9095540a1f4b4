"""RoFormer-Sim and SimBERT: sentence vectors, search and rewriting (kexue.fm posts 8454, 7427).

>>> from kexue_roformer_sim import RoFormerSim                # doctest: +SKIP

Everything is imported on first use: the entry point of the plugin costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Encoder": "encoder",
    "EncoderConfig": "encoder",
    "Hit": "searching",
    "Rewrite": "rewriting",
    "RoFormerSim": "model",
    "Tokenizer": "tokenizer",
    "cosent_loss": "losses",
    "distillation_loss": "losses",
    "info_nce": "losses",
    "nearest": "searching",
    "pair_logits_loss": "losses",
    "simbert_loss": "losses",
}

if TYPE_CHECKING:
    from kexue_roformer_sim.encoder import Encoder, EncoderConfig
    from kexue_roformer_sim.losses import (
        cosent_loss,
        distillation_loss,
        info_nce,
        pair_logits_loss,
        simbert_loss,
    )
    from kexue_roformer_sim.model import RoFormerSim
    from kexue_roformer_sim.rewriting import Rewrite
    from kexue_roformer_sim.searching import Hit, nearest
    from kexue_roformer_sim.tokenizer import Tokenizer

__all__ = [
    "Encoder",
    "EncoderConfig",
    "Hit",
    "Rewrite",
    "RoFormerSim",
    "Tokenizer",
    "cosent_loss",
    "distillation_loss",
    "info_nce",
    "nearest",
    "pair_logits_loss",
    "simbert_loss",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
