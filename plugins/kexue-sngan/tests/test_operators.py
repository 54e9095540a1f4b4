"""The norm of a layer as an operator, against its explicit matrix."""

import pytest
import torch
from kexue_sngan.operators import largest_singular_value, operator_norm
from kexue_sngan.spectral import as_matrix, power_iterate, spectral_norm
from torch import nn

CASES = [
    (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
    (nn.Conv2d(2, 3, 4, stride=2, padding=1, bias=False), (2, 6, 6)),
    (nn.Conv2d(3, 2, 3, dilation=2, padding=2), (3, 7, 5)),
    (nn.Conv2d(4, 4, 3, groups=2), (4, 5, 5)),
    (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 5, 5)),
    (nn.Conv1d(3, 2, 5), (3, 11)),
    (nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1), (3, 4, 4)),
    (nn.Linear(5, 7), (5,)),
    (nn.AvgPool2d(3, stride=2, padding=1), (2, 6, 6)),
    (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 5, 5)),
]


def explicit(layer: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """The matrix, column by column: what the layer makes of each unit vector."""
    n = torch.Size(shape).numel()
    with torch.no_grad():
        columns = layer(torch.eye(n).view(n, *shape)) - layer(torch.zeros(1, *shape))
    return columns.flatten(1).T.double()


@pytest.mark.parametrize(("layer", "shape"), CASES, ids=lambda x: str(x)[:50])
def test_it_is_the_norm_of_the_explicit_matrix(layer, shape):
    exact = float(torch.linalg.matrix_norm(explicit(layer, shape), 2))
    assert operator_norm(layer, shape) == pytest.approx(exact, rel=1e-4)
    below, above = largest_singular_value(layer, shape, like=torch.empty(0))
    # float32 products: the bounds hold to its rounding
    assert below <= exact * (1 + 1e-5)
    assert above >= exact * (1 - 1e-5)


def test_a_reshaped_matrix_of_norm_one_is_no_convolution_of_norm_one():
    torch.manual_seed(0)
    conv = power_iterate(spectral_norm(nn.Conv2d(64, 64, 3, padding=1, bias=False)), 300).eval()
    assert float(torch.linalg.matrix_norm(as_matrix(conv.weight.detach()), 2)) == pytest.approx(
        1, abs=1e-3
    )
    assert operator_norm(conv, (64, 16, 16)) == pytest.approx(1.5, abs=0.1)


def test_reading_the_norm_moves_nothing():
    conv = spectral_norm(nn.Conv2d(2, 2, 3), warmup=1).train()
    before = {k: v.clone() for k, v in conv.state_dict().items()}
    operator_norm(conv, (2, 5, 5))
    assert conv.training
    assert all(torch.equal(v, before[k]) for k, v in conv.state_dict().items())


def test_constant_layers_and_wrong_shapes():
    conv = nn.Conv2d(1, 1, 3)
    nn.init.zeros_(conv.weight)
    assert operator_norm(conv, (1, 4, 4)) == 0
    with pytest.raises(ValueError, match="does not take"):
        operator_norm(conv, (2, 4, 4))
