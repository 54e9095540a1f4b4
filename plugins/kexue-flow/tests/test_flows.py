"""What every flow promises: exact log-determinant, exact inverse, exact bits. Also NICE's and
RealNVP's own parts; Glow's are in test_glow.py."""

import copy
import dataclasses
import fnmatch
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kexue_flow import glow, nice, realnvp
from kexue_flow.glow import Flow, Glow, GlowConfig, apply_steps
from kexue_flow.nice import NICE, AdditiveCoupling, NICEConfig
from kexue_flow.plugin import kexue_components
from kexue_flow.realnvp import BatchNorm, Coupling, RealNVP, RealNVPConfig
from torch import Tensor, nn

TINY = {
    Glow: {"size": 4, "channels": 1, "levels": 2, "steps": 2, "hidden": 6},
    NICE: {"size": 4, "channels": 1, "couplings": 3, "hidden": 8, "depth": 2},
    RealNVP: {"size": 4, "channels": 1, "levels": 2, "couplings": 2, "hidden": 4, "blocks": 1},
}
CONFIGS = {Glow: GlowConfig, NICE: NICEConfig, RealNVP: RealNVPConfig}
FLOWS = [Glow, NICE, RealNVP]
# Every option of NICE and RealNVP once, against the defaults.
OPTIONS = [
    (Glow, {}),
    (NICE, {}),
    (NICE, {"couplings": 1}),
    (NICE, {"depth": 1}),
    (NICE, {"channels": 3, "size": 2}),
    (NICE, {"channels": 2, "size": 1}),
    (NICE, {"partition": "halves"}),
    (NICE, {"partition": "shuffle"}),
    (NICE, {"prior": "logistic"}),
    (RealNVP, {}),
    (RealNVP, {"levels": 1}),
    (RealNVP, {"levels": 3, "size": 8}),
    (RealNVP, {"channels": 3}),
    (RealNVP, {"channels": 3, "size": 3, "levels": 1}),
    (RealNVP, {"couplings": 3}),
    (RealNVP, {"blocks": 0}),
    (RealNVP, {"alpha": 0.2}),
    (RealNVP, {"checkerboard": False}),
    (RealNVP, {"checkerboard": False, "channels": 3, "size": 1, "levels": 1}),
    (RealNVP, {"batch_norm": False}),
    (RealNVP, {"split_prior": "learned"}),
    (RealNVP, {"top_prior": "learned"}),
]


def name(options: object) -> str:
    if isinstance(options, type):
        return options.__name__
    return ",".join(f"{k}={v}" for k, v in options.items()) or "default"


every_option = pytest.mark.parametrize(("flow", "options"), OPTIONS, ids=name)
every_flow = pytest.mark.parametrize("flow", FLOWS, ids=name)


def perturb(model: nn.Module, amount: float = 0.1) -> None:
    """Away from the start, where couplings, priors and statistics do nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(amount * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.mean.add_(amount)
                module.variance.mul_(1 + amount)


def build(flow: type[Flow], dtype: torch.dtype = torch.float64, **options) -> Flow:
    torch.manual_seed(0)
    model = flow(CONFIGS[flow](**(TINY[flow] | options))).to(dtype).eval()
    perturb(model)
    return model


def images(model: Flow, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, *model.data_shape, generator=torch.Generator().manual_seed(2)).to(dtype)


def flat(latents: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([z.flatten(1) for z in latents], dim=1)


def jacobian(function, x: Tensor) -> Tensor:
    """(d, d) of a map of one sample, (1, ...) -> (1, ...)."""
    found = torch.autograd.functional.jacobian(lambda v: function(v).flatten(), x)
    return found.reshape(x.numel(), x.numel())


# Log-determinant and inverse


@every_option
def test_log_det_is_that_of_the_jacobian(flow, options):
    model = build(flow, **options)
    for x in images(model, 2).split(1):
        _, log_det = model.transform(x)
        expected = torch.linalg.slogdet(jacobian(lambda v: flat(model.transform(v)[0]), x))[1]
        assert log_det.item() == pytest.approx(expected.item(), abs=1e-9)
        assert abs(log_det.item()) > 0.1  # a sign error cannot hide behind zero


@every_option
def test_inverse(flow, options):
    model = build(flow, **options)
    x = images(model, 3)
    with torch.no_grad():
        assert (model.inverse(model.transform(x)[0]) - x).abs().max() < 1e-11
        assert (model.decode(model.to_latent(x)) - x).abs().max() < 1e-11
        # Far from zero a logit is flat in one direction: cool draws stay where it is not.
        noise = model.prior(3, temperature=0.3, generator=torch.Generator().manual_seed(4))
        assert [tuple(z.shape[1:]) for z in noise] == list(model.latent_shapes)
        assert (flat(model.transform(model.inverse(noise))[0]) - flat(noise)).abs().max() < 1e-9


DEEP = {
    Glow: {"size": 16, "channels": 3, "levels": 3, "steps": 8, "hidden": 32},
    NICE: {"size": 16, "channels": 3, "couplings": 12, "hidden": 64, "depth": 3},
    RealNVP: {"size": 16, "channels": 3, "levels": 3, "couplings": 4, "hidden": 8, "blocks": 2},
}


@every_flow
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_inverse_of_a_deep_model(flow, dtype, bar):
    torch.manual_seed(0)
    model = flow(CONFIGS[flow](**DEEP[flow])).to(dtype).eval()
    x = images(model, 8, dtype)
    model.initialize(x)
    perturb(model, 0.02)
    with torch.no_grad():
        latents, _ = model.transform(x)
        assert (model.inverse(latents) - x).abs().max() < bar
        assert 1 < flat(latents).abs().max() < 100  # the perturbed model is a reasonable one


@every_flow
def test_the_density_is_that_of_the_samples(flow):
    # Importance sampling in four dimensions: a wrong sign or a lost factor is far from 1.
    model = build(flow, size=2, **({} if flow is NICE else {"levels": 1}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        drawn = model.inverse(model.prior(4000, generator=generator)).flatten(1)
        mean, spread = drawn.mean(0), 1.5 * drawn.std(0)
        eps = torch.randn(100_000, 4, generator=generator, dtype=torch.float64)
        log_proposal = -0.5 * (eps**2 + math.log(2 * math.pi)).sum(1) - spread.log().sum()
        x = (mean + spread * eps).view(-1, *model.data_shape)
        weights = (model(x) - log_proposal).exp().nan_to_num(0)  # RealNVP has a bounded support
    error = weights.std() / len(weights) ** 0.5
    assert error < 0.02
    assert abs(weights.mean() - 1) < 4 * error


# Bits a dimension


@every_flow
@pytest.mark.parametrize("bits", [5, 8])
def test_bits_of_a_flow_that_does_nothing(flow, bits):
    # On uniform data a dimension costs `bits` plus the cross-entropy of the base density.
    options = {
        Glow: {"levels": 2, "steps": 1, "permutation": "reverse", "coupling": "additive"}
        | {"split_prior": "standard"},
        NICE: {"channels": 3},
        RealNVP: {"batch_norm": False},
    }[flow]
    model = flow(CONFIGS[flow](**(TINY[flow] | options | {"size": 32, "bits": bits}))).eval()
    if flow is RealNVP:
        # z = logit(p), p uniform on [a, 1 - a]: E[z^2] / 2 + log(2 pi) / 2 nats, less the mean
        # log-determinant log(1 - 2 a) - 2 E[log p].
        a = model.config.alpha
        antiderivative = [p * math.log(p) - p for p in (a, 1 - a)]
        log_det = math.log(1 - 2 * a) - 2 * (antiderivative[1] - antiderivative[0]) / (1 - 2 * a)
        p = a + (1 - 2 * a) * (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
        nats = (p.logit().square().mean() + math.log(2 * math.pi)) / 2 - log_det
    else:
        nats = torch.tensor(math.log(2 * math.pi) / 2 + 1 / 24)  # E[z^2] = 1/12
    expected = bits + nats.item() / math.log(2)
    if flow is not RealNVP:
        assert expected == pytest.approx(bits + 1.386, abs=1e-3)
    generator = torch.Generator().manual_seed(0)
    n = 300 * 3 // model.data_shape[0]
    x = torch.randint(256, (n, *model.data_shape), generator=generator) / 255
    # 0.9 million dimensions: the standard error is 1e-4 where z is in [-1/2, 1/2], and 3e-4 of
    # logits.
    found = model.bits_per_dim(x, generator=generator).mean().item()
    assert found == pytest.approx(expected, abs=1e-3)


@every_flow
def test_bits_per_dim_sees_the_bits_alone(flow):
    model = build(flow, torch.float32, size=8, bits=5)
    pixels = torch.randint(256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0))

    def bits(values: Tensor) -> Tensor:
        return model.bits_per_dim(values / 255, generator=torch.Generator().manual_seed(1))

    assert torch.equal(bits(pixels), bits(pixels // 8 * 8 + 7))  # the lowest three do not matter
    assert not torch.equal(bits(pixels), bits((pixels + 8) % 256))


@every_flow
def test_forward_is_log_prob_of_the_base_and_the_log_det(flow):
    model = build(flow)
    x = images(model, 3)
    latents, log_det = model.transform(x)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(flat(latents)).sum(1)
    assert (model(x) - normal - log_det).abs().max() < 1e-10
    assert (model.log_prob(x) - normal - log_det).abs().max() < 1e-10


# Sampling


@every_flow
def test_a_sample_depends_on_its_number_alone(flow):
    model = build(flow)

    def draw(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(5)
        batches = [model.prior(n, temperature=0.7, generator=generator) for n in sizes]
        return torch.cat([flat(z) for z in batches]), torch.cat([model.decode(z) for z in batches])

    latents, x = draw((6,))
    for sizes in ((1,) * 6, (2, 3, 1)):
        again = draw(sizes)
        assert torch.equal(again[0], latents)
        assert (again[1] - x).abs().max() < 1e-12


@every_flow
def test_temperature_multiplies_every_latent(flow):
    model = build(flow)
    ones = model.prior(3, generator=torch.Generator().manual_seed(0))
    half = model.prior(3, temperature=0.5, generator=torch.Generator().manual_seed(0))
    for a, b in zip(ones, half, strict=True):
        assert torch.equal(a * 0.5, b)


def test_a_logistic_prior_is_drawn_as_it_is_scored():
    model = build(NICE, torch.float32, prior="logistic", size=8)
    [z] = model.prior(2000, generator=torch.Generator().manual_seed(0))
    # 128,000 draws: standard error of the deviation 0.006; of a logistic it is pi / sqrt(3).
    assert z.isfinite().all()
    assert z.std().item() == pytest.approx(math.pi / math.sqrt(3), abs=0.03)
    grid = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    density = model._noise_log_prob(grid).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)
    below = [torch.trapezoid(density[grid <= q], grid[grid <= q]) for q in (-1.0, 0.0, 2.0)]
    for q, share in zip((-1.0, 0.0, 2.0), below, strict=True):
        assert (z <= q).double().mean().item() == pytest.approx(share.item(), abs=0.01)


# Masks


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("checkerboard", [False, True])
@pytest.mark.parametrize(("channels", "side"), [(2, 3), (3, 2)])
def test_a_coupling_changes_one_part_by_what_the_other_says(checkerboard, swap, channels, side):
    torch.manual_seed(0)
    config = RealNVPConfig(**TINY[RealNVP])
    coupling = Coupling(channels, 8, config, checkerboard=checkerboard, swap=swap).double()
    perturb(coupling)
    x = torch.randn(1, channels, side, side, dtype=torch.float64)
    y, log_det = coupling(x)
    if checkerboard:
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        changed = ((rows + columns) % 2 == (0 if swap else 1)).expand(channels, -1, -1)
    else:
        first = torch.arange(channels)[:, None, None] < channels // 2
        changed = (first if swap else ~first).expand(-1, side, side)
    assert torch.equal(y[0][~changed], x[0][~changed])
    assert (y[0][changed] - x[0][changed]).abs().min() > 1e-4
    table = jacobian(lambda v: coupling(v)[0], x)
    part = changed.flatten()
    block = table[part][:, part]
    assert torch.equal(block, block.diagonal().diag())  # one changed number says nothing of another
    assert block.diagonal().log().sum().item() == pytest.approx(log_det.item(), abs=1e-12)
    assert table[part][:, ~part].abs().max() > 1e-4  # and all hear of the rest
    # [RealNVP, eq 9] as it stands.
    b = (~changed).double()
    seen = b * x if checkerboard else x[:, ~changed[:, 0, 0]]
    t, s = coupling.net(seen).chunk(2, 1)
    s = coupling.scale[:, None, None] * s.tanh()
    if not checkerboard:
        t, s = (
            torch.zeros_like(x).index_add(1, changed[:, 0, 0].nonzero()[:, 0], v) for v in (t, s)
        )
    assert (y - (b * x + (1 - b) * (x * s.exp() + t))).abs().max() < 1e-12


@pytest.mark.parametrize("checkerboard", [False, True])
def test_two_couplings_change_everything(checkerboard):
    model = build(RealNVP, couplings=2, checkerboard=checkerboard, batch_norm=False)
    for scale in model.scales:
        for steps, channels in (
            (scale.fine, 1 if scale is model.scales[0] else 2),
            (scale.coarse, 4),
        ):
            if len(steps):
                x = torch.randn(1, channels, 4, 4, dtype=torch.float64)
                y, _ = apply_steps(list(steps)[:2], x, None)
                assert (y - x).abs().min() > 1e-6


@pytest.mark.parametrize("partition", ["parity", "halves", "shuffle"])
def test_an_additive_coupling_keeps_half_and_the_volume(partition):
    torch.manual_seed(0)
    config = NICEConfig(**TINY[NICE], partition=partition)
    for number in (0, 1):
        coupling = AdditiveCoupling(8, number, config).double()
        perturb(coupling)
        x = torch.randn(1, 8, dtype=torch.float64)
        y, log_det = coupling(x)
        changed = (y != x).flatten()
        assert changed.sum() == 4
        expected = {
            "parity": torch.arange(8) % 2 != number,
            "halves": torch.arange(8) // 4 != number,
        }
        if partition in expected:
            assert torch.equal(changed, expected[partition])
        table = jacobian(lambda v, c=coupling: c(v)[0], x)
        assert torch.equal(table[changed][:, changed], torch.eye(4, dtype=torch.float64))
        assert log_det.item() == 0


# Batch normalisation


def test_training_evaluates_the_map_that_it_leaves():
    model = build(RealNVP, couplings=3)
    x = images(model, 16)
    model.train()
    trained, log_det = model.transform(x)
    log_prob = model(x)
    moved = [b.clone() for b in model.buffers()]
    model.eval()
    again = copy.deepcopy(model)
    assert torch.equal(model(x), log_prob)
    # The statistics of the first pass, not those of the second.
    assert not torch.equal(flat(model.transform(x)[0]), flat(trained))
    assert all(torch.equal(a, b) for a, b in zip(moved, again.buffers(), strict=True))
    assert log_det.shape == (16,)
    # Still in training: what was encoded decodes, and its log-determinant is the Jacobian's.
    model.train()
    latents, log_det = model.transform(x[:1])
    assert (model.inverse(latents) - x[:1]).abs().max() < 1e-11
    model.eval()
    expected = torch.linalg.slogdet(jacobian(lambda v: flat(model.transform(v)[0]), x[:1]))[1]
    assert log_det.item() == pytest.approx(expected.item(), abs=1e-9)


def test_running_statistics_and_their_gradient():
    torch.manual_seed(0)
    norm = BatchNorm(3, momentum=0.25).double()
    perturb(norm)
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    before = copy.deepcopy(norm)
    norm(x)
    for found, old, batch in (
        (norm.mean, before.mean, x.mean((0, 2, 3))),
        (norm.variance, before.variance, x.var((0, 2, 3), correction=0)),
    ):
        assert (found - (0.75 * old + 0.25 * batch)).abs().max() < 1e-14

    def formula(v: Tensor) -> tuple[Tensor, Tensor]:
        mean = 0.75 * before.mean + 0.25 * v.mean((0, 2, 3))
        variance = 0.75 * before.variance + 0.25 * v.var((0, 2, 3), correction=0) + 1e-5
        y = (v - mean[:, None, None]) / variance.sqrt()[:, None, None]
        return y, -0.5 * variance.log().sum() * 4

    weight = torch.randn_like(x)
    gradients = []
    for function in (copy.deepcopy(before), formula):
        v = x.clone().requires_grad_()
        y, log_det = function(v)
        (weight * y).sum().add(3 * log_det.mean()).backward()
        gradients.append((y.detach(), v.grad))
    for found, expected in zip(*gradients, strict=True):
        assert (found - expected).abs().max() < 1e-12


def test_initialisation_takes_the_statistics_of_the_batch():
    torch.manual_seed(0)
    model = RealNVP(RealNVPConfig(**TINY[RealNVP], momentum=1.0)).double()
    perturb(model)
    x = images(model, 32)
    model.initialize(x)
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    model.transform(x)  # with momentum 1 the statistics are the batch's again
    for key, value in model.state_dict().items():
        assert (value - kept[key]).abs().max() < 1e-12, key
    model = NICE(NICEConfig(**TINY[NICE])).double()
    model.initialize(x)
    std = flat(model.transform(x)[0]).std(0, correction=0)
    assert (std - 1).abs().max() < 1e-12
    model.initialize(torch.full_like(x, 0.5))
    assert flat(model.transform(x)[0]).abs().max() <= 0.5 / nice.START_STD


# Training


@every_option
def test_every_parameter_learns(flow, options):
    torch.manual_seed(0)
    model = flow(CONFIGS[flow](**(TINY[flow] | options)))
    x = torch.rand(16, *model.data_shape)
    model.initialize(x)
    optimizer = torch.optim.Adamax(model.parameters(), 1e-3)
    for step in range(5):
        optimizer.zero_grad()
        (-model(x).mean()).backward()
        for key, p in model.named_parameters():
            assert p.grad is not None, key
            assert p.grad.isfinite().all(), key
            assert step < 4 or p.grad.abs().max() > 0, key
        optimizer.step()


@every_flow
def test_bfloat16_nets_are_for_training_alone(flow):
    torch.manual_seed(0)
    model = flow(CONFIGS[flow](**(TINY[flow] | {"size": 8})))
    perturb(model)
    x = images(model, 8, torch.float32)
    model.initialize(x)
    model.net_dtype = torch.bfloat16
    scored = model.eval()(x)
    assert torch.equal(scored, model.log_prob(x))
    rounded = copy.deepcopy(model).train()
    if flow is RealNVP:
        for module in rounded.modules():
            if isinstance(module, BatchNorm):
                module.eval()  # the batch would count for something
    found = rounded(x)
    assert not torch.equal(found, scored)
    assert (found - scored).abs().mean() / (64 * math.log(2)) < 0.02  # bits/dim


# Saving


@every_option
def test_weights_of_one_are_the_other(flow, options):
    model = build(flow, torch.float32, **options)
    torch.manual_seed(7)
    other = flow(CONFIGS[flow](**(TINY[flow] | options))).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    x = images(model, 2, torch.float32)
    assert torch.equal(model.log_prob(x), other.log_prob(x))
    config = CONFIGS[flow](**dataclasses.asdict(model.config))
    assert config == model.config


@pytest.mark.parametrize(
    ("flow", "module"), [(NICE, nice), (RealNVP, realnvp)], ids=["nice", "realnvp"]
)
def test_rounding_all_but_the_float32_keys_hardly_matters(flow, module):
    # plugin.py repeats the patterns, since it must not import torch.
    [spec] = [
        s for s in kexue_components() if s.kind == "model" and s.name == flow.__name__.lower()
    ]
    assert spec.float32 == module.FLOAT32_KEYS
    model = build(flow, torch.float32, size=8)
    x = images(model, 16, torch.float32)
    before = model.log_prob(x)
    state = model.state_dict()
    keep = module.FLOAT32_KEYS
    rounded = [
        k
        for k, v in state.items()
        if v.is_floating_point() and not any(fnmatch.fnmatch(k, g) for g in keep)
    ]
    assert rounded
    assert all(k.endswith(".weight") for k in rounded)
    for key in rounded:
        state[key] = state[key].half().float()
    model.load_state_dict(state)
    assert (model.log_prob(x) - before).abs().max() / (64 * math.log(2)) < 5e-3  # bits/dim


@pytest.mark.parametrize("module", [nice, realnvp], ids=["nice", "realnvp"])
def test_the_file_runs_when_copied_out_with_glow(module, tmp_path):
    for source in (glow, module):
        (tmp_path / "copied").mkdir(exist_ok=True)
        shutil.copy(Path(source.__file__), tmp_path / "copied")
    stem, cls = {"nice": ("nice", "NICE"), "realnvp": ("realnvp", "RealNVP")}[
        Path(module.__file__).stem
    ]
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        f"from copied.{stem} import {cls}, {cls}Config\n"
        f"model = {cls}({cls}Config(size=8, hidden=8))\n"
        "images = model.decode(model.prior(4, temperature=0.7))\n"
        "assert images.shape[0] == 4 and model.bits_per_dim(images).shape == (4,)\n"
        "assert not [m for m in sys.modules if m.startswith('kexue')]\n"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True, cwd=tmp_path)


# Inputs


@every_flow
@pytest.mark.parametrize("n", [0, 1])
def test_small_batches(flow, n):
    model = build(flow, torch.float32)
    x = images(model, n, torch.float32)
    for mode in (model.eval(), model.train()):
        assert mode.log_prob(x).shape == (n,)
        assert mode.decode(mode.to_latent(x)).shape == x.shape
        assert mode.decode(mode.prior(n)).shape == x.shape
        mode(x).sum().backward()
    assert all(b.isfinite().all() for b in model.buffers())


@every_flow
def test_wrong_images_are_refused(flow):
    model = build(flow, torch.float32)
    good = torch.rand(2, 1, 4, 4)
    for wrong in (good[0], good.expand(-1, 3, -1, -1), good[:, :, :2]):
        with pytest.raises(ValueError, match=r"\(1, 4, 4\)"):
            model(wrong)
    for wrong in (good * 255, good - 1, good.clone().fill_(math.nan)):
        for method in (model.log_prob, model.bits_per_dim, model.to_latent, model.initialize):
            with pytest.raises(ValueError, match=r"\[0, 1\]"):
                method(wrong)
    with pytest.raises(ValueError, match="latents"):
        model.decode(())
    with pytest.raises(ValueError, match="unconditional"):
        model.prior(1, condition=torch.zeros(1))
    with pytest.raises(ValueError, match="temperature"):
        model.prior(1, temperature=-1.0)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (NICEConfig, {"size": 3}, "halves"),
        (NICEConfig, {"depth": 0}, "depth must be at least 1"),
        (NICEConfig, {"bits": 9}, "bits must be at most 8"),
        (NICEConfig, {"partition": "thirds"}, "parity, halves, shuffle"),
        (NICEConfig, {"prior": "uniform"}, "normal, logistic"),
        (RealNVPConfig, {"levels": 10**12}, "not a multiple of"),
        (RealNVPConfig, {"size": 30}, "not a multiple of 2\\*\\*\\(levels - 1\\) with 3 levels"),
        (RealNVPConfig, {"size": 4, "levels": 3}, "no checkerboard"),
        (RealNVPConfig, {"couplings": 0}, "couplings must be at least 1"),
        (RealNVPConfig, {"blocks": -1}, "blocks"),
        (RealNVPConfig, {"alpha": 0.5}, "alpha"),
        (RealNVPConfig, {"momentum": 0.0}, "momentum"),
        (RealNVPConfig, {"split_prior": "none"}, "standard, learned"),
        (RealNVPConfig, {"channels": 1, "levels": 1, "checkerboard": False}, "one channel"),
    ],
)
def test_wrong_configurations_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


# Reversible steps


@every_flow
def test_reversible_training_gives_the_gradients_of_the_ordinary(flow):
    torch.manual_seed(0)
    deep = {k: v for k, v in DEEP[flow].items() if k not in ("size", "levels")}
    model = flow(CONFIGS[flow](**({"levels": 2} if flow is not NICE else {}), size=8, **deep))
    x = images(model, 8, torch.float32)
    model.initialize(x)
    perturb(model, 0.02)
    found = []
    for reversible in (False, True):
        one = copy.deepcopy(model).train()
        one.reversible = reversible
        loss = -one(x).mean()
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in one.parameters()])
        found.append((loss.detach(), gradients, list(one.buffers())))
    (loss, gradients, buffers), (again, recomputed, left) = found
    assert torch.equal(loss, again)
    # float32: the inverse is off by 1e-6, and so are the activations found by it.
    assert (recomputed - gradients).norm() < 1e-4 * gradients.norm()
    for a, b in zip(buffers, left, strict=True):
        assert torch.equal(a, b)  # a batch is counted once


@every_option
def test_reversible_training_of_every_option(flow, options):
    model = build(flow, **options).train()
    other = copy.deepcopy(model)
    other.reversible = True
    x = images(model, 4).requires_grad_()
    y = x.detach().clone().requires_grad_()
    model(x).sum().backward()
    other(y).sum().backward()
    assert (x.grad - y.grad).abs().max() < 1e-9
    for (key, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() < 1e-9, key


def test_reversible_steps_keep_their_output_alone():
    kept = {}
    for steps in (2, 8):
        model = Glow(GlowConfig(size=8, levels=1, steps=steps, hidden=16)).train()
        model.reversible = True
        saved = 0

        own = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}

        def count(t: Tensor, own: set[int] = own) -> Tensor:
            nonlocal saved
            saved += 0 if t.data_ptr() in own else t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            loss = -model(torch.rand(4, 3, 8, 8)).mean()
        kept[steps] = saved
        loss.backward()
    assert kept[2] == kept[8]


def test_steps_that_changed_since_are_refused():
    model = build(RealNVP, torch.float32).train()
    model.reversible = True
    x = images(model, 4, torch.float32)
    first = model(x).sum()
    model(x)  # moves the running statistics that the first pass would be inverted by
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.backward()
