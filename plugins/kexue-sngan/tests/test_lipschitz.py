"""lower <= the true constant <= upper, on networks whose constant is known."""

import pytest
import torch
import torch.nn.functional as F
from kexue_sngan.cnn import CNNDiscriminator, CNNGenerator, SNGANCNNConfig
from kexue_sngan.lipschitz import jacobian_norms, lipschitz_bound
from kexue_sngan.resnet import ResNetDiscriminator, ResNetGenerator, SNGANResNetConfig
from kexue_sngan.spectral import spectral_norm
from torch import nn

#: Relative rounding of float32 sums.
ROUNDING = 1e-5


class Block(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x + F.relu(self.layer(x))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return torch.cat([2 * self.a(x), -self.b(x) / 4], dim=1)


class Attention(nn.Module):
    def forward(self, x):
        return F.softmax(x @ x.mT, dim=-1) @ x


def as_module(function):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    return Net()


def around(bound, exact):
    assert bound.lower <= exact * (1 + ROUNDING)
    assert bound.upper >= exact * (1 - ROUNDING)


def test_a_linear_layer_is_known_exactly():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    exact = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    bound = lipschitz_bound(layer, torch.randn(5, 6), rounds=200)
    assert bound.upper == pytest.approx(exact, rel=1e-5)
    assert bound.lower == pytest.approx(exact, rel=1e-3)
    around(bound, exact)


def test_a_product_of_linear_maps():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 1))
    weights = [layer.weight.detach().double() for layer in net]
    around(
        lipschitz_bound(net, torch.randn(4, 6)),
        float(torch.linalg.matrix_norm(weights[2] @ weights[1] @ weights[0], 2)),
    )


def test_a_residual_block_is_one_plus_its_branch():
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([0.5, 2.0, 1.0])))
    bound = lipschitz_bound(Block(layer), torch.randn(64, 3), rounds=100)
    assert bound.upper == pytest.approx(3.0, rel=1e-6)
    around(bound, 3.0)  # where the second coordinate is positive, x + 2 x
    assert bound.lower == pytest.approx(3.0, rel=1e-3)


def test_branches_that_are_joined():
    torch.manual_seed(0)
    net = Branches()
    joined = torch.cat([2 * net.a.weight, -net.b.weight / 4])
    around(
        lipschitz_bound(net, torch.randn(4, 4)), float(torch.linalg.matrix_norm(joined.detach(), 2))
    )


def test_known_constants_of_the_parts():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2)
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    x = torch.randn(8, 2, 4, 4)
    cases = [
        (norm, 1 / (0.25 + norm.eps) ** 0.5),
        (nn.Sigmoid(), 0.25),
        (nn.MaxPool2d(2), 1.0),
        (nn.MaxPool2d(3, stride=2, padding=1), 2.0),
        (nn.AvgPool2d(2), 0.5),
        (nn.LeakyReLU(3.0), 3.0),
        (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 4, 4))), 1.0),
    ]
    for module, constant in cases:
        bound = lipschitz_bound(module, x)
        assert bound.upper == pytest.approx(constant, rel=1e-5), module
        assert bound.lower <= constant * (1 + ROUNDING)


@pytest.mark.parametrize(
    ("function", "constant"),
    [
        (torch.tanh, 1.0),
        (F.gelu, 1.13),
        (F.silu, 1.1),
        (F.mish, 1.0885),
        (F.hardswish, 1.5),
        (F.selu, 1.7581),
        (F.elu, 1.0),
        (lambda x: F.leaky_relu(x, 0.2), 1.0),
        (lambda x: x.sum((2, 3)), 4.0),
        (lambda x: x.mean((2, 3)), 0.25),
        (lambda x: F.max_pool2d(x, 2), 1.0),
        (lambda x: F.avg_pool2d(x, 2), 0.5),
        (lambda x: F.interpolate(x, scale_factor=2.0), 2.0),
        (lambda x: x.flatten(1)[:, :5] - x.flatten(1)[:, 5:10], 2.0),
        (lambda x: (3 * x).abs().neg(), 3.0),
        (lambda x: torch.cat([x, x], 1), 2**0.5),
        (lambda x: x + x, 2.0),
        (lambda x: x / torch.tensor(4.0), 0.25),
    ],
)
def test_functions_are_bounded_and_never_below_what_is_seen(function, constant):
    bound = lipschitz_bound(as_module(function), 3 * torch.randn(64, 2, 4, 4), rounds=30)
    assert bound.upper == pytest.approx(constant, rel=1e-5)
    assert bound.lower <= bound.upper * (1 + ROUNDING)


@pytest.mark.parametrize("spectral", [False, True])
def test_the_networks_of_this_plugin(spectral):
    torch.manual_seed(0)
    small = {"size": 8, "channels": 1, "latent": 6, "width": 4, "critic_width": 4, "levels": 2}
    cnn, resnet = SNGANCNNConfig(**small), SNGANResNetConfig(**small)
    x, z = torch.randn(6, 1, 8, 8), torch.randn(6, 6)
    for net, data in (
        (CNNDiscriminator(cnn), x),
        (ResNetDiscriminator(resnet), x),
        (CNNGenerator(cnn), z),
        (ResNetGenerator(resnet), z),
    ):
        bound = lipschitz_bound(spectral_norm(net) if spectral else net, data)
        assert 0 < bound.lower <= bound.upper < float("inf")
        assert net.training
        assert "<= L <=" in str(bound)


def test_the_jacobian_norm_of_several_outputs_is_its_largest_singular_value():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    x = torch.randn(5, 4)
    exact = [
        float(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(net, row), 2))
        for row in x
    ]
    found = jacobian_norms(net, x, rounds=100)
    torch.testing.assert_close(found, torch.tensor(exact), rtol=1e-3, atol=0)


def test_what_has_no_constant_is_named_and_can_be_given():
    x = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match="matmul"):
        lipschitz_bound(Attention(), x)
    net = nn.Sequential(Attention(), nn.ReLU())
    assert lipschitz_bound(net, x, constants={Attention: 7.0}).upper == 7.0
    for function in (lambda x: x * x, lambda x: 1 / x, lambda x: x / x):
        with pytest.raises(ValueError, match="product or quotient"):
            lipschitz_bound(as_module(function), x)
    with pytest.raises(ValueError, match="LayerNorm"):
        lipschitz_bound(nn.LayerNorm(4), x)

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="cannot be traced"):
        lipschitz_bound(Branching(), x)
