"""Energies: spectral normalisation against singular values and torch's own, shapes, refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kexue_ebm.energy
import pytest
import torch
from kexue_ebm.energy import (
    EBM,
    FLOAT32_KEYS,
    EBMConfig,
    EnergyMLP,
    EnergyMLPConfig,
    ResidualBlock,
    SpectralNorm,
)
from kexue_ebm.plugin import kexue_components
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 3, 3), (1, 9)])
def test_sigma_converges_to_the_largest_singular_value(shape) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    norm = SpectralNorm(weight)
    for _ in range(200):
        normalized = norm(weight)
    largest = torch.linalg.matrix_norm(normalized.flatten(1), 2)
    assert largest.item() == pytest.approx(1, abs=1e-4)


def test_spectral_norm_is_torchs_step_for_step() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
    theirs.load_state_dict(ours.state_dict())
    parametrize.register_parametrization(ours, "weight", SpectralNorm(ours.weight))
    spectral_norm(theirs)
    mine, other = ours.parametrizations.weight[0], theirs.parametrizations.weight[0]
    mine.left.copy_(other._u)
    mine.right.copy_(other._v)
    x = torch.randn(2, 3, 5, 5)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (ours, theirs)]
    for _ in range(10):
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(mine.left, other._u)
        torch.testing.assert_close(mine.right, other._v)
    original = [m.parametrizations.weight.original for m in (ours, theirs)]
    torch.testing.assert_close(*original)
    torch.testing.assert_close(original[0].grad, original[1].grad)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_singular_vectors_move_once_a_reading_in_training_and_never_in_eval() -> None:
    torch.manual_seed(0)
    model = EBM(EBMConfig(size=8, width=4, spectral_norm=True))
    norm = model.net[0].parametrizations.weight[0]
    x = torch.rand(3, 1, 8, 8)
    moved = []
    norm._iterate = lambda matrix: moved.append(1)  # type: ignore[method-assign]
    model.train()(x)
    assert len(moved) == 1
    model.eval()(x)
    model.energy(x)
    assert len(moved) == 1


def test_a_normalized_energy_has_bounded_slopes() -> None:
    # The norm of a reshaped kernel bounds that of its convolution by a factor of the square root
    # of how often a pixel is read: 9 for 3x3 at stride 1, 4 for 4x4 at stride 2.
    torch.manual_seed(0)
    config = EBMConfig(size=8, width=4, activation="leaky-relu", spectral_norm=True)
    model = EBM(config).train()
    for _ in range(50):
        model(torch.rand(1, 1, 8, 8))
    model.eval()
    a, b = torch.rand(2, 200, 1, 8, 8)
    slopes = (model(a) - model(b)).abs() / (a - b).flatten(1).norm(dim=1)
    assert slopes.max() <= 2 * 3 * 2**3  # 2 for the scaling of [0, 1] to [-1, 1]


@pytest.mark.parametrize("net", ["conv", "resnet"])
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (9, 2)])
@torch.no_grad()
def test_energies_are_one_number_an_image(net, size, channels) -> None:
    model = EBM(EBMConfig(size=size, channels=channels, width=4, net=net)).eval()
    x = torch.rand(3, *model.data_shape)
    assert model.energy(x).shape == (3,)
    torch.testing.assert_close(model.energy(x[1:2]), model.energy(x)[1:2])


def test_the_net_of_the_paper() -> None:
    shapes = [tuple(p.shape) for p in EBM(EBMConfig(width=64)).parameters() if p.ndim > 1]
    assert shapes == [
        (64, 1, 3, 3),
        (64, 64, 4, 4),
        (128, 64, 4, 4),
        (256, 128, 4, 4),
        (128, 256 * 9),
        (1, 128),
    ]


@torch.no_grad()
def test_a_residual_block_begins_as_its_skip() -> None:
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(ResidualBlock(4, 4, "swish")(x), x, atol=1e-3, rtol=0)


@torch.no_grad()
def test_the_base_measure_is_a_gaussian() -> None:
    torch.manual_seed(0)
    plain = EnergyMLP(EnergyMLPConfig(hidden=8))
    based = EnergyMLP(EnergyMLPConfig(hidden=8, base_scale=2.0))
    based.load_state_dict(plain.state_dict())
    x = torch.randn(5, 2)
    torch.testing.assert_close(based.energy(x), plain.energy(x) + x.square().sum(1) / 8)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (EBMConfig, {"size": 4}),
        (EBMConfig, {"net": "vgg"}),
        (EBMConfig, {"activation": "relu"}),
        (EBMConfig, {"replay": -1}),
        (EnergyMLPConfig, {"layers": 0}),
        (EnergyMLPConfig, {"base_scale": 0.0}),
        (EnergyMLPConfig, {"activation": "gelu"}),
    ],
)
def test_configs_refuse_what_makes_no_net(config, values) -> None:
    with pytest.raises(ValueError, match="must"):
        config(**values)


def test_what_stays_float32_is_what_the_models_say() -> None:
    # plugin.py repeats the patterns, since it must not import torch.
    specs = [s for s in kexue_components() if s.kind == "model"]
    assert [s.float32 for s in specs] == [FLOAT32_KEYS, FLOAT32_KEYS]


def test_the_energies_need_torch_alone(tmp_path: Path) -> None:
    copied = tmp_path / "energy.py"
    copied.write_text(Path(kexue_ebm.energy.__file__).read_text(encoding="utf-8"))
    program = (
        "import sys; sys.modules['kexue_core'] = sys.modules['kexue_ebm'] = None\n"
        "import torch; from energy import EBM, EBMConfig\n"
        "print(EBM(EBMConfig(width=4)).energy(torch.rand(2, 1, 28, 28)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "torch.Size([2])\n"
