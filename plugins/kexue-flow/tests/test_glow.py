"""Glow: exact log-determinant, exact inverse, and the promises that the verbs rely on."""

import dataclasses
import fnmatch
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kexue_flow import glow as module
from kexue_flow.glow import FLOAT32_KEYS, Glow, GlowConfig, Mixing, Prior, Step, dequantize
from safetensors.torch import load_file, save_file
from torch import Tensor

TINY = {"size": 4, "channels": 1, "levels": 2, "steps": 2, "hidden": 6}
# Every option once, against the defaults.
OPTIONS = [
    {},
    {"levels": 1},
    {"channels": 3, "size": 2, "levels": 1},
    {"coupling": "additive"},
    {"permutation": "conv"},
    {"permutation": "shuffle"},
    {"permutation": "reverse"},
    {"scale": "exp-tanh"},
    {"scale_floor": 0.0},
    {"scale_floor": 0.3},
    {"split_prior": "standard"},
    {"top_prior": "standard"},
    {"net_actnorm": False},
    {"edges": False},
    # What normflows calls Glow.
    {
        "split_prior": "standard",
        "top_prior": "standard",
        "net_actnorm": False,
        "edges": False,
        "scale_floor": 0.0,
    },
]


@pytest.fixture
def one_thread():
    """Bit-equality across processes needs the same number of threads in both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def name(options: dict) -> str:
    return ",".join(f"{k}={v}" for k, v in options.items()) or "default"


every_option = pytest.mark.parametrize("options", OPTIONS, ids=name)


def perturb(model: torch.nn.Module, amount: float = 0.1) -> None:
    """Away from the start, where the couplings and priors do nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(amount * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def build(dtype: torch.dtype = torch.float64, **options) -> Glow:
    torch.manual_seed(0)
    model = Glow(GlowConfig(**(TINY | options))).to(dtype).eval()
    perturb(model)
    return model


def images(model: Glow, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, *model.data_shape, generator=torch.Generator().manual_seed(2)).to(dtype)


def log_abs_det(function, x: Tensor) -> Tensor:
    """Of the autograd Jacobian of a map of one sample, (1, ...) -> (1, ...)."""
    jacobian = torch.autograd.functional.jacobian(lambda v: function(v).flatten(), x)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel()))[1]


def flat(latents: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([z.flatten(1) for z in latents], dim=1)


# The log-determinant, layer by layer and whole


@every_option
def test_log_det_of_the_model_is_that_of_its_jacobian(options):
    model = build(**options)
    for x in images(model, 2).split(1):
        _, log_det = model.transform(x)
        expected = log_abs_det(lambda v: flat(model.transform(v)[0]), x)
        assert log_det.item() == pytest.approx(expected.item(), abs=1e-9)
        assert abs(log_det.item()) > 0.1  # a sign error cannot hide behind zero


@every_option
def test_log_det_of_a_step_is_that_of_its_jacobian(options):
    config = GlowConfig(**(TINY | options))
    torch.manual_seed(0)
    step = Step(4, config).double()
    perturb(step)
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    y, log_det = step(x)
    assert log_det.item() == pytest.approx(log_abs_det(lambda v: step(v)[0], x).item(), abs=1e-9)
    assert (step.inverse(y) - x).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["conv-lu", "conv", "shuffle", "reverse"])
def test_mixing_matrices(kind):
    torch.manual_seed(0)
    mixing = Mixing(8, kind)
    matrix, log_det = mixing()
    # They start as rotations: they keep the volume, whatever the number of levels and steps.
    assert log_det.item() == pytest.approx(0, abs=1e-5)
    assert (matrix @ matrix.T - torch.eye(8)).abs().max() < 1e-5
    perturb(mixing)
    matrix, log_det = mixing()
    assert log_det.item() == pytest.approx(torch.linalg.slogdet(matrix)[1].item(), abs=1e-12)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("kind", ["learned", "standard"])
def test_log_det_of_a_prior_is_that_of_its_jacobian(split, kind):
    torch.manual_seed(0)
    prior = Prior(4, kind, split=split).double()
    perturb(prior)
    z, kept = torch.randn(2, 1, 4, 2, 2, dtype=torch.float64)
    noise, log_det = prior(z, kept)
    expected = log_abs_det(lambda v: prior(v, kept)[0], z)
    assert log_det.item() == pytest.approx(expected.item(), abs=1e-12)
    assert (prior.inverse(noise, kept) - z).abs().max() < 1e-13


def test_the_density_integrates_to_one():
    # Importance sampling in four dimensions: a wrong sign or a lost factor is far from 1.
    model = build(size=2, levels=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        drawn = model.inverse(model.prior(4000, generator=generator)).flatten(1)
        mean, spread = drawn.mean(0), 1.5 * drawn.std(0)
        eps = torch.randn(200_000, 4, generator=generator, dtype=torch.float64)
        log_proposal = -0.5 * (eps**2 + math.log(2 * math.pi)).sum(1) - spread.log().sum()
        weights = (model((mean + spread * eps).view(-1, 1, 2, 2)) - log_proposal).exp()
    error = weights.std() / len(weights) ** 0.5
    assert error < 0.02
    assert abs(weights.mean() - 1) < 4 * error


# A slow reference, written from the paper and its code, one formula after the other


def reference(model: Glow, x: Tensor) -> tuple[Tensor, Tensor]:
    """All latents side by side, and log p, of images (N, C, H, W)."""
    config, state = model.config, model.state_dict()

    def convolve(key: str, h: Tensor) -> Tensor:
        weight, side = state[f"{key}.weight"], state[f"{key}.weight"].shape[-1] // 2
        h = F.pad(h, (side,) * 4)
        if f"{key}.edge" in state:  # the indicator as a further input channel, as in the code
            ring = torch.ones_like(h[:, :1])
            ring[:, :, 1:-1, 1:-1] = 0
            h, weight = torch.cat([h, ring], 1), torch.cat([weight, state[f"{key}.edge"]], 1)
        h = F.conv2d(h, weight) + state[f"{key}.bias"].view(1, -1, 1, 1)
        logs = state.get(f"{key}.logs")
        return h if logs is None else h * (3 * logs).exp().view(1, -1, 1, 1)

    def matrix(key: str, channels: int) -> Tensor:
        eye = torch.eye(channels, dtype=torch.float64)
        if config.permutation == "conv":
            return state[f"{key}.weight"]
        p = eye[state[f"{key}.permutation"]]
        if config.permutation != "conv-lu":
            return p
        lu = state[f"{key}.lu"]
        diagonal = torch.diag(state[f"{key}.sign"] * lu.diagonal().exp())
        return p @ (torch.tril(lu, -1) + eye) @ (torch.triu(lu, 1) + diagonal)

    h, log_det, latents = x - 0.5, torch.zeros(len(x), dtype=x.dtype), []
    for i in range(config.levels):
        n, c, height, width = h.shape
        squeezed = torch.empty(n, 4 * c, height // 2, width // 2, dtype=h.dtype)
        for channel in range(c):
            for dy in (0, 1):
                for dx in (0, 1):
                    squeezed[:, 4 * channel + 2 * dy + dx] = h[:, channel, dy::2, dx::2]
        h, c, pixels = squeezed, 4 * c, height * width // 4
        for k in range(config.steps):
            key = f"levels.{i}.steps.{k}"
            shift, logs = state[f"{key}.actnorm.shift"], 3 * state[f"{key}.actnorm.logs"]
            h = (h + shift.view(1, -1, 1, 1)) * logs.exp().view(1, -1, 1, 1)
            w = matrix(f"{key}.mixing", c)
            h = torch.einsum("ij,njyx->niyx", w, h)
            log_det = log_det + pixels * (logs.sum() + torch.linalg.det(w).abs().log())
            h1, h2 = h[:, : c // 2], h[:, c // 2 :]
            out = convolve(f"{key}.net.first", h1).relu()
            out = convolve(f"{key}.net.last", convolve(f"{key}.net.middle", out).relu())
            if config.coupling == "additive":
                h2 = h2 + out
            else:
                t, a, floor = out[:, : c // 2], out[:, c // 2 :], config.scale_floor
                if config.scale == "sigmoid":
                    s = floor + (1 - floor) / (1 + (-a - 2).exp())
                else:
                    bound = math.log(1 / floor)
                    s = (bound * (a / bound).tanh()).exp()
                h2 = (h2 + t) * s
                log_det = log_det + s.log().flatten(1).sum(1)
            h = torch.cat([h1, h2], 1)
        last = i == config.levels - 1
        kept, z = h[:, : 0 if last else c // 2], h[:, 0 if last else c // 2 :]
        key = f"levels.{i}.prior"
        mean, logs = torch.zeros(2, *z.shape, dtype=z.dtype)
        if last and config.top_prior == "learned":
            mean = mean + state[f"{key}.mean"].view(1, -1, 1, 1)
            logs = logs + 3 * state[f"{key}.logs"].view(1, -1, 1, 1)
        elif not last and config.split_prior == "learned":
            mean, logs = convolve(f"{key}.conv", kept).chunk(2, 1)
            logs = logs.clamp(-7, 7)
        latents.append((z - mean) / logs.exp())
        log_det = log_det - logs.flatten(1).sum(1)
        h = kept
    normal = torch.distributions.Normal(0.0, 1.0)
    return flat(latents), log_det + normal.log_prob(flat(latents)).sum(1)


@every_option
def test_it_is_the_formula(options):
    model = build(**options)
    x = images(model, 3)
    with torch.no_grad():
        latents, log_prob = reference(model, x)
        assert (flat(model.to_latent(x)) - latents).abs().max() < 1e-10
        assert (model.log_prob(x) - log_prob).abs().max() < 1e-9


# The inverse


@every_option
def test_inverse(options):
    model = build(**options)
    x = images(model, 3)
    with torch.no_grad():
        assert (model.inverse(model.transform(x)[0]) - x).abs().max() < 1e-11
        noise = model.prior(3, generator=torch.Generator().manual_seed(4))
        assert (flat(model.transform(model.inverse(noise))[0]) - flat(noise)).abs().max() < 1e-10


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_inverse_of_a_deep_model(dtype, bar, device):
    torch.manual_seed(0)
    model = Glow(GlowConfig(size=16, levels=3, steps=16, hidden=32)).to(dtype).eval()
    x = images(model, 8, dtype)
    model.initialize(x)
    perturb(model, 0.01)
    model, x = model.to(device), x.to(device)
    with torch.no_grad():
        latents, log_det = model.transform(x)
        assert (model.inverse(latents) - x).abs().max() < bar
        assert flat(latents).abs().max() < 100  # the perturbed model is still a reasonable one
        assert log_det.isfinite().all()
        assert (model.decode(model.to_latent(x)) - x).abs().max() < bar


def test_convolutions_on_a_gpu_are_not_rounded_to_tf32():
    before = torch.backends.cudnn.conv.fp32_precision
    with module._ieee_convolutions():
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == before
    assert isinstance(torch.backends.cudnn.allow_tf32, bool)  # the old switch still works


def extreme(model: Glow) -> Glow:
    """Couplings whose scale logits are all far below zero."""
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("net.last.bias"):
                p[len(p) // 2 :] = -1e4
    return model


def test_the_scale_floor_keeps_samples_finite():
    for options in ({}, {"scale": "exp-tanh"}):
        model = extreme(build(torch.float32, **options))
        latents = model.prior(4, generator=torch.Generator().manual_seed(0))
        assert model.inverse(latents).isfinite().all()
        x = images(model, 4, torch.float32)
        assert (model.inverse(model.transform(x)[0]) - x).abs().max() < 0.1
    model = extreme(build(torch.float32, scale_floor=0.0))  # the trap
    assert not model.inverse(latents).isfinite().all()


# Bits per dimension


def test_bits_of_the_identity_flow():
    # A reversal of channels, couplings that start at zero, a standard normal: on data uniform in
    # [-1/2, 1/2] a dimension costs bits + log2(2 pi) / 2 + E[x^2] / (2 ln 2) with E[x^2] = 1/12.
    for bits in (5, 8):
        config = GlowConfig(
            size=32,
            levels=2,
            steps=1,
            hidden=1,
            bits=bits,
            permutation="reverse",
            coupling="additive",
            split_prior="standard",
        )
        model = Glow(config)
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(256, (300, 3, 32, 32), generator=generator) / 255
        found = model.bits_per_dim(x, generator=generator).mean().item()
        expected = bits + math.log2(2 * math.pi) / 2 + 1 / (24 * math.log(2))
        assert expected == pytest.approx(bits + 1.386, abs=1e-3)
        # 300 x 3072 dimensions: the standard error is 1e-4.
        assert found == pytest.approx(expected, abs=1e-3)


def test_dequantisation():
    values = torch.arange(256).view(1, 1, 16, 16) / 255
    for bits in (1, 5, 8):
        low = dequantize(values, torch.zeros(1, 1, 16, 16), bits)
        high = dequantize(values, torch.full((1, 1, 16, 16), 1 - 2**-20), bits)
        bins = (torch.arange(256) >> (8 - bits)).view(1, 1, 16, 16)
        assert torch.equal(low * 2**bits, bins.float())
        assert (high <= low + 2**-bits).all()
        assert high.max() <= 1


def test_bits_per_dim_sees_the_bits_alone_and_each_image_alone():
    model = build(torch.float32, size=8)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (5, 1, 8, 8), generator=generator)

    def bits(values: Tensor) -> Tensor:
        return model.bits_per_dim(values / 255, generator=torch.Generator().manual_seed(1))

    whole = bits(pixels)
    assert whole.shape == (5,)
    assert torch.equal(whole, bits(pixels // 8 * 8 + 7))  # 5 bits: the lowest three do not matter
    assert not torch.equal(whole, bits((pixels + 8) % 256))
    # Noise is drawn image by image; sums in another order differ in the last digits of float32.
    assert (whole[:3] - bits(pixels[:3])).abs().max() < 1e-5


# Sampling


def test_sample_i_of_a_seed_is_the_same_at_any_batch_size():
    torch.manual_seed(0)
    model = Glow(GlowConfig(size=16, levels=3, steps=4, hidden=32)).eval()
    model.initialize(images(model, 8, torch.float32))
    perturb(model, 0.02)

    def draw(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(5)
        batches = [model.prior(n, temperature=0.7, generator=generator) for n in sizes]
        return torch.cat([flat(z) for z in batches]), torch.cat([model.decode(z) for z in batches])

    latents, x = draw((8,))
    for sizes in ((1,) * 8, (3, 3, 2)):
        other_latents, other_x = draw(sizes)
        assert torch.equal(other_latents, latents)
        # Bit-equal in batches of 2 and more on the CPU this was written on; for a single image
        # convolutions choose another algorithm, whose sums differ by 1e-6 at most. An image file
        # shows 4e-3.
        assert (other_x - x).abs().max() < 2e-5


def test_latents_are_independent_of_the_number_type():
    single, double = build(torch.float32), build(torch.float64)
    a = single.prior(2, generator=torch.Generator().manual_seed(0))
    b = double.prior(2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(flat(a).double(), flat(b))


def test_temperature_multiplies_every_level():
    model = build()
    ones = model.prior(3, generator=torch.Generator().manual_seed(0))
    half = model.prior(3, temperature=0.5, generator=torch.Generator().manual_seed(0))
    for a, b in zip(ones, half, strict=True):
        assert torch.equal(a * 0.5, b)
    cold = model.decode(model.prior(3, temperature=0.0))
    assert torch.equal(cold[0], cold[1])
    assert torch.equal(cold[0], cold[2])


def test_latents_of_samples_are_standard_normal():
    # What the prior draws is what the model encodes its own samples to, at every level.
    model = build()
    drawn = model.prior(2000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for z in model.transform(model.inverse(drawn))[0]:
            assert z.mean().abs() < 0.05
            assert (z.std() - 1).abs() < 0.05


# Initialisation


def test_initialisation_whitens_every_actnorm():
    model = Glow(GlowConfig(size=8, levels=2, steps=3, hidden=16)).double()
    x = dequantize(images(model, 64) ** 2, torch.rand(64, 3, 8, 8).double(), 5)
    model.initialize(x)
    seen = []
    for step in model.modules():
        if isinstance(step, Step):
            step.register_forward_pre_hook(lambda s, args: seen.append((s.actnorm, args[0])))
        if isinstance(step, module.CouplingNet):
            for conv in (step.first, step.middle):
                conv.register_forward_hook(lambda _, __, out: seen.append((None, out.clone())))
    model.transform(x)
    assert len(seen) == 2 * 3 * 3
    for actnorm, h in seen:
        if actnorm is not None:
            shift, logs = actnorm.shift[:, None, None], 3 * actnorm.logs[:, None, None]
            white = (h + shift) * logs.exp()
        else:
            white = h
        std, mean = torch.std_mean(white, dim=(0, 2, 3), correction=0)
        assert mean.abs().max() < 1e-9
        assert (std - 1).abs().max() < 1e-9


def test_constant_channels_initialise_to_finite_values():
    model = Glow(GlowConfig(**TINY))
    model.initialize(torch.full((8, 1, 4, 4), 0.25))
    assert all(p.isfinite().all() for p in model.parameters())
    assert model(torch.rand(4, 1, 4, 4)).isfinite().all()


# Training


@every_option
def test_every_parameter_learns(options):
    torch.manual_seed(0)
    model = Glow(GlowConfig(**(TINY | options)))
    x = torch.rand(16, *model.data_shape)
    model.initialize(x)
    optimizer = torch.optim.Adamax(model.parameters(), 1e-3)
    for step in range(4):
        optimizer.zero_grad()
        (-model(x).mean()).backward()
        for key, p in model.named_parameters():
            assert p.grad is not None, key
            assert p.grad.isfinite().all(), key
            assert step < 3 or p.grad.abs().max() > 0, key
        optimizer.step()


def test_bfloat16_nets_train_and_score_nearly_the_same():
    torch.manual_seed(0)
    model = Glow(GlowConfig(size=8, levels=2, steps=4, hidden=32))
    x = dequantize(torch.rand(32, 3, 1, 1).expand(-1, -1, 8, 8), torch.rand(32, 3, 8, 8), 5)
    model.initialize(x)
    model.net_dtype = torch.bfloat16
    optimizer = torch.optim.Adamax(model.parameters(), 2e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = -model(x).mean() / (192 * math.log(2))  # bits/dim, but for the bits
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    rounded = model(x)
    model.eval()
    scored = model(x)
    assert torch.equal(scored, model.log_prob(x))  # full precision but for training
    assert not torch.equal(scored, rounded)
    assert (scored - rounded).abs().mean() / (192 * math.log(2)) < 0.01  # bits/dim
    assert (model.inverse(model.transform(x)[0]) - x).abs().max() < 1e-5


# Saving


CHILD = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from kexue_flow.glow import Glow, GlowConfig
torch.set_num_threads(1)
for folder in Path(sys.argv[1]).iterdir():
    with torch.device("meta"):
        model = Glow(GlowConfig(**json.loads((folder / "config.json").read_text()))).eval()
    state = load_file(folder / "weights.safetensors")
    model.load_state_dict(state, assign=True, strict=True)
    x = load_file(folder / "images.safetensors")["x"]
    with torch.no_grad():
        out = {"log_prob": model.log_prob(x), "decoded": model.decode(model.to_latent(x))}
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "out.safetensors")
"""


def test_saved_models_are_bit_identical_in_a_fresh_process(tmp_path, one_thread):
    models = {}
    for kind in ("conv-lu", "conv", "shuffle", "reverse"):
        folder = tmp_path / kind
        folder.mkdir()
        config = GlowConfig(**TINY, permutation=kind)
        torch.manual_seed(0)
        models[kind] = model = Glow(config).eval()
        x = torch.rand(3, 1, 4, 4)
        model.initialize(x)
        perturb(model)
        (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
        save_file(model.state_dict(), folder / "weights.safetensors")
        save_file({"x": x}, folder / "images.safetensors")
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=True)
    for kind, model in models.items():
        x = load_file(tmp_path / kind / "images.safetensors")["x"]
        found = load_file(tmp_path / kind / "out.safetensors")
        with torch.no_grad():
            assert torch.equal(found["log_prob"], model.log_prob(x))
            assert torch.equal(found["decoded"], model.decode(model.to_latent(x)))


def test_rounding_all_but_the_float32_keys_to_float16_hardly_matters():
    torch.manual_seed(0)
    model = Glow(GlowConfig(size=8, levels=2, steps=8, hidden=32)).eval()
    x = torch.rand(16, 3, 8, 8)
    model.initialize(x)
    perturb(model, 0.01)
    before = model.log_prob(x)
    state = model.state_dict()
    rounded = [k for k in state if not any(fnmatch.fnmatch(k, g) for g in FLOAT32_KEYS)]
    assert {k.split(".", 4)[4] for k in rounded} == {
        f"net.{c}"
        for c in ("first.weight", "first.edge", "middle.weight", "last.weight", "last.edge")
    }
    for key in rounded:
        state[key] = state[key].half().float()
    model.load_state_dict(state)
    assert (model.log_prob(x) - before).abs().max() / (192 * math.log(2)) < 1e-3  # bits/dim


# The file alone


def test_the_file_runs_when_copied_out(tmp_path):
    shutil.copy(Path(module.__file__), tmp_path / "glow.py")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import glow\n"
        "model = glow.Glow(glow.GlowConfig(size=8, levels=2, steps=2, hidden=16))\n"
        "images = model.decode(model.prior(4, temperature=0.7))\n"
        "assert images.shape == (4, 3, 8, 8) and model.bits_per_dim(images).shape == (4,)\n"
        "assert not [m for m in sys.modules if m.startswith('kexue')]\n"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True, cwd=tmp_path)


# Inputs


@pytest.mark.parametrize("n", [0, 1])
def test_small_batches(n):
    for model in (build(torch.float32), build(torch.float32, size=28, permutation="conv")):
        x = images(model, n, torch.float32)
        assert model.log_prob(x).shape == (n,)
        assert model.bits_per_dim(x).shape == (n,)
        assert model.decode(model.to_latent(x)).shape == x.shape
        latents = model.prior(n)
        assert [z.shape for z in latents] == [(n, *shape) for shape in model.latent_shapes]
        assert model.decode(latents).shape == x.shape
        model(x).sum().backward()


def test_memory_layout_does_not_matter():
    model = build(channels=3, size=8)
    x = images(model, 4)
    expected = model.log_prob(x)
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        x.repeat_interleave(2, 0)[::2],
        x[:1].expand(4, -1, -1, -1),
    ):
        reference_value = expected if torch.equal(other, x) else expected[:1].expand(4)
        assert (model.log_prob(other) - reference_value).abs().max() < 1e-10


def test_wrong_images_are_refused():
    model = build(torch.float32)
    good = torch.rand(2, 1, 4, 4)
    for wrong in (good[0], good.expand(-1, 3, -1, -1), good[:, :, :2]):
        with pytest.raises(ValueError, match=r"\(1, 4, 4\)"):
            model(wrong)
    for wrong in (good * 255, good - 1, good.clone().fill_(math.nan)):
        for method in (model.log_prob, model.bits_per_dim, model.to_latent, model.initialize):
            with pytest.raises(ValueError, match=r"\[0, 1\]"):
                method(wrong)
    with pytest.raises(ValueError, match="latents"):
        model.decode(model.prior(2)[:1])
    with pytest.raises(ValueError, match="unconditional"):
        model.prior(1, condition=torch.zeros(1))
    with pytest.raises(ValueError, match="temperature"):
        model.prior(1, temperature=-1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 10**12}, "not a multiple of"),
        ({"size": 30, "levels": 2}, "not a multiple of 2\\*\\*levels with 2 levels"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"bits": 9}, "bits must be at most 8"),
        ({"permutation": "lu"}, "conv-lu, conv, shuffle, reverse"),
        ({"coupling": "spline"}, "affine, additive"),
        ({"scale": "exp"}, "sigmoid, exp-tanh"),
        ({"scale_floor": 1.0}, "scale_floor"),
        ({"scale": "exp-tanh", "scale_floor": 0.0}, "above 0"),
        ({"split_prior": "none"}, "learned, standard"),
    ],
)
def test_wrong_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GlowConfig(**options)


def test_the_number_of_parameters_of_the_flagship():
    # Counted by hand from the shapes; the edge channel and the actnorms are included.
    total = 0
    for channels, last in ((12, False), (24, False), (48, False), (96, True)):
        half, width = channels // 2, 128
        net = (9 * half + 9 + 2) * width + (width + 2) * width + (9 * width + 9 + 2) * channels
        total += 16 * (2 * channels + channels**2 + net)
        total += 2 * channels if last else (9 * half + 9 + 2) * channels
    assert sum(p.numel() for p in Glow(GlowConfig()).parameters()) == total
