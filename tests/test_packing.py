"""Packed linear maps, with oneDNN and without, and that a changed weight is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kexue_core import packing
from kexue_core.packing import Activation, fingerprint, has_onednn, linear

THEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": nn.Identity(),
    "relu": F.relu,
    "gelu": F.gelu,
}
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


@pytest.fixture
def tried_again() -> Iterator[None]:
    """What is known of the operators is forgotten, before and after."""
    has_onednn.cache_clear()
    yield
    has_onednn.cache_clear()


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear(
    dtype: torch.dtype, activation: Activation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed or not; bfloat16 has 8 bits of mantissa, and the results are up to 20."""
    torch.manual_seed(0)
    weight, bias, x = (torch.randn(*shape).to(dtype) for shape in ((7, 33), (7,), (2, 5, 33)))
    limit = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float64: 1e-12}[dtype]
    then = THEN[activation]
    for _ in range(2):
        for b in (bias, None):
            wanted = then(F.linear(x.double(), weight.double(), None if b is None else b.double()))
            found = linear(weight, b, dtype=dtype, activation=activation)(x)
            assert found.dtype == dtype
            assert torch.allclose(found.double(), wanted, rtol=0, atol=limit)
        monkeypatch.setattr(packing, "has_onednn", lambda dtype: False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_map_keeps_its_weights(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 3, dtype=dtype)
    for _ in range(2):
        layer = nn.Linear(3, 4, dtype=dtype)
        run = linear(layer.weight, layer.bias, dtype=dtype)
        before = run(x)
        with torch.no_grad():
            layer.weight.add_(1)
            layer.bias.add_(1)
        assert torch.equal(run(x), before)
        assert not before.requires_grad
        monkeypatch.setattr(packing, "has_onednn", lambda dtype: False)


@pytest.mark.usefixtures("tried_again")
def test_where_it_can_be() -> None:
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's
    assert [has_onednn(dtype) for dtype in (torch.float32, torch.float64)] == [there, False]


@pytest.mark.usefixtures("tried_again")
@pytest.mark.parametrize("fault", ["wrong", "missing", "not a number"])
def test_a_broken_operator_is_found_out(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is right for all but GELU."""

    def broken(weight: torch.Tensor, bias: torch.Tensor, activation: Activation) -> packing.Linear:
        if fault == "missing":
            raise AttributeError("_linear_pointwise")
        then = F.relu if activation == "relu" else nn.Identity()
        by = torch.nan if fault == "not a number" else 1
        return lambda x: then(F.linear(x, weight, bias)) * by

    monkeypatch.setattr(packing, "_packed", broken)
    assert not has_onednn(torch.float32)


def _adam(model: nn.Linear) -> None:
    """Which torch does not count as writing (2.13)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, fused=True)
    model(torch.ones(1, 40)).sum().backward()
    optimizer.step()


def _in_place(model: nn.Linear) -> None:
    with torch.no_grad():
        model.weight.add_(0)


def _inference(model: nn.Linear) -> None:
    with torch.inference_mode():
        model.bias.add_(0.3)


def _replace(model: nn.Linear) -> None:
    model.bias = nn.Parameter(model.bias.detach() + 1)


@pytest.mark.parametrize("most", [None, 16])
@pytest.mark.parametrize("change", [_adam, _in_place, _inference, _replace, nn.Linear.double])
def test_a_change_is_seen(change: Callable[[nn.Linear], object], most: int | None) -> None:
    torch.manual_seed(0)
    model = nn.Linear(40, 7)
    before = fingerprint(model, most=most)
    model(torch.ones(1, 40)).sum().backward()
    assert fingerprint(model, most=most) == before
    change(model)
    assert fingerprint(model, most=most) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_number_counts(dtype: torch.dtype) -> None:
    """Set through ``.data``, which nothing counts; a bias of an odd number of bytes to a word."""
    model = nn.Linear(3, 7, dtype=dtype)
    for parameter in model.parameters():
        for i in range(parameter.numel()):
            before = fingerprint(model)
            parameter.data.view(-1)[i] += 1
            assert fingerprint(model) != before


def test_weights_of_inference_and_of_size_zero() -> None:
    with torch.inference_mode():
        model = nn.Linear(3, 2)
        before = fingerprint(model)
        model.weight[0, 0] += 1
    assert fingerprint(model) != before
    empty = nn.ParameterList([torch.empty(0, 3)])
    for most in (None, 4):
        assert fingerprint(empty, most=most) == fingerprint(empty, most=most)
