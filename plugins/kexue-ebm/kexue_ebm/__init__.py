"""Energy-based models: contrastive divergence, and Langevin, MALA and HMC samplers.

>>> from kexue_ebm import EnergyMLP, EnergyMLPConfig, langevin      # doctest: +SKIP

Importing this package imports no torch; what it offers comes with its names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "EBM",
    "ContrastiveDivergence",
    "DivergedChainError",
    "EBMConfig",
    "EnergyMLP",
    "EnergyMLPConfig",
    "ReplayBuffer",
    "Trace",
    "frozen",
    "hmc",
    "igebm_langevin",
    "langevin",
    "mala",
]

if TYPE_CHECKING:
    from kexue_ebm.chains import DivergedChainError, Trace, frozen
    from kexue_ebm.energy import EBM, EBMConfig, EnergyMLP, EnergyMLPConfig
    from kexue_ebm.losses import ContrastiveDivergence
    from kexue_ebm.replay import ReplayBuffer
    from kexue_ebm.samplers import hmc, igebm_langevin, langevin, mala

_HOME = {
    "ContrastiveDivergence": "losses",
    "DivergedChainError": "chains",
    "EBM": "energy",
    "EBMConfig": "energy",
    "EnergyMLP": "energy",
    "EnergyMLPConfig": "energy",
    "ReplayBuffer": "replay",
    "Trace": "chains",
    "frozen": "chains",
    "hmc": "samplers",
    "igebm_langevin": "samplers",
    "langevin": "samplers",
    "mala": "samplers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
