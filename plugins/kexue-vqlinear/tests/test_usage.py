"""Utilisation and perplexity, exact over all batches."""

from __future__ import annotations

import math

import pytest
import torch
from kexue_vqlinear import CodeUsage
from kexue_vqlinear.usage import perplexity, utilization
from kexue_vqlinear.vq import VQ


def test_they_are_of_the_data_set_and_not_of_the_last_batch() -> None:
    torch.manual_seed(0)
    batches = [torch.randint(50 * b, 50 * b + 100, (300,)) for b in range(4)]
    usage = CodeUsage(1000)
    for batch in batches:
        usage.update(batch.view(3, -1))
    everything = torch.cat(batches)
    assert usage.total == 1200
    assert usage.utilization == len(everything.unique()) / 1000
    shares = [int((everything == k).sum()) / 1200 for k in everything.unique()]
    assert usage.perplexity == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-6
    )
    last = CodeUsage(1000)
    last.update(batches[-1])
    assert last.utilization < usage.utilization / 2


def test_counts_do_not_saturate() -> None:
    """A float32 sum would stop at 2^24."""
    usage = CodeUsage(2)
    usage.counts[:] = torch.tensor([2**24, 2**24])
    usage.update(torch.zeros(1, dtype=torch.long))
    assert usage.total == 2**25 + 1


@pytest.mark.parametrize(
    ("counts", "share", "number"),
    [([1, 1, 1, 1], 1, 4), ([5, 0, 0, 0], 0.25, 1), ([3, 3, 0, 0], 0.5, 2), ([0, 0, 0, 0], 0, 0)],
)
def test_extremes(counts: list[int], share: float, number: float) -> None:
    assert float(utilization(torch.tensor(counts))) == share
    assert float(perplexity(torch.tensor(counts))) == pytest.approx(number)


def test_masked_codes_do_not_count() -> None:
    usage = CodeUsage(4)
    usage.update(torch.tensor([-1, 2, -1, 3]))
    assert usage.counts.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="codes must be 0 to 3"):
        usage.update(torch.tensor([4]))


def test_the_diagnostics_of_a_call_are_those_of_its_codes() -> None:
    torch.manual_seed(0)
    quantizer = VQ(3, 20)
    with torch.no_grad():
        quantizer.embedding.normal_()
    z = torch.randn(40, 3)
    quantized, codes, _, diagnostics = quantizer(z)
    usage = CodeUsage(20)
    usage.update(codes)
    assert float(diagnostics.utilization) == pytest.approx(usage.utilization)
    assert float(diagnostics.perplexity) == pytest.approx(usage.perplexity)
    torch.testing.assert_close(diagnostics.error, (z - quantized.detach()).square().mean())
    assert not any(d.requires_grad for d in diagnostics)
