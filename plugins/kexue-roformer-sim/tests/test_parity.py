"""Hidden states against transformers' RoFormerModel and BertModel, the same weights in both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kexue_roformer_sim.adapters import read_roformer, read_simbert
from kexue_roformer_sim.encoder import Encoder, EncoderConfig
from torch import Tensor

transformers = pytest.importorskip("transformers")

#: The bar. Both sum in float32, in other orders.
TOLERANCE = 2e-5

CONFIGS = {
    "plain": {},
    "embedding-size": {"embedding_size": 24},
    "one-head": {"num_attention_heads": 1},
    "narrow-heads": {"num_attention_heads": 16, "num_hidden_layers": 1},
    "wide": {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6},
    "loose-eps": {"layer_norm_eps": 1e-3},
}


def peer(kind: str, **changes: Any) -> Any:
    sizes = {
        "vocab_size": 120,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 112,
        "max_position_embeddings": 96,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        **changes,
    }
    torch.manual_seed(0)
    if kind == "roformer":
        sizes.setdefault("embedding_size", sizes["hidden_size"])
        model = transformers.RoFormerModel(transformers.RoFormerConfig(**sizes))
    else:
        sizes.pop("embedding_size", None)
        model = transformers.BertModel(transformers.BertConfig(**sizes))
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide a swap
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def ours(kind: str, model: Any) -> Encoder:
    tensors = dict(model.state_dict())
    size = model.config.hidden_size
    tensors.setdefault("pooler.dense.weight", torch.eye(size))
    tensors.setdefault("pooler.dense.bias", torch.zeros(size))
    read = read_roformer if kind == "roformer" else read_simbert
    state, config = read(tensors, model.config.to_dict())
    encoder = Encoder(EncoderConfig(**config))
    encoder.load_state_dict(state)
    return encoder.eval()


def batch(n: int, length: int, *, padded: bool) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(1, 120, (n, length), generator=generator)
    segments = torch.randint(0, 2, (n, length), generator=generator)
    lengths = torch.linspace(1, length, n).round() if padded else torch.full((n,), length)
    present = torch.arange(length) < lengths[:, None]
    return tokens * present, segments * present, present


@pytest.mark.parametrize("kind", ["roformer", "bert"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_hidden_states_equal_the_peers(kind: str, changes: dict[str, Any]) -> None:
    if kind == "bert" and "embedding_size" in changes:
        pytest.skip("BERT has one size")
    theirs = peer(kind, **changes)
    encoder = ours(kind, theirs)
    for length in (1, 2, 7, 33):
        for padded in (False, True):
            tokens, segments, present = batch(5, length, padded=padded)
            with torch.no_grad():
                expected = theirs(
                    tokens, attention_mask=present.long(), token_type_ids=segments
                ).last_hidden_state
                # Segments with no UniLM: the bidirectional mask, handed over.
                found, _ = encoder.run(tokens, segments, mask=present[:, None, None])
                plain = encoder(tokens).hidden
                first = theirs(tokens, attention_mask=present.long()).last_hidden_state
            assert (found - expected)[present].abs().max() <= TOLERANCE
            assert (plain - first)[present].abs().max() <= TOLERANCE


@pytest.mark.parametrize("kind", ["roformer", "bert"])
def test_bfloat16_is_as_far_from_float32_as_the_peers(kind: str) -> None:
    theirs = peer(kind)
    encoder = ours(kind, theirs)
    tokens, _, present = batch(5, 21, padded=True)
    with torch.no_grad():
        exact = encoder(tokens).hidden[present]
        found = encoder.bfloat16()(tokens).hidden[present].float()
        expected = theirs.bfloat16()(tokens, attention_mask=present.long())
    error = (found - exact).abs().mean()
    peers = (expected.last_hidden_state[present].float() - exact).abs().mean()
    # 8 bits of mantissa: 1/256 of states of deviation 1, gathered over three layers.
    assert error < 0.03
    assert error < 1.5 * peers


def test_bert_pooler_is_linear() -> None:
    theirs = peer("bert")
    encoder = ours("bert", theirs)
    tokens, _, present = batch(5, 9, padded=True)
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=present.long()).pooler_output
        found = encoder(tokens).vector
    assert (found.tanh() - expected).abs().max() <= TOLERANCE
