"""The fast form of the network against the network, and that it follows its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kexue_dgcnn_ie.decoding import Spans
from kexue_dgcnn_ie.dgcnn import DGCNNConfig, Encoded
from kexue_dgcnn_ie.extractor import Piece, TripleExtractor
from kexue_dgcnn_ie.layout import Layout
from kexue_dgcnn_ie.packed import _mix, can_pack, packed
from torch import Tensor

#: Blocks of one text and of several, with filling and without, texts of one and two characters.
LENGTHS = [7, 1, 30, 48, 2, 45, 30, 40, 1, 3, 9, 8, 46, 30]


def eager(**options: object) -> TripleExtractor:
    """An untrained model in float64 that finds very much."""
    torch.manual_seed(0)
    settings = {"characters": 60, "predicates": 3, "width": 8, "dilations": (1, 2), "heads": 2,
                "positions": 48, "start_threshold": 0.05, "end_threshold": 0.04}  # fmt: skip
    model = TripleExtractor(DGCNNConfig(**(settings | options))).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


def pieces() -> list[Piece]:
    generator = torch.Generator().manual_seed(1)
    return [
        Piece("".join(chr(0x20 + int(i)) for i in torch.randint(0, 64, (n,), generator=generator)))
        for n in LENGTHS
    ]


def both(
    model: TripleExtractor, dtype: torch.dtype, start: float = 0.05, end: float = 0.04
) -> list[tuple[Spans, Spans]]:
    """Subjects and objects by the network in the model's dtype, and packed in another."""
    with torch.no_grad():
        return [
            model._find(pieces(), start, end),
            model._find_packed(packed(model, dtype), pieces(), start, end),
        ]


def scores(subjects: Spans, objects: Spans) -> dict[tuple[int, ...], float]:
    """Score of each (text, subject, predicate, object), and of each subject."""
    heads = list(zip(*(c.tolist() for c in (subjects.owner, subjects.first, subjects.last)),
                     strict=True))  # fmt: skip
    found = dict(zip(heads, subjects.score.tolist(), strict=True))
    for k, *rest, score in zip(*(column.tolist() for column in objects), strict=True):
        found[(*heads[k], *rest)] = score
    return found


@pytest.mark.parametrize(
    "options", [{}, {"dilations": (5,)}, {"dilations": (2, 1, 3)}, {"heads": 1, "predicates": 1}]
)
def test_it_finds_what_the_network_finds(options: dict[str, object]) -> None:
    """In float64; scores are float32: 1e-6."""
    network, fast = (scores(*found) for found in both(eager(**options), torch.float64))
    assert len(network) > 200
    assert fast == pytest.approx(network, rel=1e-6)


def test_spans_come_in_the_same_order_within_a_text() -> None:
    """Where scores are equal the first is taken."""
    (subjects, objects), (subjects2, objects2) = both(eager(), torch.float64)

    def rows(subjects: Spans, objects: Spans) -> list[list[int]]:
        owner = subjects.owner[objects.owner]
        order = owner.sort(stable=True).indices
        columns = owner, subjects.first[objects.owner], objects.predicate, objects.first
        return torch.stack(columns)[:, order].tolist()

    assert rows(subjects, objects) == rows(subjects2, objects2)


def test_thresholds_from_low_to_high() -> None:
    """The characters that are left out are those that could be nothing."""
    model = eager()
    for start, end in ((1e-6, 1e-6), (0.3, 0.05), (0.05, 0.3), (0.6, 0.6), (0.9999, 0.9999)):
        network, fast = (scores(*found) for found in both(model, torch.float64, start, end))
        assert fast == pytest.approx(network, rel=1e-6)


def test_float32_and_bfloat16_are_near() -> None:
    """Probabilities to 1e-4 and to 0.05; what is found only by one is near a threshold."""
    model = eager(start_threshold=0.05, end_threshold=0.05)
    for dtype, limit, least in ((torch.float32, 1e-4, 0.999), (torch.bfloat16, 0.05, 0.8)):
        network, fast = (scores(*found) for found in both(model, dtype))
        shared = network.keys() & fast.keys()
        assert len(shared) > least * len(network.keys() | fast.keys())
        assert max(abs(network[key] - fast[key]) for key in shared) < limit


def test_nothing_likely_and_no_subject() -> None:
    model = eager()
    with torch.no_grad():
        model.subject.bias.fill_(-30)
    assert not any(len(column) for spans in both(model, torch.float64)[1] for column in spans)
    with torch.no_grad():
        for layer in model.prior:
            layer.bias.fill_(-30)
    assert not any(len(column) for spans in both(model, torch.float64)[1] for column in spans)


def _adam(model: TripleExtractor) -> None:
    """Which torch does not count as writing (2.13)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, fused=True)
    model(torch.tensor([[5, 6, 7]]), torch.tensor([[0, 1]]))[1].sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _average(model: TripleExtractor) -> None:
    with torch.no_grad():
        ours: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(ours, [p + 0.1 for p in ours], 0.5)


def _load(model: TripleExtractor) -> None:
    model.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()})


def _round(model: TripleExtractor) -> None:
    """New tensors, which may lie where the old ones did."""
    model.bfloat16().float()


def _replace(model: TripleExtractor) -> None:
    model.subject.bias = torch.nn.Parameter(model.subject.bias.detach() + 1)


def _data(model: TripleExtractor) -> None:
    """Nor this."""
    model.subject.bias.data[0] += 1


def _inference(model: TripleExtractor) -> None:
    with torch.inference_mode():
        model.position.weight.add_(0.3)


@pytest.mark.parametrize("change", [_adam, _average, _load, _data, _round, _replace, _inference])
def test_it_follows_its_weights(change: Callable[[TripleExtractor], None]) -> None:
    model = eager().float()
    before = packed(model, torch.float32)
    assert packed(model, torch.float32) is before
    found = scores(*both(model, torch.float32)[1])
    change(model)
    network, fast = (scores(*found) for found in both(model, torch.float32))
    assert packed(model, torch.float32) is not before
    assert fast != found
    shared = network.keys() & fast.keys()
    assert len(shared) > 0.99 * len(network.keys() | fast.keys())
    assert max(abs(network[key] - fast[key]) for key in shared) < 1e-4


def test_a_copy_in_another_dtype_follows_too() -> None:
    """Of a network that is not packed."""
    model = eager(gate=False).float()
    texts = [p.text for p in pieces()]
    before = model.extract(texts, dtype="bfloat16")
    copied = model._in(torch.bfloat16)
    assert model._in(torch.bfloat16) is copied
    _adam(model)
    assert model.extract(texts, dtype="bfloat16") != before
    assert model._in(torch.bfloat16) is not copied


def test_copies_have_their_own() -> None:
    model = eager()
    first = packed(model, torch.float64)
    other = copy.deepcopy(model)
    assert packed(other, torch.float64) is not first
    with torch.no_grad():
        other.subject.bias.add_(1)
    assert packed(model, torch.float64) is first


class Louder(TripleExtractor):
    """Its objects are other ones."""

    def objects(self, encoded: Encoded, texts: Tensor, spans: Tensor) -> Tensor:
        return super().objects(encoded, texts, spans) / 2


def test_what_it_does_not_know_is_left_to_the_network() -> None:
    model = eager()
    assert can_pack(model, torch.float64)
    assert not can_pack(model, torch.float16)
    assert not can_pack(model.train(), torch.float64)
    assert not can_pack(Louder(model.config).eval(), torch.float32)
    for options in ({"gate": False}, {"attention": False}, {"distant": True},
                    {"words": 2, "word_width": 2}):  # fmt: skip
        other = eager(**options)
        assert not can_pack(other, torch.float64)
        if "words" not in options or find_spec("jieba"):  # words are found by jieba
            assert other.extract([p.text for p in pieces()])


def test_it_does_not_mind_autocast() -> None:
    model = eager().float()
    plain = scores(*both(model, torch.float32)[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert scores(*both(model, torch.float32)[1]) == plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_attention(dtype: torch.dtype) -> None:
    """Also where exponentials of scores leave the range of numbers. bfloat16 has 8 bits; scores of
    hundreds have errors of 1e-5 in float32.
    """
    torch.manual_seed(0)
    past = torch.tensor([[False, False], [False, True], [True, True]])
    inside = F.pad(~past, (3, 0), value=True)[:, None, None]
    limit = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float64: 1e-12}[dtype]
    for scale, shift in ((1, 0), (1, 200), (1, -200), (30, 0)):
        heads = torch.randn(3, 3, 2, 5, 4, dtype=torch.float64)
        heads[0] *= scale
        heads[1, ..., 0], heads[0, ..., 0] = shift, 1  # a score more for all
        heads = heads.to(dtype)
        q, keys, v = heads.double()
        scores = (q @ keys.transpose(-1, -2)).to(dtype).double()  # as they are rounded
        wanted = scores.masked_fill(~inside, -torch.inf).softmax(-1) @ v
        found = _mix(heads, past).double()
        assert found.dtype == torch.float64
        assert torch.allclose(found, wanted, rtol=0, atol=limit)


def test_layout() -> None:
    """Every character has a row, and neighbours in its own text alone."""
    lengths = np.array(LENGTHS)
    layout = Layout(lengths, gap=2)
    assert np.array_equal(lengths[layout.order], layout.lengths)
    assert layout.real.sum() == lengths.sum()
    taken = np.zeros(layout.padded, int)
    for block in layout.blocks:
        inside = layout.lengths[block.first : block.first + block.texts]
        assert inside.max() == block.longest
        assert inside.min() >= 0.8 * block.longest
        for i in range(block.texts):
            start = block.padded + i * (block.longest + 2)
            taken[start : start + block.longest] += 1
        assert (layout.text[block.rows] >= block.first).all()
    assert taken.max() == 1
    assert not taken[[0, 1, -1, -2]].any()
    assert len(layout.filling) == (~layout.real).sum()
    rows = np.flatnonzero(layout.real)
    near = layout.neighbours(rows, 3, -1)
    for row, around in zip(rows.tolist(), near.tolist(), strict=True):
        assert around[1] == row
        for step, other in ((-3, around[0]), (3, around[2])):
            there = 0 <= layout.position[row] + step < layout.lengths[layout.text[row]]
            assert other == (row + step if there else -1)
            if there:
                assert layout.text[other] == layout.text[row]
                assert layout.position[other] == layout.position[row] + step
