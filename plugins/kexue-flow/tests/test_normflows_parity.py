"""Weights of normflows' Glow, read into ours, give its density.

The peer's answers lie in ``data/`` (written by ``benchmarks/write_fixtures.py``, normflows 1.7.3);
``make bench ARGS=glow_parity`` compares with the peer itself at the size that is timed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kexue_flow.adapters import from_normflows
from kexue_flow.glow import Glow, GlowConfig
from safetensors.torch import load_file
from torch import Tensor

from kexue_core.errors import ConfigError, WeightsFormatError
from kexue_core.hub import conversion
from kexue_core.loading import load_folder

DATA = Path(__file__).parent / "data"

FIXTURES = ("normflows-affine-lu", "normflows-additive-dense")


def read(name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    tensors = load_file(DATA / f"{name}.safetensors")
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    return state, tensors["x"], tensors["log_prob"]


def convert(state: dict[str, Tensor]) -> Glow:
    ours, config = from_normflows(state, {"size": 8})
    glow = Glow(GlowConfig(**config)).double()
    glow.load_state_dict(ours, strict=True)
    return glow


@pytest.mark.parametrize("name", FIXTURES)
def test_log_prob_is_the_peers(name: str) -> None:
    state, x, log_prob = read(name)
    with torch.no_grad():
        ours = convert(state).log_prob(x)
    # 64 dimensions in float64 on both sides; the bar of the project is 1e-4.
    torch.testing.assert_close(ours, log_prob, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FIXTURES)
def test_every_parameter_of_the_peer_matters(name: str) -> None:
    # A map that dropped a tensor could still agree where that tensor is at its neutral value.
    state, x, log_prob = read(name)
    used = [k for k, v in state.items() if v.is_floating_point() and not k.endswith(_FIXED)]
    assert len(used) > 40
    for key in used:
        factor = 1.5 if state[key].abs().max() > 0 else 1.0
        changed = {**state, key: state[key] * factor + 0.1}
        with torch.no_grad():
            moved = convert(changed).log_prob(x)
        assert (moved - log_prob).abs().max() > 1e-6, key


#: Buffers, and the flag of a start that is over.
_FIXED = ("eye", "P", "sign_S", "data_dep_init_done")


def test_config_is_read_off_the_tensors() -> None:
    _, config = from_normflows(read("normflows-additive-dense")[0], {"size": 8, "bits": 8})
    assert (config["size"], config["channels"], config["bits"]) == (8, 1, 8)
    assert (config["levels"], config["steps"], config["hidden"]) == (2, 2, 8)
    assert (config["coupling"], config["permutation"]) == ("additive", "conv")


def test_other_flows_are_refused() -> None:
    state, _, _ = read("normflows-affine-lu")
    with pytest.raises(WeightsFormatError, match="no Glow of normflows"):
        from_normflows({k: v for k, v in state.items() if "loc_logs" not in k}, {"size": 8})
    with pytest.raises(WeightsFormatError, match="no Glow of normflows"):
        from_normflows({"weight": torch.zeros(1)}, {"size": 8})
    with pytest.raises(ConfigError, match="size of its images"):
        from_normflows(state, {})


def test_kexue_convert_makes_a_folder_of_weights_of_a_checkpoint(tmp_path: Path) -> None:
    state, x, log_prob = read("normflows-affine-lu")
    torch.save(state, tmp_path / "glow.pt")
    (tmp_path / "config.json").write_text('{"size": 8}')
    done = conversion.convert(tmp_path / "glow.pt", tmp_path / "weights", adapter="normflows-glow")
    assert done.adapter == "kexue-flow::normflows-glow"
    with torch.no_grad():
        ours = load_folder(tmp_path / "weights", dtype=torch.float64).log_prob(x)
    torch.testing.assert_close(ours, log_prob, rtol=0, atol=1e-9)
