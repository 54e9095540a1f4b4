"""Rewrites: distinct, never the text itself, by sampling and by beams, from one prompt pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from kexue_roformer_sim.fast import writer_of
from kexue_roformer_sim.model import RoFormerSim
from kexue_roformer_sim.rewriting import key_of, sample, write
from torch import Tensor

TEXT = "怎么开通信用卡"


def draw(logits: Tensor, n: int = 4000, **settings: object) -> Tensor:
    options = {"top_k": None, "top_p": 1.0, "temperature": 1.0, **settings}
    generator = torch.Generator().manual_seed(0)
    drawn = sample(logits.expand(n, -1), generator=generator, **options)
    return drawn.bincount(minlength=logits.shape[-1]) / n


def test_sampling_follows_the_probabilities() -> None:
    p = torch.tensor([0.1, 0.5, 0.05, 0.35])
    # Four deviations of a frequency of 4,000 draws.
    assert (draw(p.log()) - p).abs().max() < 4 * math.sqrt(0.25 / 4000)
    hot = p.log() / 2
    assert (draw(p.log(), temperature=2.0) - hot.softmax(-1)).abs().max() < 0.032
    two = torch.tensor([0.0, 0.5, 0.0, 0.35]) / 0.85
    assert (draw(p.log(), top_k=2) - two).abs().max() < 0.032


def test_the_token_that_crosses_top_p_stays() -> None:
    p = torch.tensor([0.1, 0.5, 0.05, 0.35])
    assert (draw(p.log(), top_p=0.6) > 0).tolist() == [False, True, False, True]
    assert (draw(p.log(), top_p=0.4) > 0).tolist() == [False, True, False, False]
    assert (draw(p.log(), top_p=1e-9) > 0).tolist() == [False, True, False, False]


@pytest.mark.parametrize("top_p", [0.02, 0.3, 0.9])
def test_drawing_again_gives_what_sorting_gives(top_p: float) -> None:
    p = torch.randn(30, generator=torch.Generator().manual_seed(1)).softmax(-1)
    ordered, order = p.sort(descending=True)
    kept = ordered.cumsum(-1) - ordered < top_p
    expected = torch.zeros(30).index_put((order[kept],), ordered[kept] / ordered[kept].sum())
    found = draw(p.log(), n=20_000, top_p=top_p)
    assert ((found > 0) <= (expected > 0)).all()
    assert (found - expected).abs().max() < 4 * math.sqrt(0.25 / 20_000)


@pytest.mark.parametrize("method", ["sample", "beam"])
@pytest.mark.parametrize("settings", [{}, {"positions": "learned", "embedding_size": 32}])
def test_rewrites_are_distinct_and_no_copies(
    method: str, settings: dict[str, object], make: Callable[..., RoFormerSim]
) -> None:
    model = make(max_length=12, **settings)
    found = model.rewrite(TEXT, 6, method=method)
    assert 0 < len(found) <= 6
    keys = [key_of(r.text) for r in found]
    assert len(set(keys)) == len(keys)
    assert key_of(TEXT) not in keys
    assert "" not in keys
    scores = [r.score for r in found]
    assert scores == sorted(scores, reverse=True)
    expected = model.similarity([TEXT], [r.text for r in found])[0]
    assert max(abs(a - b) for a, b in zip(scores, expected, strict=True)) < 1e-5
    assert found == model.rewrite(TEXT, 6, method=method)
    assert not model.rewrite(TEXT, 0, method=method)


def test_copies_and_duplicates_are_left_out(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., RoFormerSim]
) -> None:
    model = make(max_length=12)
    written = ["信用卡", " 信 用卡", "怎么开通信用卡", "怎么 开通信用卡", "", "办卡", "办卡"]
    monkeypatch.setattr("kexue_roformer_sim.rewriting.write", lambda *a, **k: written)
    assert {r.text for r in model.rewrite(TEXT, 9)} == {"信用卡", "办卡"}
    assert len(model.rewrite(TEXT, 1)) == 1
    # What the net reads of the text is a copy as well: lower case, unknown characters gone, cut.
    assert not [r for r in model.rewrite("信用🙂卡", 9) if r.text == "信用卡"]
    written[:] = ["abc卡", "字" * 10]
    assert not model.rewrite("ＡＢＣ卡", 9)[1:]
    assert [r.text for r in model.rewrite("字" * 40, 9)] == ["abc卡"]


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_text_has_no_rewrites(text: str, make: Callable[..., RoFormerSim]) -> None:
    assert make().rewrite(text, 5) == []


@pytest.mark.parametrize("text", ["🙂", "𠮷" * 9, "字" * 500, "\ud800", "a" * 300])
def test_odd_texts_are_rewritten_all_the_same(text: str, make: Callable[..., RoFormerSim]) -> None:
    model = make(max_length=10)
    found = model.rewrite(text, 3)
    assert all(r.text and "[U" not in r.text and "[u" not in r.text for r in found)
    longest = max(map(len, model.tokenizer.vocabulary))
    assert all(len(r.text) <= 10 * (longest + 1) for r in found)


def test_unknown_and_marks_are_never_written(make: Callable[..., RoFormerSim]) -> None:
    model = make(max_length=10)
    with torch.no_grad():
        model.head.bias[: model.tokenizer.mask + 1] = 50  # [PAD], [unused1], ..., [UNK] to [MASK]
    for text in write(model, TEXT, samples=20):
        assert text == ""


def reference(model, tokens: list[int], forced: list[int]) -> float:
    """Log-probability of written tokens, from the beginning every time, without a cache."""
    total = 0.0
    row = list(tokens)
    for token in forced:
        segments = torch.tensor([[0] * len(tokens) + [1] * (len(row) - len(tokens))])
        logits = model(torch.tensor([row]), segments, True).logits[0, -1]
        logits[model.tokenizer.unwritable] = -torch.inf
        total += float(logits.log_softmax(-1)[token])
        row.append(token)
    return total


def test_beam_finds_the_likeliest_of_a_small_world(make: Callable[..., RoFormerSim]) -> None:
    # 13 tokens, at most three written: every sequence can be tried.
    model = make(vocab_size=115, max_length=3)
    tokenizer = model.tokenizer
    allowed = [tokenizer.sep, *range(106, 115)]
    with torch.no_grad():
        closed = [i for i in range(115) if i not in allowed]
        model.head.bias[closed] = -1e4
        prompt = tokenizer.encode(["!"], 64)[0]
        best: list[tuple[float, list[int]]] = []

        def grow(row: list[int]) -> None:
            if row and row[-1] == tokenizer.sep:
                best.append((reference(model, prompt, row) / len(row), row[:-1]))
            elif len(row) == 2:
                best.append((reference(model, prompt, row) / 3, row))
            else:
                for token in allowed:
                    grow([*row, token])

        grow([])
        finished = [b for b in best if len(b[1]) < 2]
    wanted = sorted(finished, key=lambda b: -b[0])[0]
    found = write(model, "!", samples=100, method="beam", max_length=3)
    assert tokenizer.decode(wanted[1]) in found


def test_masked_positions_are_hidden_from_the_net(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., RoFormerSim]
) -> None:
    model = make(max_length=16)
    seen: list[Tensor] = []
    net = writer_of(model)
    run = net.run

    def spy(tokens: Tensor, *args: object, **options: object) -> object:
        seen.append(tokens)
        return run(tokens, *args, **options)

    monkeypatch.setattr(net, "run", spy)
    write(model, TEXT, samples=3, mask=[2, 3])
    tokenizer = model.tokenizer
    expected = tokenizer.encode([TEXT], 64)[0]
    expected[3] = expected[4] = tokenizer.mask
    assert seen[0].tolist() == [expected]
    assert sum(t.shape[1] > 1 for t in seen) == 1  # the prompt went through once for all samples
    with pytest.raises(ValueError, match="character 7 of 7"):
        write(model, TEXT, samples=1, mask=[7])


def test_finished_rows_leave_the_batch(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., RoFormerSim]
) -> None:
    model = make(max_length=30)
    with torch.no_grad():
        model.head.bias[model.tokenizer.sep] = 8.0  # about half of all next tokens
    sizes: list[int] = []
    net = writer_of(model)
    run = net.run

    def spy(tokens: Tensor, *args: object, **options: object) -> object:
        sizes.append(len(tokens))
        return run(tokens, *args, **options)

    monkeypatch.setattr(net, "run", spy)
    write(model, TEXT, samples=50)
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    assert sizes[-1] < 50


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.0},
        {"temperature": 0.0},
        {"top_k": 0},
        {"method": "greedy"},
        {"n": -1},
        {"samples": -1},
    ],
)
def test_settings_are_checked(
    settings: dict[str, object], make: Callable[..., RoFormerSim]
) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        make().rewrite(TEXT, **{"n": 2, **settings})
    with pytest.raises(ValueError, match="no head"):
        make(rewrites=False).rewrite(TEXT, 2)
