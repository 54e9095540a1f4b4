"""The network against a reference, a text at a time in float64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kexue_dgcnn_ie.dgcnn as module
import pytest
import torch
import torch.nn.functional as F
from kexue_dgcnn_ie.dgcnn import (
    DGCNN,
    Blocks,
    Convolution,
    DGCNNConfig,
    Rows,
    SelfAttention,
    dropout,
)
from torch import Tensor


def convolve(layer: Convolution, x: Tensor) -> Tensor:
    """(L, inputs) -> (L, outputs) with ``conv1d``; the layer's columns are taps, then channels."""
    outputs, inputs = layer.linear.out_features, layer.linear.in_features // 3
    weight = layer.linear.weight.view(outputs, 3, inputs).transpose(1, 2)
    d = layer.dilation
    return F.conv1d(x.T[None], weight, layer.linear.bias, padding=d, dilation=d)[0].T


def attend(layer: SelfAttention, x: Tensor) -> Tensor:
    """(L, d) -> (L, d), head by head."""
    length, width = x.shape
    q, k, v = layer.qkv(x).view(length, 3, layer.heads, width // layer.heads).unbind(1)
    heads = []
    for h in range(layer.heads):
        scores = q[:, h] @ k[:, h].T / q.shape[-1] ** 0.5
        heads.append(scores.softmax(-1) @ v[:, h])
    return torch.cat(heads, -1)


def triples(model: DGCNN, tokens: Tensor, span: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Probabilities (L, 2) and (L, P, 2) of one text, after the formulas of the post, with torch's
    own convolution and one head at a time.
    """
    c = model.config
    length = len(tokens)
    x = model.character(tokens) + model.position(torch.arange(length))
    for layer in model.layers:
        out = convolve(layer.convolution, x)
        if c.gate:
            g, h = out.chunk(2, -1)
            x = torch.sigmoid(g) * x + (1 - torch.sigmoid(g)) * h
        else:
            x = x + torch.relu(out)
    pn = torch.cat(
        [
            torch.sigmoid(head(torch.relu(hidden(x))))
            for hidden, head in zip(model.prior_hidden, model.prior, strict=True)
        ],
        -1,
    )
    pc = torch.sigmoid(model.predicate(torch.relu(model.predicate_hidden(x.max(0).values))))
    both = torch.cat([x, attend(model.subject_attention, x)], -1) if c.attention else x
    subject = torch.sigmoid(model.subject(torch.relu(convolve(model.subject_convolution, both))))

    k1, k2 = span
    points = [round(k1 * (1 - a) + k2 * a) for a in torch.linspace(0, 1, 6).tolist()]
    _, last = model.subject_reader(x[points])
    near = [(torch.arange(length) - k).abs() for k in span]
    k = last.flatten() + torch.cat([model.position(n) for n in near], -1)
    both = torch.cat([x, attend(model.object_attention, x)], -1) if c.attention else x
    out = convolve(model.object_base, both) + convolve(model.object_subject, k)
    hidden = torch.relu(out)
    po = torch.sigmoid(model.object_any(hidden))
    each = torch.sigmoid(model.object(hidden)).view(length, c.predicates, 2)
    return subject * pn, each * po[:, :, None] * pn[:, None] * pc[None, :, None]


def build(**options: object) -> DGCNN:
    """A small model with no parameter at zero, in float64."""
    torch.manual_seed(0)
    settings = {"characters": 40, "predicates": 3, "width": 8, "dilations": (1, 2, 5), "heads": 2,
                "positions": 64}  # fmt: skip
    model = DGCNN(DGCNNConfig(**(settings | options))).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch(*lengths: int) -> Tensor:
    """Random texts, filled up with 0."""
    tokens = torch.zeros(len(lengths), max(lengths, default=0), dtype=torch.int64)
    for row, n in zip(tokens, lengths, strict=True):
        row[:n] = torch.randint(1, 40, (n,))
    return tokens


@pytest.mark.parametrize("options", [{}, {"gate": False}, {"attention": False}])
def test_texts_end_to_end_are_texts_alone(options: dict[str, object]) -> None:
    """20 texts, so that there are several blocks; float64 and other orders of sums: 1e-12."""
    model = build(**options)
    lengths = [1, 2, 30, 7, 64, 12, 3, 9, 9, 40, 1, 5, 33, 20, 8, 2, 61, 17, 4, 25]
    tokens = batch(*lengths)
    spans = torch.tensor([sorted(torch.randint(0, n, (2,)).tolist()) for n in lengths])
    subject, objects = model(tokens, spans)
    for i, n in enumerate(lengths):
        first, last = spans[i].tolist()
        wanted = triples(model, tokens[i, :n], (first, last))
        assert torch.allclose(subject[i, :n], wanted[0], rtol=1e-10, atol=1e-13)
        assert torch.allclose(objects[i, :n], wanted[1], rtol=1e-10, atol=1e-13)
        assert not subject[i, n:].any()
        assert not objects[i, n:].any()


def test_several_subjects_of_a_text_and_none() -> None:
    model = build()
    tokens = batch(9, 6, 11)
    lengths = (tokens > 0).sum(-1)
    rows = Rows.of(lengths, model.gap)
    flat = torch.zeros_like(rows.text).index_copy(0, rows.real, tokens[tokens > 0])
    encoded = model.encode(flat, rows)
    texts, spans = torch.tensor([2, 0, 2]), torch.tensor([[3, 5], [0, 0], [10, 10]])
    parts = model.objects(encoded, texts, spans).exp().split([11, 9, 11])
    for part, i, span in zip(parts, texts.tolist(), spans.tolist(), strict=True):
        wanted = triples(model, tokens[i, : lengths[i]], (span[0], span[1]))[1]
        assert torch.allclose(part, wanted, rtol=1e-10, atol=1e-13)
    assert model.objects(encoded, texts[:0], spans[:0]).shape == (0, 3, 2)


def test_no_text_and_empty_texts() -> None:
    model = build()
    subject, objects = model(torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 2).long())
    assert subject.shape == (0, 0, 2)
    assert objects.shape == (0, 0, 3, 2)
    tokens = batch(4)
    tokens = torch.cat([torch.zeros_like(tokens), tokens])
    subject, objects = model(tokens, torch.tensor([[0, 0], [1, 2]]))
    wanted = triples(model, tokens[1], (1, 2))
    assert torch.allclose(subject[1], wanted[0])
    assert torch.allclose(objects[1], wanted[1])
    assert not subject[0].any()
    assert not objects[0].any()


def test_blocks_spread_and_gather() -> None:
    """Every row comes back, also its gradient; filling is 0."""
    rows = Rows.of(torch.tensor([3, 0, 7, 1, 2, 2, 9, 4, 5, 6]), gap=2)
    blocks = Blocks.of(rows)
    x = torch.randn(len(rows.text), 4, dtype=torch.float64)
    x[rows.empty] = 0
    x.requires_grad_()
    spread = blocks.spread(x)
    assert torch.equal(blocks.gather(spread), x)
    assert sum(float(b.detach().abs().sum()) for b in spread) == pytest.approx(
        float(x.detach().abs().sum())
    )
    weights = [torch.randn_like(b) for b in spread]
    (found,) = torch.autograd.grad(
        sum((b * w).sum() for b, w in zip(spread, weights, strict=True)), x
    )
    assert torch.equal(found, blocks.gather(weights))


def test_gradients_of_all_parameters() -> None:
    """Against difference quotients along one direction; central differences, so 1e-6."""
    model = build(dropout=0.0)
    tokens, spans = batch(7, 12), torch.tensor([[1, 3], [4, 4]])
    weights = [torch.randn_like(out) for out in model(tokens, spans)]

    def value() -> Tensor:
        return sum(
            ((out * w).sum() for out, w in zip(model(tokens, spans), weights, strict=True)),
            start=torch.zeros((), dtype=torch.float64),
        )

    parameters = list(model.parameters())
    slopes = torch.autograd.grad(value(), parameters)
    for parameter, slope in zip(parameters, slopes, strict=True):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter.add_(1e-6 * direction)
            up = value()
            parameter.sub_(2e-6 * direction)
            down = value()
            parameter.add_(1e-6 * direction)
        quotient = float(up - down) / 2e-6
        assert float((slope * direction).sum()) == pytest.approx(quotient, rel=1e-5, abs=1e-8)


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 1001)
    y = dropout(x, 0.25)
    assert float(y.mean()) == pytest.approx(1, abs=5e-3)  # deviation of the mean: 9e-4
    assert float((y == 0).float().mean()) == pytest.approx(64 / 256, abs=4e-3)
    columns = (y == 0).float().mean(0)  # every byte of a word alike; deviation 0.02
    assert float(columns.min()) > 0.14
    assert float(columns.max()) < 0.36
    assert torch.equal(dropout(x, 0.0), x)


def test_training_drops_and_evaluation_does_not() -> None:
    model = build()
    tokens, spans = batch(12), torch.tensor([[1, 3]])
    assert torch.equal(model(tokens, spans)[0], model(tokens, spans)[0])
    model.train()
    assert not torch.equal(model(tokens, spans)[0], model(tokens, spans)[0])


@pytest.mark.parametrize(
    "wrong",
    [{"width": 9}, {"width": 10, "heads": 4}, {"dilations": ()}, {"dropout": 1.0},
     {"predicates": 0}, {"words": 5}, {"start_threshold": 1.0}],
)  # fmt: skip
def test_a_wrong_config_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|go together"):
        DGCNNConfig(**wrong)  # type: ignore[arg-type]


def test_the_size_that_the_post_has() -> None:
    model = DGCNN(DGCNNConfig())
    parameters = sum(p.numel() for p in model.parameters())
    assert 2.7e6 < parameters < 2.9e6
    assert len(model.layers) == 12


def test_the_network_runs_copied_out(tmp_path: Path) -> None:
    (tmp_path / "dgcnn.py").write_text(Path(module.__file__).read_text(encoding="utf-8"))
    code = (
        "import torch, dgcnn, sys; m = dgcnn.DGCNN(dgcnn.DGCNNConfig());"
        "print(m(torch.ones(2, 5).long(), torch.zeros(2, 2).long())[1].shape);"
        "assert not [k for k in sys.modules if k.startswith('kexue')]"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "[2, 5, 55, 2]" in run.stdout
