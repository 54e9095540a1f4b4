"""SimVQ beside vector_quantize_pytorch's, with the same weights."""

from __future__ import annotations

import importlib

import pytest
import torch
from kexue_vqlinear import SimVQ

peers = pytest.importorskip("vector_quantize_pytorch")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channel_first", [False, True])
@pytest.mark.parametrize("estimator", ["ste", "rotation"])
@pytest.mark.parametrize("first", [False, True], ids=["float32 alone", "shortlist first"])
def test_output_codes_loss_and_gradients_are_the_peers(
    dtype: torch.dtype,
    channel_first: bool,
    estimator: str,
    first: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("kexue_vqlinear.nearest")
    monkeypatch.setattr(module, "is_worth_it", lambda z, table: first and z.dtype == torch.float32)
    torch.manual_seed(0)
    dim, size = 32, 512
    ours = SimVQ(dim, size, bias=False, channel_first=channel_first, estimator=estimator).to(dtype)
    rotation = estimator == "rotation"
    theirs = peers.SimVQ(dim, size, channel_first=channel_first, rotation_trick=rotation).to(dtype)
    with torch.no_grad():
        theirs.frozen_codebook.copy_(ours.embedding)
        theirs.code_transform.weight.copy_(ours.weight)
    z = torch.randn(4, 100, dim, dtype=dtype)
    slope = torch.randn(4, 100, dim, dtype=dtype)
    if channel_first:
        z, slope = z.movedim(-1, 1), slope.movedim(-1, 1)
    found = []
    for quantizer, weight in ((ours, ours.weight), (theirs, theirs.code_transform.weight)):
        x = z.clone().requires_grad_()
        quantized, codes, loss = quantizer(x)[:3]
        ((quantized * slope).sum() + 10 * loss).backward()
        found.append((quantized.detach(), codes, loss.detach(), x.grad, weight.grad))
    assert torch.equal(found[0][1], found[1][1])
    for mine, their in zip(found[0], found[1], strict=True):
        torch.testing.assert_close(mine, their, atol=1e-5, rtol=1e-5)
