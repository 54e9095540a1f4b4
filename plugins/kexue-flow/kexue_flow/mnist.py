"""How NICE and RealNVP are trained, on MNIST at its full 8 bits.

References:
    [1] Dinh, Krueger & Bengio, NICE, 2014. https://arxiv.org/abs/1410.8516
    [2] Dinh, Sohl-Dickstein & Bengio, Density estimation using Real NVP, 2016.
        https://arxiv.org/abs/1605.08803
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kexue_core.training import Card, RecipeConfig
from kexue_flow.nice import NICE, NICEConfig
from kexue_flow.realnvp import RealNVP, RealNVPConfig
from kexue_flow.recipes import FlowRecipe, FlowRecipeConfig

__all__ = ["NICEMNIST", "NICEMNISTConfig", "RealNVPMNIST", "RealNVPMNISTConfig"]

DATA = "MNIST (LeCun, Cortes & Burges, The MNIST database of handwritten digits, 1998)"
TERMS = "MNIST is freely used; the weights are under the MIT licence."


@dataclass(frozen=True, slots=True, kw_only=True)
class NICEMNISTConfig(FlowRecipeConfig):
    """Four couplings [1, section 5.1] with nets of half their width.

    Attributes:
        couplings: Additive couplings.
        hidden, depth: Width and number of the hidden layers of their nets.
        partition, prior: See :class:`kexue_flow.nice.NICEConfig`.
    """

    steps: int = 10_000
    batch_size: int = 128
    size: int = 28
    channels: int = 1
    couplings: int = 4
    hidden: int = 512
    depth: int = 5
    partition: str = "parity"
    prior: str = "logistic"


class NICEMNIST(FlowRecipe):
    """NICE on MNIST."""

    Config: ClassVar[type[RecipeConfig]] = NICEMNISTConfig
    config: NICEMNISTConfig
    hub: ClassVar[str] = "ylecun/mnist"
    card: ClassVar[Card] = Card(
        summary="NICE (additive couplings, one scale) of MNIST at 28x28 and its full 8 bits.",
        data=DATA,
        license="MIT",
        terms=TERMS,
        limits="Trained for ten minutes of one core. The map keeps the volume but for one scale a "
        "pixel, so that it cannot be sharp in one place and vague in another: many samples are "
        "no digits.",
    )

    def flow(self) -> NICE:
        """A new NICE."""
        c = self.config
        return NICE(
            NICEConfig(
                size=c.size,
                channels=c.channels,
                couplings=c.couplings,
                hidden=c.hidden,
                depth=c.depth,
                bits=c.bits,
                partition=c.partition,
                prior=c.prior,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RealNVPMNISTConfig(FlowRecipeConfig):
    """Three scales of [2], with one residual block a coupling.

    The statistics of normalisation are the latest and the evaluated weights an average, which only
    agree once the learning rate has fallen: figures during a run are too high, the last is not.

    Attributes:
        levels: Scales.
        couplings: Couplings of a kind in a scale.
        checkerboard, split_prior: See :class:`kexue_flow.realnvp.RealNVPConfig`.
        hidden: Width of the coupling nets of the first scale.
        blocks: Residual blocks of a coupling net.
    """

    steps: int = 7_000
    evaluate_every: int = 2_000
    size: int = 28
    channels: int = 1
    levels: int = 3
    couplings: int = 3
    checkerboard: bool = True
    hidden: int = 16
    blocks: int = 1
    split_prior: str = "standard"


class RealNVPMNIST(FlowRecipe):
    """RealNVP on MNIST."""

    Config: ClassVar[type[RecipeConfig]] = RealNVPMNISTConfig
    config: RealNVPMNISTConfig
    hub: ClassVar[str] = "ylecun/mnist"
    card: ClassVar[Card] = Card(
        summary="RealNVP (affine couplings, checkerboard and channel masks, three scales) of MNIST "
        "at 28x28 and its full 8 bits.",
        data=DATA,
        license="MIT",
        terms=TERMS,
        limits="Small, and trained for twenty minutes of one core: strokes are right, and many "
        "samples are no digits. As with every flow, a higher likelihood does not mean that an "
        "image is more typical.",
    )

    def flow(self) -> RealNVP:
        """A new RealNVP."""
        c = self.config
        return RealNVP(
            RealNVPConfig(
                size=c.size,
                channels=c.channels,
                levels=c.levels,
                couplings=c.couplings,
                checkerboard=c.checkerboard,
                hidden=c.hidden,
                blocks=c.blocks,
                bits=c.bits,
                split_prior=c.split_prior,
            )
        )
