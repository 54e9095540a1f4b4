"""Write what peers answer into the plugins' test data, so that tests need no peer.

    python benchmarks/write_fixtures.py

Each file holds a small model of a peer (``state.*``), an input ``x`` and its answer, in float64.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peers import normflows_glow
from safetensors.torch import save_file

DATA = Path(__file__).parents[1] / "plugins" / "kexue-flow" / "tests" / "data"

#: File -> options of the peer.
GLOWS = {
    "normflows-affine-lu": {"scale": True, "use_lu": True},
    "normflows-additive-dense": {"scale": False, "use_lu": False},
}


def main() -> None:
    torch.set_default_dtype(torch.float64)
    DATA.mkdir(exist_ok=True)
    for name, options in GLOWS.items():
        torch.manual_seed(0)
        peer = normflows_glow(size=8, channels=1, levels=2, steps=2, hidden=8, **options)
        x = torch.rand(4, 1, 8, 8)
        with torch.no_grad():
            answers = {"x": x, "log_prob": peer.log_prob(x - 0.5, None)}
        state = {f"state.{k}": v.contiguous() for k, v in peer.state_dict().items()}
        save_file({**state, **answers}, DATA / f"{name}.safetensors")


if __name__ == "__main__":
    main()
