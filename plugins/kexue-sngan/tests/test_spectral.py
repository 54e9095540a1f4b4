"""Spectral normalisation: the right sigma, u that moves when it should, plain layers at the end."""

import copy

import pytest
import torch
import torch.nn.functional as F
from kexue_sngan.spectral import SpectralNorm, as_matrix, bake, power_iterate, sigmas, spectral_norm
from torch import nn
from torch.nn.utils import parametrizations

LAYERS = [
    lambda: nn.Linear(7, 5),
    lambda: nn.Conv1d(3, 4, 3),
    lambda: nn.Conv2d(3, 6, 4, stride=2),
    lambda: nn.Conv2d(4, 6, 3, groups=2),
    lambda: nn.ConvTranspose2d(6, 3, 4, stride=2),
    lambda: nn.Embedding(9, 4),
]


def critic() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 6, 4, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(6 * 16, 1),
    )


def rule_of(layer: nn.Module) -> SpectralNorm:
    return layer.parametrizations.weight[0]


@pytest.mark.parametrize("make", LAYERS)
def test_sigma_is_the_largest_singular_value_after_convergence(make):
    torch.manual_seed(0)
    layer = spectral_norm(make())
    original = layer.parametrizations.weight.original.detach()
    exact = float(torch.linalg.matrix_norm(as_matrix(original, rule_of(layer).dim).double(), 2))
    power_iterate(layer, 500)
    assert sigmas(layer)[""] == pytest.approx(exact, rel=1e-4)
    layer.eval()
    torch.testing.assert_close(layer.weight, original / exact, rtol=1e-4, atol=1e-6)


def test_step_for_step_it_is_torchs_parametrisation():
    ours, theirs = spectral_norm(critic()), critic()
    for layer in theirs:
        if hasattr(layer, "weight"):
            parametrizations.spectral_norm(layer)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3, momentum=0.5) for m in (ours, theirs)]
    for step in range(20):
        x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        for net, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            F.softplus(net(x) * torch.linspace(-1, 1, 8)[:, None]).sum().backward()
            optimizer.step()
        # Same operations in another order: only rounding may differ, and twenty steps spread it.
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    trained = ours[0].parametrizations.weight.original
    assert not torch.allclose(trained, spectral_norm(critic())[0].parametrizations.weight.original)


@pytest.mark.parametrize("make", LAYERS)
def test_the_gradient_is_that_of_w_over_sigma(make):
    torch.manual_seed(0)
    layer = spectral_norm(make().double())
    rule = rule_of(layer)
    original = layer.parametrizations.weight.original
    weights = torch.randn_like(original)
    layer.train()
    (layer.weight * weights).sum().backward()
    u, v = rule._u, rule._v  # the constants of the graph: the round of this step is over
    plain = original.detach().clone().requires_grad_()
    matrix = as_matrix(plain, rule.dim)
    ((plain / (u @ matrix @ v)) * weights).sum().backward()
    torch.testing.assert_close(original.grad, plain.grad)


def test_the_gradient_can_be_differentiated_again():
    torch.manual_seed(0)
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    rule = SpectralNorm(weight).eval()  # u and v stay, as the formula has them
    assert torch.autograd.gradcheck(rule, weight)
    assert torch.autograd.gradgradcheck(rule, weight)


def test_u_moves_once_a_step_however_often_the_weight_is_read():
    layer = spectral_norm(nn.Linear(6, 5), warmup=1)
    rule = rule_of(layer)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    for _ in range(3):
        before = rule._u.clone()
        optimizer.zero_grad()
        first = layer(torch.ones(2, 6))
        after = rule._u.clone()
        assert not torch.equal(before, after)
        second = layer(torch.zeros(2, 6))
        assert torch.equal(rule._u, after)
        (first.sum() - second.square().sum()).backward()
        optimizer.step()
        assert torch.equal(rule._u, after)


@pytest.mark.parametrize(
    "optimizer_class", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop]
)
@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_the_steps_of_every_optimiser_are_seen(optimizer_class, options):
    if "fused" in options and optimizer_class is torch.optim.RMSprop:
        pytest.skip("has no fused form")
    layer = spectral_norm(nn.Linear(4, 3), warmup=1)
    optimizer = optimizer_class(layer.parameters(), lr=0.1, **options)
    layer(torch.ones(1, 4)).sum().backward()
    before = rule_of(layer)._u.clone()
    optimizer.step()
    layer(torch.ones(1, 4))
    assert not torch.equal(rule_of(layer)._u, before)


def test_u_does_not_move_in_evaluation_without_gradients_or_when_frozen():
    layer = spectral_norm(nn.Conv2d(3, 4, 3), warmup=1)
    state = copy.deepcopy(layer.state_dict())
    x = torch.randn(2, 3, 5, 5)
    layer.eval()
    layer(x).sum().backward()
    layer.train()
    with torch.no_grad():
        layer(x)
    layer.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name])
    layer.requires_grad_(True)
    layer(x)
    assert not torch.equal(rule_of(layer)._u, state["parametrizations.weight.0._u"])


def test_two_graphs_of_one_step_can_be_run_backwards_apart():
    layer = spectral_norm(nn.Linear(3, 3))
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(2)
    first = layer(torch.ones(1, 3)).sum()
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(0.1)
    second = layer(torch.ones(1, 3)).sum()  # another round, while the first graph is alive
    second.backward()
    first.backward()


def test_baked_layers_are_plain_and_hold_the_normalised_weights():
    net = spectral_norm(critic())
    x = torch.randn(4, 1, 8, 8)
    net(x).sum().backward()
    expected = {n: net.eval().get_submodule(n).weight.detach().clone() for n in "025"}
    expected_output = net(x)
    bake(net)
    assert type(net[0]) is nn.Conv2d
    assert net.state_dict().keys() == critic().state_dict().keys()
    for name, weight in expected.items():
        torch.testing.assert_close(net.get_submodule(name).weight, weight, rtol=0, atol=0)
    torch.testing.assert_close(net(x), expected_output, rtol=1e-6, atol=1e-6)
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), expected_output, rtol=1e-5, atol=1e-6)


def test_sigma_stays_in_float32_under_autocast():
    layer = spectral_norm(nn.Linear(64, 64))
    exact = copy.deepcopy(layer)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer.weight
    assert torch.equal(found, exact.weight)


def test_only_layers_are_normalised_each_once():
    net = spectral_norm(spectral_norm(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))))
    assert len(net[0].parametrizations.weight) == 1
    assert not hasattr(net[1], "parametrizations")
    with pytest.raises(ValueError, match="holds no layer"):
        spectral_norm(nn.ReLU())
    with pytest.raises(ValueError, match="matrix"):
        SpectralNorm(torch.randn(3))


def test_a_weight_of_zero_stays_zero():
    layer = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    spectral_norm(layer)
    layer(torch.ones(1, 3)).sum().backward()
    assert torch.equal(layer.weight, torch.zeros(3, 3))


def test_the_file_runs_when_copied_out(tmp_path):
    import importlib.util

    import kexue_sngan.spectral as module

    path = tmp_path / "copied.py"
    source = open(module.__file__, encoding="utf-8").read()  # noqa: PTH123, SIM115
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("copied", path)
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    assert "kexue" not in source.replace("kexue.fm", "").replace("kexue_sngan.operators", "")
    copied.spectral_norm(nn.Linear(2, 2))
