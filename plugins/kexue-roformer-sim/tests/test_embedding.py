"""Sentence vectors: whatever stands beside a text, in whatever order, on every path."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from kexue_roformer_sim import fast
from kexue_roformer_sim.model import RoFormerSim
from kexue_roformer_sim.packed import Packed
from kexue_roformer_sim.searching import nearest
from kexue_roformer_sim.tokenizer import pad

from kexue_core.packing import has_onednn

TEXTS = [
    "今天天气不错",
    "怎么开通信用卡？",
    "",
    "A sentence in English, with 数字 123",
    "表情🙂和生僻字𠮷",
    "很长的句子" * 30,
    "今天天气不错",
    "   ",
    "\ud800 half a pair",
]

#: The bar: padding and neighbours change the order of float32 sums and nothing else.
TOLERANCE = 1e-6


packs = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN"
)


@pytest.fixture(
    params=[
        {},
        {"pooling": "mean"},
        {"pooling": "mean", "token_weights": True},
        {"positions": "learned", "embedding_size": 32},
        {"layers": 0, "pooling": "mean", "token_weights": True},
    ],
    ids=["cls", "mean", "weighted", "simbert", "static"],
)
def model(request: pytest.FixtureRequest, make: Callable[..., RoFormerSim]) -> RoFormerSim:
    return make(**request.param)


@packs
def test_packed_and_plain_agree(model: RoFormerSim) -> None:
    rows = model.tokenizer.encode(TEXTS, 64)
    with torch.inference_mode():
        for row in rows:
            tokens = torch.tensor([row])
            expected = model(tokens).vector
            found = Packed(model, torch.float32)(tokens)
            assert (found - expected).abs().max() <= 1e-5
    assert has_onednn(torch.float32) == torch.backends.mkldnn.is_available()


@packs
def test_packed_states_are_the_models(model: RoFormerSim, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in model.tokenizer.encode(TEXTS, 64) if row]
    rows[3] = [*rows[3][:4], 0, *rows[3][4:]]  # a hole
    tokens = pad(rows)
    present = tokens != 0
    with torch.inference_mode():
        expected = model(tokens)
        for chosen in (slice(None), slice(1)):  # of many lengths in no order, and of one
            states = Packed(model, torch.float32).states(tokens[chosen])
            assert (states - expected.hidden[chosen])[present[chosen]].abs().max() <= 1e-5
        assert (Packed(model, torch.float32)(tokens) - expected.vector).abs().max() <= 1e-5
        exact = expected.hidden[present]
        for explicit in (0, 128):  # both ways of attention
            monkeypatch.setattr("kexue_roformer_sim.packed.EXPLICIT", explicit)
            rounded = Packed(model, torch.bfloat16).states(tokens)
            assert rounded.dtype == torch.bfloat16
            cosines = torch.cosine_similarity(rounded[present].float(), exact, dim=-1)
            assert cosines.min() > 0.999  # 8 bits of mantissa


@packs
def test_writing_with_packed_weights_is_writing(make: Callable[..., RoFormerSim]) -> None:
    for settings in ({}, {"positions": "learned", "embedding_size": 32}):
        model = make(**settings)
        packed = fast.writer_of(model)
        assert packed is not model
        assert fast.writer_of(model) is packed
        tokens = pad(model.tokenizer.encode(TEXTS[:2], 64))
        more = torch.tensor([[7], [8]])
        with torch.inference_mode():
            found, past = packed.run(tokens)
            expected, kept = model.run(tokens)
            assert (packed.predict(found) - model.predict(expected)).abs().max() <= 1e-5
            segments = torch.ones_like(more)
            found, _ = packed.run(more, segments, past)
            expected, _ = model.run(more, segments, kept)
            assert (packed.predict(found) - model.predict(expected)).abs().max() <= 1e-5
        with torch.no_grad():
            model.head.bias.add_(1)
        assert fast.writer_of(model) is not packed
        model.train()
        assert fast.writer_of(model) is model


def test_padding_never_changes_a_vector(model: RoFormerSim) -> None:
    together = model.embed(TEXTS)
    assert together.dtype == np.float32
    for i, text in enumerate(TEXTS):
        assert np.abs(model.embed([text])[0] - together[i]).max() <= TOLERANCE
        assert np.abs(model.embed([text, "字" * 200])[0] - together[i]).max() <= TOLERANCE
    assert np.abs(model.embed(TEXTS, batch_size=2) - together).max() <= TOLERANCE


def test_the_order_of_texts_never_changes_a_bit(model: RoFormerSim) -> None:
    texts = [f"{t}{i % 7}" for i, t in enumerate(TEXTS * 12)]
    vectors = model.embed(texts, batch_size=8)
    order = np.random.default_rng(0).permutation(len(texts))
    assert np.array_equal(model.embed([texts[i] for i in order], batch_size=8), vectors[order])
    assert np.array_equal(vectors[0], model.embed(texts, batch_size=8)[0])


def test_the_signature_is_that_of_sentence_transformers(make: Callable[..., RoFormerSim]) -> None:
    model = make()
    assert model.embed("今天").shape == (32,)
    assert model.encode(["今天"]).shape == (1, 32)
    assert model.embed([]).shape == (0, 32)
    assert isinstance(model.embed(["今天"], convert_to_tensor=True), torch.Tensor)
    assert isinstance(model.embed(["今天"], convert_to_numpy=False), list)
    raw = model.embed(TEXTS, normalize_embeddings=False)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(model.embed(TEXTS), unit, atol=1e-6)
    short = model.embed(TEXTS, truncate_dim=5)
    assert short.shape == (len(TEXTS), 5)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    model.embed(["今天"], convert_to_tensor=True).requires_grad_()  # no inference tensor


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"truncate_dim": 0},
        {"truncate_dim": 33},
        {"max_length": 2},
        {"dtype": "int8"},
        {"dtype": torch.int64},
    ],
)
def test_settings_are_checked(
    settings: dict[str, object], make: Callable[..., RoFormerSim]
) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        make().embed(["今天"], **settings)
    with pytest.raises(TypeError, match="no text"):
        make().embed([None])


def test_long_texts_are_cut_and_longer_than_trained_is_warned_about(
    make: Callable[..., RoFormerSim],
) -> None:
    model = make(max_length=16)
    long = "字典里的词" * 10
    assert np.array_equal(model.embed([long]), model.embed([long[:14]]))
    with pytest.warns(UserWarning, match="16 tokens"):
        longer = model.embed([long], max_length=52)
    assert np.abs(longer - model.embed([long])).max() > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.embed(["短"], max_length=52)
    learned = make(positions="learned", max_positions=20, max_length=20)
    with pytest.raises(ValueError, match="20 learned"):
        learned.embed([long], max_length=21)
    assert learned.embed([long]).shape == (1, 32)


def test_unknown_characters_count_and_are_all_the_same(make: Callable[..., RoFormerSim]) -> None:
    model = make()
    with_one, other, without = model.embed(["天🙂气", "天🚀气", "天气"])
    assert np.array_equal(with_one, other)
    assert np.abs(with_one - without).max() > 1e-4


def test_the_packed_weights_follow_the_model(make: Callable[..., RoFormerSim]) -> None:
    model = make()
    before = model.embed(TEXTS)
    with torch.no_grad():
        model.layers[0].inner.weight.mul_(2)
    after = model.embed(TEXTS)
    assert np.abs(after - before).max() > 1e-4
    twin = copy.deepcopy(model)
    assert np.array_equal(twin.embed(TEXTS), after)
    # A fused optimizer writes without counting it in the tensors' version.
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True).step()
    moved = model.embed(TEXTS)
    assert np.abs(moved - after).max() > 1e-4
    assert np.array_equal(copy.deepcopy(model).embed(TEXTS), moved)
    model.train()
    assert model.training
    model.embed(TEXTS)


def test_auto_keeps_the_cosine(make: Callable[..., RoFormerSim]) -> None:
    model = make()
    exact, chosen = model.embed(TEXTS), model.embed(TEXTS, dtype="auto")
    assert (exact * chosen).sum(-1).min() >= fast.LEAST_COSINE
    assert fast.fastest_dtype(model) in (torch.float32, torch.bfloat16)
    if has_onednn(torch.bfloat16):
        rounded = model.embed(TEXTS, dtype="bfloat16")
        assert (exact * rounded).sum(-1).min() > 0.999
        assert not np.array_equal(exact, rounded)


def test_auto_refuses_what_rounding_breaks(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., RoFormerSim]
) -> None:
    monkeypatch.setattr(fast, "LEAST_COSINE", 1.1)
    model = make()
    assert fast.fastest_dtype(model) == torch.float32


def test_without_the_private_operators_everything_works(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., RoFormerSim]
) -> None:
    model = make()
    packed = model.embed(TEXTS)
    monkeypatch.setattr(fast, "has_onednn", lambda dtype: False)
    assert np.abs(model.embed(TEXTS) - packed).max() <= TOLERANCE
    rounded = model.embed(TEXTS, dtype="bfloat16")
    assert (rounded * packed).sum(-1).min() > 0.999


def test_similarity_and_search_are_exact(make: Callable[..., RoFormerSim]) -> None:
    model = make()
    texts = [f"第{i}个问题怎么办" for i in range(50)]
    vectors = model.embed(texts)
    cosines = model.similarity(texts[:5], texts)
    np.testing.assert_allclose(cosines, vectors[:5] @ vectors.T, atol=1e-6)
    assert cosines.max() <= 1
    hits = model.search(texts[:5], texts, 7)
    for query, row in enumerate(hits):
        best = np.sort(cosines[query])[::-1][:7]
        np.testing.assert_allclose([h.score for h in row], best, atol=1e-6)
        np.testing.assert_allclose(cosines[query, [h.place for h in row]], best, atol=1e-6)
        assert row[0].score == pytest.approx(1, abs=1e-6)
    assert model.search(texts[:5], vectors, 7) == hits
    assert model.search(["x"], [], 3) == [[]]
    assert [len(h) for h in model.search(["x"], texts[:2], 3)] == [2]
    assert model.search([], texts, 3) == []


def test_search_in_chunks_equals_search_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    queries, corpus = random.standard_normal((9, 6)), random.standard_normal((200, 6))
    corpus[150] = 3 * corpus[20]  # the same direction: equal cosines, in their order
    whole = nearest(queries, corpus, 200)
    monkeypatch.setattr("kexue_roformer_sim.searching.QUERIES", 4)
    monkeypatch.setattr("kexue_roformer_sim.searching.CORPUS", 32)
    chunks = nearest(queries, corpus, 200)
    for a, b in zip(whole, chunks, strict=True):
        np.testing.assert_allclose([h.score for h in a], [h.score for h in b], atol=1e-6)
    assert [[h.place for h in r[:10]] for r in nearest(queries, corpus, 10)] == [
        [h.place for h in r[:10]] for r in chunks
    ]
    with pytest.raises(ValueError, match="k must"):
        nearest(queries, corpus, -1)
    with pytest.raises(ValueError, match="shapes"):
        nearest(queries, corpus[:, :5], 1)
