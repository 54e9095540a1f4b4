"""What a step of Langevin costs beside torchebm's, at equal steps, noise and networks."""

from __future__ import annotations

from importlib import metadata

import torch
from harness import Row, interleave, timed_row
from kexue_ebm.energy import EBM, EBMConfig, EnergyMLP, EnergyMLPConfig
from kexue_ebm.samplers import langevin
from torch import Tensor, nn
from torchebm.core import BaseModel
from torchebm.samplers import LangevinDynamics

#: torchebm's eta is half of our step size: x - eta grad U + sqrt(2 eta) alpha.
ETA = 0.005
#: name -> model, chains, steps, bar.
CASES = {
    "MLP 2-128-128-1": (lambda: EnergyMLP(EnergyMLPConfig()), 256, 100, 1.3),
    "CNN, width 16, 28x28": (lambda: EBM(EBMConfig(width=16)), 64, 20, 1.0),
}


class Peer(BaseModel):
    """The same network, as torchebm takes it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Energies (n,)."""
        energy: Tensor = self.net(x)
        return energy


def measure() -> list[Row]:
    torch.set_num_threads(1)
    peer_name = f"torchebm {metadata.version('torchebm')}"
    rows = []
    for name, (make, n, steps, bar) in CASES.items():
        torch.manual_seed(0)
        model = make().eval()
        theirs = LangevinDynamics(Peer(model), step_size=ETA)

        def run_ours(model: nn.Module = model, n: int = n, steps: int = steps) -> Tensor:
            return langevin(
                model,
                n,
                generator=torch.Generator().manual_seed(0),
                steps=steps,
                step_size=2 * ETA,
                start="normal",
            )

        def run_theirs(
            theirs: LangevinDynamics = theirs,
            shape: tuple[int, ...] = model.data_shape,
            n: int = n,
            steps: int = steps,
        ) -> Tensor:
            return theirs.sample(dim=shape, n_samples=n, n_steps=steps)

        timing = interleave({"torchebm": run_theirs, "ours": run_ours}, rounds=15)
        what = f"Langevin, {steps} steps of {n} chains, {name}, drawn from normal noise"
        rows.append(timed_row(timing, what, "ours", "torchebm", peer=peer_name, bar=bar))
    return rows
