"""All seven quantisers: what they return, what learns, what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kexue_vqlinear
import pytest
import torch
from kexue_vqlinear import EMAVQ, FSQ, VQ, Quantizer, SimVQ, make_quantizer
from kexue_vqlinear.autoencoder import QUANTIZERS
from kexue_vqlinear.fsq import levels_for
from kexue_vqlinear.quantizer import rotate, with_gradient_of
from torch import Tensor

DIM, K = 6, 64
NAMES = sorted(QUANTIZERS)


def make(name: str, **options: Any) -> Quantizer:
    torch.manual_seed(0)
    quantizer = make_quantizer(name, DIM, K, **options)
    with torch.no_grad():  # plain VQ starts so near 0 that one code would be nearest to all
        for tensor in [*quantizer.parameters(), *quantizer.buffers()]:
            if tensor.is_floating_point() and tensor.shape == (K, DIM):
                tensor.normal_()
    return quantizer


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_from_codes_is_the_output_bit_for_bit(name: str, training: bool) -> None:
    quantizer = make(name).train(training)
    before = quantizer.table().clone()  # vq-ema moves its table after it was used
    quantized, codes, _, _ = quantizer(inputs(5, 7, DIM))
    assert torch.equal(quantized, before[codes])
    quantizer.eval()
    for z in (inputs(5, 7, DIM), inputs(1, DIM), inputs(2, 3, 41, DIM)):
        quantized, codes, _, _ = quantizer(z)
        assert torch.equal(quantizer.from_codes(codes), quantized)
        assert torch.equal(
            quantizer.from_codes(codes.reshape(-1)[:1]), quantized.reshape(-1, DIM)[:1]
        )
        assert torch.equal(quantizer.to_codes(z), codes)


@pytest.mark.parametrize("estimator", ["ste", "rotation"])
def test_rotation_gives_the_same_output_bit_for_bit(estimator: Any) -> None:
    quantizer = make("simvq", estimator=estimator)
    quantized, codes, _, _ = quantizer(inputs(9, DIM).requires_grad_())
    assert torch.equal(quantizer.from_codes(codes), quantized)


@pytest.mark.parametrize("name", NAMES)
def test_channel_first_is_channel_last_turned(name: str) -> None:
    last, first = make(name).eval(), make(name, channel_first=True).eval()
    z = inputs(2, 3, 4, DIM)
    expected, found = last(z), first(z.movedim(-1, 1))
    assert torch.equal(found.quantized.movedim(1, -1), expected.quantized)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(first.from_codes(found.codes), found.quantized)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_takes_rows_out(name: str) -> None:
    z = inputs(4, 5, DIM)
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) < 0.6
    whole, part = make(name), make(name)
    hidden = z.masked_fill(~mask[..., None], torch.nan).requires_grad_()  # not even looked at
    torch.manual_seed(0)  # vq-ema draws where to put its dead codes
    found = whole(hidden, mask)
    torch.manual_seed(0)
    expected = part(z[mask])
    assert torch.equal(found.quantized[mask], expected.quantized)
    assert not found.quantized[~mask].any()
    assert torch.equal(found.codes[mask], expected.codes)
    assert (found.codes[~mask] == -1).all()
    for mine, theirs in zip(
        (found.loss, *found.diagnostics), (expected.loss, *expected.diagnostics), strict=True
    ):
        assert torch.equal(mine, theirs)
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, part.state_dict()[key])  # nor did it move an average
    (found.loss + found.quantized.sum()).backward()
    assert hidden.grad is not None
    assert not hidden.grad[~mask].any()
    again = whole.eval()(z, mask)
    assert torch.equal(whole.from_codes(again.codes), again.quantized)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["empty", "masked"])
def test_nothing_to_quantise_gives_nothing(name: str, case: str) -> None:
    quantizer = make(name)
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    z = inputs(0 if case == "empty" else 3, DIM).requires_grad_()
    mask = torch.zeros(len(z), dtype=torch.bool) if case == "masked" else None
    quantized, codes, loss, diagnostics = quantizer(z, mask)
    assert quantized.shape == z.shape
    assert codes.shape == z.shape[:1]
    assert float(loss.detach()) == 0
    assert [float(d) for d in diagnostics] == [0, 0, 0]
    (loss + quantized.sum()).backward()
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_ste_hands_the_gradient_on(name: str) -> None:
    if name in ("vq-cosine", "fsq"):
        pytest.skip("projections lie between its input and its output")
    quantizer = make(name, commitment=0.0, **({} if name == "vq-ema" else {"codebook": 0.0}))
    z, slope = inputs(8, DIM).requires_grad_(), inputs(8, DIM, seed=2)
    quantizer(z).quantized.backward(slope)
    assert z.grad is not None
    assert torch.equal(z.grad, slope)


def test_rotation_turns_the_gradient_as_its_formula_says() -> None:
    z, e, slope = (inputs(50, DIM, seed=s).double() for s in (1, 2, 3))
    z.requires_grad_()
    rotated = rotate(z, e)
    torch.testing.assert_close(rotated.detach(), e)  # z is turned and scaled into e
    rotated.backward(slope)
    for i in range(50):
        a, b = z.detach()[i], e[i]
        a_unit, b_unit = a / a.norm(), b / b.norm()
        r = (a_unit + b_unit) / (a_unit + b_unit).norm()
        rotation = torch.eye(DIM) - 2 * torch.outer(r, r) + 2 * torch.outer(b_unit, a_unit)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(DIM).double())
        torch.testing.assert_close(z.grad[i], (b.norm() / a.norm()) * rotation.T @ slope[i])


@pytest.mark.parametrize("z", [torch.zeros(1, 3), torch.tensor([[-1.0, 0, 0]])])
def test_rotation_is_finite_where_it_is_not_defined(z: Tensor) -> None:
    z.requires_grad_()
    rotate(z, torch.tensor([[1.0, 0, 0]])).sum().backward()
    assert z.grad.isfinite().all()
    z.grad = None
    rotate(z, torch.zeros(1, 3)).sum().backward()
    assert z.grad.isfinite().all()


def test_a_value_keeps_its_bits_with_the_gradient_of_another() -> None:
    carrier = torch.tensor([1e8, 1.0], requires_grad=True)
    value = torch.tensor([1.0, 1e-8])
    out = with_gradient_of(carrier, value)
    assert torch.equal(out, value)
    assert not torch.equal(carrier + (value - carrier).detach(), value)  # the usual way
    (3 * out).sum().backward()
    assert carrier.grad.tolist() == [3, 3]


@pytest.mark.parametrize("name", ["vq", "simvq-both"])
def test_the_gradient_of_a_table_is_that_of_its_loss(name: str) -> None:
    """Of the commitment loss, written out over one-hot codes, in float64."""
    quantizer = make(name).double()
    z = inputs(40, DIM).double().requires_grad_()
    _, codes, loss, _ = quantizer(z)
    loss.backward()
    found = {k: p.grad.clone() for k, p in quantizer.named_parameters()} | {"z": z.grad.clone()}
    quantizer.zero_grad()
    z.grad = None
    table = quantizer.embedding
    if isinstance(quantizer, SimVQ):
        table = table @ quantizer.weight.T + quantizer.bias
    e = torch.nn.functional.one_hot(codes, K).double() @ table
    expected = (e - z.detach()).square().mean() + 0.25 * (z - e.detach()).square().mean()
    torch.testing.assert_close(loss, expected)
    expected.backward()
    for key, p in quantizer.named_parameters():
        torch.testing.assert_close(found[key], p.grad)
    torch.testing.assert_close(found["z"], z.grad)


@pytest.mark.parametrize("name", ["vq", "simvq", "simvq-both", "simvq-diagonal"])
def test_an_unused_code_moves_with_simvq_and_not_with_vq(name: str) -> None:
    """The claim of post 10519: one step of gradient descent, and where each code is after it."""
    quantizer = make(name)
    before = quantizer.table().clone()
    _, codes, loss, _ = quantizer(inputs(8, DIM))
    loss.backward()
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.sub_(0.1 * parameter.grad)
    moved = (quantizer.table() - before).abs().amax(1)
    used = torch.zeros(K, dtype=torch.bool).index_fill(0, codes.unique(), True)
    assert (~used).sum() > K // 2
    assert (moved[used] > 0).all()
    if name == "vq":
        assert not quantizer.embedding.grad[~used].any()
        assert not moved[~used].any()
    else:
        assert (moved[~used] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_does_not_learn(name: str) -> None:
    quantizer = make(name)
    trained = {k for k, p in quantizer.named_parameters() if p.requires_grad}
    expected = {
        "vq": {"embedding"},
        "vq-ema": set(),
        "simvq": {"weight", "bias"},
        "simvq-both": {"embedding", "weight", "bias"},
        "simvq-diagonal": {"embedding", "weight", "bias"},
    }
    assert trained == expected.get(name, trained)
    assert "embedding" in quantizer.state_dict() or name == "fsq"  # frozen codes are saved


def test_averages_follow_their_formula() -> None:
    quantizer = make("vq-ema", decay=0.9, threshold=0.0).double()
    assert isinstance(quantizer, EMAVQ)
    start = quantizer.embedding.clone()
    size, total = quantizer.cluster_size.clone(), quantizer.cluster_sum.clone()
    for seed in range(3):
        z = inputs(30, DIM, seed=seed).double()
        codes = quantizer(z).codes
        chosen = torch.nn.functional.one_hot(codes, K).double()
        size = 0.9 * size + 0.1 * chosen.sum(0)
        total = 0.9 * total + 0.1 * chosen.T @ z.double()
    torch.testing.assert_close(quantizer.cluster_size.double(), size)
    chosen_once = size > 0
    mean = total[chosen_once] / size[chosen_once, None]
    torch.testing.assert_close(quantizer.embedding[chosen_once].double(), mean)
    assert torch.equal(quantizer.embedding[~chosen_once], start[~chosen_once])
    before = quantizer.embedding.clone()
    quantizer.eval()(inputs(30, DIM))
    assert torch.equal(quantizer.embedding, before)


def test_a_dead_code_is_put_on_a_vector_of_the_batch() -> None:
    quantizer = make("vq-ema")
    z = inputs(4, DIM)
    used = quantizer(z).codes.unique().tolist()
    revived = [k for k in range(K) if k not in used]
    near = (quantizer.embedding[revived, None] - z).abs().amax(-1).amin(1)
    assert float(near.max()) < 1e-6  # there but for the rounding of a mean of one
    # Chosen no more, it dies again when its size has fallen to a tenth of a share.
    place, far = quantizer.embedding[revived[0]].clone(), z + 100
    quantizer.threshold = 0.0
    for _ in range(3):
        quantizer(far)
    torch.testing.assert_close(quantizer.embedding[revived[0]], place)
    quantizer.threshold = 0.98
    quantizer(far)
    assert float((quantizer.embedding[revived[0]] - far).abs().amax(-1).min()) < 1e-4


@pytest.mark.parametrize(
    ("k", "levels"),
    [
        (1024, (8, 8, 4, 4)),
        (512, (8, 8, 8)),
        (1000, (8, 5, 5, 5)),
        (4, (4,)),
        (16, (4, 4)),
        (65536, (8, 8, 8, 8, 4, 4)),
    ],
)
def test_levels_make_the_number_of_codes(k: int, levels: tuple[int, ...]) -> None:
    assert levels_for(k) == levels
    assert torch.tensor(levels).prod() == k


@pytest.mark.parametrize("levels", [(3, 4, 5), (8, 7), (64,)])
def test_fsq_reaches_every_point_of_its_grid_and_no_other(levels: tuple[int, ...]) -> None:
    size = int(torch.tensor(levels).prod())
    fsq = FSQ(len(levels), size, levels=levels)
    with torch.no_grad():
        for linear in (fsq.project_in, fsq.project_out):
            linear.weight.copy_(torch.eye(len(levels)))
            linear.bias.zero_()
    quantized, codes, loss, _ = fsq(3 * inputs(60_000, len(levels)))
    assert codes.unique().tolist() == list(range(size))
    assert float(loss.detach()) == 0
    # The points are evenly spaced, a coordinate at a time.
    for i, level in enumerate(levels):
        values = fsq.table()[:, i].unique()
        assert len(values) == level
        torch.testing.assert_close(values.diff(), torch.full((level - 1,), 1 / (level // 2)))
        assert set(quantized[:, i].unique().tolist()) <= set(values.tolist())


def test_baked_codes_are_the_same_bit_for_bit() -> None:
    simvq = make("simvq", channel_first=True).eval()
    assert isinstance(simvq, SimVQ)
    baked = simvq.bake()
    assert type(baked) is VQ
    z = inputs(3, DIM, 5, 5)
    for mine, theirs in zip(simvq(z)[:2], baked(z)[:2], strict=True):
        assert torch.equal(mine, theirs)
    assert not any(p.requires_grad for p in baked.parameters())


def test_drawn_codes_are_for_training_only() -> None:
    quantizer = make("vq", temperature=5.0)
    z = inputs(50, DIM)
    torch.manual_seed(0)
    drawn = quantizer(z)
    nearest = quantizer.eval()(z)
    assert not torch.equal(drawn.codes, nearest.codes)
    assert torch.equal(quantizer.train().to_codes(z), nearest.codes)
    assert quantizer.training
    assert torch.equal(quantizer.from_codes(drawn.codes), drawn.quantized)


@pytest.mark.parametrize("name", NAMES)
def test_rotation_with_drawn_codes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="diverges"):
        make_quantizer(name, DIM, K, estimator="rotation", temperature=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_input_is_refused(name: str) -> None:
    quantizer = make(name)
    for shape in [(3, DIM + 1), (DIM,), (2, DIM, 3)]:
        with pytest.raises(ValueError, match=rf"takes \(\.\.\., {DIM}\), got"):
            quantizer(torch.zeros(shape))
    with pytest.raises(ValueError, match=rf"takes \(n, {DIM}, \.\.\.\), got"):
        make(name, channel_first=True)(torch.zeros(2, 3, DIM))
    with pytest.raises(ValueError, match="floating-point"):
        quantizer(torch.zeros(3, DIM, dtype=torch.long))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="NaN"):
            quantizer(torch.full((3, DIM), bad))
    for mask in (torch.ones(2, 3), torch.ones(2, dtype=torch.bool)):
        with pytest.raises(ValueError, match="mask must be boolean"):
            quantizer(torch.zeros(2, 3, DIM), mask)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("codes", [[-2], [K], [0, K + 5]])
def test_codes_out_of_range_are_refused(name: str, codes: list[int]) -> None:
    with pytest.raises(ValueError, match=f"codes must be 0 to {K - 1}"):
        make(name).from_codes(torch.tensor(codes))
    with pytest.raises(ValueError, match="integers"):
        make(name).from_codes(torch.zeros(3))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"fsq"}))
def test_one_code_is_a_code(name: str) -> None:
    torch.manual_seed(0)
    quantizer = make_quantizer(name, DIM, 1)
    quantized, codes, loss, diagnostics = quantizer(inputs(9, DIM).requires_grad_())
    assert not codes.any()
    assert (float(diagnostics.utilization), float(diagnostics.perplexity)) == (1, 1)
    assert loss.isfinite()
    (loss + quantized.sum()).backward()
    quantizer.eval()
    assert torch.equal(quantizer.from_codes(codes), quantizer(inputs(9, DIM)).quantized)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim and num_embeddings"),
        ({"num_embeddings": 0}, "dim and num_embeddings"),
        ({"estimator": "gumbel"}, "estimator must be"),
        ({"temperature": -1.0}, "must be >= 0"),
        ({"commitment": float("nan")}, "must be >= 0"),
        ({"transform": "cubic"}, "transform must be"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimVQ(**{"dim": 4, "num_embeddings": 4, **options})


def test_further_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="quantizer must be one of"):
        make_quantizer("kmeans", 4, 4)
    with pytest.raises(ValueError, match="decay"):
        EMAVQ(4, 4, decay=1.0)
    with pytest.raises(ValueError, match="not a loss"):
        EMAVQ(4, 4, codebook=1.0)
    with pytest.raises(ValueError, match="code_dim"):
        make_quantizer("vq-cosine", 4, 4, code_dim=0)
    for k in (1, 2, 100):
        with pytest.raises(ValueError, match="no levels"):
            FSQ(4, k)
    with pytest.raises(ValueError, match="do not make"):
        FSQ(4, 8, levels=(2, 4))
    with pytest.raises(ValueError, match="FSQ rounds"):
        FSQ(4, 8, estimator="rotation")


def test_autocast_around_it_changes_nothing() -> None:
    quantizer = make("simvq")
    z = inputs(32, DIM)
    expected = quantizer(z)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(z)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.quantized, expected.quantized)
    assert torch.equal(found.loss, expected.loss)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("estimator", ["ste", "rotation"])
def test_half_precision_comes_out_in_the_codebooks_type(name: str, estimator: Any) -> None:
    if (name, estimator) == ("fsq", "rotation"):
        return
    quantizer = make(name, estimator=estimator)
    z = inputs(32, DIM).bfloat16().requires_grad_()
    quantized, _, loss, _ = quantizer(z)
    assert quantized.dtype == loss.dtype == torch.float32
    (loss + quantized.sum()).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    quantizer.eval()
    found = quantizer(z)
    assert torch.equal(quantizer.from_codes(found.codes), found.quantized)


def test_it_runs_without_kexue(tmp_path: Path) -> None:
    """The layers alone, copied out, need nothing but torch."""
    package = tmp_path / "kexue_vqlinear"
    package.mkdir()
    source = Path(kexue_vqlinear.__file__).parent
    for name in (
        "nearest",
        "losses",
        "usage",
        "quantizer",
        "vq",
        "simvq",
        "fsq",
        "autoencoder",
        "prior",
    ):
        (package / f"{name}.py").write_text((source / f"{name}.py").read_text())
    program = (
        "import sys; sys.modules['kexue_core'] = None\n"
        "import torch, kexue_vqlinear.prior, kexue_vqlinear.autoencoder\n"
        "from kexue_vqlinear.simvq import SimVQ\n"
        "print(tuple(SimVQ(8, 32)(torch.randn(3, 8)).quantized.shape))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(3, 8)", done.stderr
