from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kexue_core.errors import TrainingError
from kexue_core.training.checkpoint import Checkpoints, flatten, unflatten

floats = st.floats(allow_nan=False)
leaves = st.none() | st.booleans() | st.integers() | floats | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(trees)
def test_plain_state_comes_back_from_json_as_it_was(tree: Any) -> None:
    back = unflatten(json.loads(json.dumps(flatten(tree, "x", {}))), {})
    assert back == tree
    assert repr(back) == repr(tree)  # 1 and True, 0.0 and -0.0, a list and a tuple


def test_what_json_cannot_hold_is_named() -> None:
    with pytest.raises(TrainingError, match=r"optimizer\.a\.0 holds a set"):
        flatten([{1}], "optimizer.a", {})


def trained(kind: type[torch.optim.Optimizer], steps: int = 3) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer: Any = kind(model.parameters(), lr=0.1)  # type: ignore[call-arg]  # all of them take lr
    for _ in range(steps):
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def tensors_of(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree
    return [t for v in values for t in tensors_of(v)] if isinstance(tree, (dict, list)) else []


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.Adamax, torch.optim.SGD, torch.optim.RMSprop]
)
def test_modules_and_optimisers_come_back_bit_for_bit(
    tmp_path: Path, kind: type[torch.optim.Optimizer]
) -> None:
    model, optimizer = trained(kind)
    Checkpoints(tmp_path).save(3, {"model": model}, {"o": optimizer})
    other, fresh = trained(kind, steps=0)
    assert Checkpoints(tmp_path).restore({"model": other}, {"o": fresh}) == 3
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    old, new = optimizer.state_dict(), fresh.state_dict()
    assert new["param_groups"] == old["param_groups"]
    assert all(map(torch.equal, tensors_of(new["state"]), tensors_of(old["state"])))
    assert len(tensors_of(new["state"])) == len(tensors_of(old["state"]))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    model, other = tied(), tied()
    Checkpoints(tmp_path).save(1, {"model": model}, {})
    Checkpoints(tmp_path).restore({"model": other}, {})
    assert torch.equal(other[0].weight, model[0].weight)
    assert other[1].weight is other[0].weight


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10, 15, 20):
        checkpoints.save(step, {"model": nn.Linear(2, 2)}, {})
    assert checkpoints.steps() == [15, 20]


def test_no_pickle_is_written(tmp_path: Path) -> None:
    model, optimizer = trained(torch.optim.Adam)
    folder = Checkpoints(tmp_path).save(3, {"model": model}, {"o": optimizer})
    assert sorted(p.name for p in folder.iterdir()) == ["state.json", "tensors.safetensors"]
    json.loads((folder / "state.json").read_text())


def test_half_written_and_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    model = nn.Linear(2, 2)
    checkpoints.save(5, {"model": model}, {})
    good = model.weight.detach().clone()
    nn.init.zeros_(model.weight)
    newest = checkpoints.save(10, {"model": model}, {}) / "tensors.safetensors"
    raw = bytearray(newest.read_bytes())
    raw[-1] ^= 1  # one bit
    newest.write_bytes(bytes(raw))
    (tmp_path / ".partial-step-00000015").mkdir()
    assert checkpoints.restore({"model": model}, {}) == 5
    assert torch.equal(model.weight, good)
    checkpoints.clean()
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.replace('"step": 10', '"step": 11'),
        lambda state: state.replace('["lr", 0.1]', '["lr", 0.2]'),
        lambda state: state[: len(state) // 2],
        lambda state: state.replace("own_sha256", "sha"),
        lambda state: "null",
        lambda state: "[1]",
        lambda state: "\0" * len(state),
    ],
)
def test_a_damaged_state_is_passed_over(tmp_path: Path, damage: Callable[[str], str]) -> None:
    checkpoints = Checkpoints(tmp_path)
    model, optimizer = trained(torch.optim.Adam)
    for step in (5, 10):
        checkpoints.save(step, {"model": model}, {"o": optimizer})
    path = checkpoints.path(10) / "state.json"
    whole = path.read_text()
    path.write_text(damage(whole))
    assert path.read_text() != whole
    assert checkpoints.restore({"model": model}, {"o": optimizer}) == 5


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, {"model": nn.Linear(2, 2)}, {})
    with pytest.raises(TrainingError, match="step-00000005 does not fit"):
        checkpoints.restore({"model": nn.Linear(3, 2)}, {})


def test_no_checkpoint_that_can_be_read_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    (checkpoints.save(5, {"model": nn.Linear(2, 2)}, {}) / "state.json").write_text("{")
    with pytest.raises(TrainingError, match="No checkpoint can be read"):
        checkpoints.restore({"model": nn.Linear(2, 2)}, {})
