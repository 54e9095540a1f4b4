"""A small model with nothing at its start value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kexue_roformer_sim.encoder import EncoderConfig
from kexue_roformer_sim.model import RoFormerSim

SIZES = {
    "vocab_size": 12_000,
    "embedding_size": 24,
    "hidden_size": 32,
    "layers": 2,
    "heads": 4,
    "intermediate_size": 48,
}


@pytest.fixture
def make() -> Callable[..., RoFormerSim]:
    def made(**settings: object) -> RoFormerSim:
        torch.manual_seed(0)
        model = RoFormerSim(EncoderConfig(**{**SIZES, **settings}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model.eval()

    return made
