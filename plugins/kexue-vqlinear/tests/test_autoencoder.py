"""The autoencoder around every quantiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kexue_vqlinear import VQAutoencoder, VQAutoencoderConfig
from kexue_vqlinear.autoencoder import QUANTIZERS

TINY: dict[str, Any] = {"size": 16, "num_embeddings": 64, "dim": 8, "hidden": (8, 8), "blocks": 1}


def make(**settings: Any) -> VQAutoencoder:
    torch.manual_seed(0)
    return VQAutoencoder(VQAutoencoderConfig(**{**TINY, **settings}))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_codes_decode_to_the_reconstruction(quantizer: str) -> None:
    model = make(quantizer=quantizer).eval()
    x = torch.rand(3, 3, 16, 16)
    loss, reconstruction, codes, _ = model(x)
    assert loss.shape == ()
    assert codes.shape == (3, *model.code_shape) == (3, 4, 4)
    assert torch.equal(model.to_codes(x), codes)
    assert torch.equal(model.from_codes(codes), reconstruction.clamp(0, 1))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("estimator", ["ste", "rotation"])
def test_the_gradient_reaches_everything(quantizer: str, estimator: Any) -> None:
    if (quantizer, estimator) == ("fsq", "rotation"):
        with pytest.raises(ValueError, match="FSQ rounds"):
            make(quantizer=quantizer, estimator=estimator)
        return
    model = make(quantizer=quantizer, estimator=estimator)
    loss, reconstruction, _, _ = model(torch.rand(4, 3, 16, 16))
    (loss + reconstruction.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1, 16, 16), r"images must be \(n, 3, 16, 16\), got \(2, 1, 16, 16\)"),
        (torch.zeros(2, 3, 8, 8), "images must be"),
        (torch.zeros(3, 16, 16), "images must be"),
        (torch.full((1, 3, 16, 16), 1.01), r"images must be in \[0, 1\]"),
        (torch.full((1, 3, 16, 16), -0.01), r"images must be in \[0, 1\]"),
        (torch.full((1, 3, 16, 16), torch.nan), r"images must be in \[0, 1\]"),
    ],
)
def test_wrong_images_are_refused(x: torch.Tensor, message: str) -> None:
    model = make()
    for method in (model, model.to_codes):
        with pytest.raises(ValueError, match=message):
            method(x)


def test_wrong_codes_are_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match="codes must be 0 to 63"):
        model.from_codes(torch.full((1, 4, 4), 64))
    for shape in [(1, 4), (1, 5, 4), (4, 4)]:
        with pytest.raises(ValueError, match=r"codes must be \(n, 4, 4\)"):
            model.from_codes(torch.zeros(shape, dtype=torch.long))


def test_an_empty_batch_stays_empty() -> None:
    model = make()
    loss, reconstruction, codes, _ = model(torch.zeros(0, 3, 16, 16))
    assert float(loss.detach()) == 0
    assert reconstruction.shape == (0, 3, 16, 16)
    assert model.from_codes(codes).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 18},
        {"channels": 2},
        {"hidden": ()},
        {"blocks": -1},
        {"quantizer": "kmeans"},
        {"estimator": "rotation", "temperature": 1.0},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|diverges"):
        make(**settings)
