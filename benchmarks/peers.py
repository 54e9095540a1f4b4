"""The peers, built as their own examples build them."""

from __future__ import annotations

from typing import Any

import torch

__all__ = [
    "normflows_glow",
    "roformer_writer",
    "roformers",
    "sentence_transformer",
]


def normflows_glow(
    *,
    size: int = 32,
    channels: int = 3,
    levels: int = 3,
    steps: int = 16,
    hidden: int = 256,
    scale: bool = True,
    use_lu: bool = True,
) -> Any:
    """The Glow of normflows' examples/glow.ipynb, without classes; images are in [-0.5, 0.5].

    Its actnorms are started from a random batch, and then every parameter is moved a little, so
    that nothing is at a value where a mistake would not show.
    """
    import normflows as nf

    priors, flows, merges = [], [], []
    for level in range(levels):
        width = channels * 2 ** (levels + 1 - level)
        blocks = [
            nf.flows.GlowBlock(width, hidden, split_mode="channel", scale=scale, use_lu=use_lu)
            for _ in range(steps)
        ]
        flows.append([*blocks, nf.flows.Squeeze()])
        if level > 0:
            merges.append(nf.flows.Merge())
            side = size // 2 ** (levels - level)
            priors.append(nf.distributions.GlowBase((channels * 2 ** (levels - level), side, side)))
        else:
            side = size // 2**levels
            priors.append(nf.distributions.GlowBase((width, side, side)))
    model = nf.MultiscaleFlow(priors, flows, merges, class_cond=False)
    with torch.no_grad():
        model.log_prob(torch.rand(8, channels, size, size) - 0.5, None)
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


ROFORMER_SIZES = {"small": (6, 384), "base": (12, 768)}


def roformers(size: str) -> tuple[Any, Any]:
    """transformers' RoFormerModel of the size of RoFormer-Sim, and ours with the same weights.

    Our pooler, which the peer lacks, is the identity.
    """
    from kexue_roformer_sim.adapters import read_roformer
    from kexue_roformer_sim.encoder import EncoderConfig
    from kexue_roformer_sim.model import RoFormerSim
    from transformers import RoFormerConfig, RoFormerForCausalLM

    layers, width = ROFORMER_SIZES[size]
    torch.manual_seed(0)
    config = RoFormerConfig(
        vocab_size=12_000,
        embedding_size=width,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        is_decoder=True,
    )
    whole = RoFormerForCausalLM(config).eval()
    tensors = dict(whole.state_dict())
    tensors["pooler.dense.weight"], tensors["pooler.dense.bias"] = (
        torch.eye(width),
        torch.zeros(width),
    )
    state, settings = read_roformer(tensors, config.to_dict())
    ours = RoFormerSim(EncoderConfig(**{**settings, "vocabulary": "shipped"})).eval()
    ours.load_state_dict(state)
    theirs = whole.roformer
    theirs.config.is_decoder = False  # both directions, as an encoder
    return theirs, ours


def roformer_writer(theirs: Any, ours: Any) -> Any:
    """transformers' causal RoFormer around a peer's encoder, its head that of ours."""
    from transformers import RoFormerForCausalLM

    theirs.config.is_decoder = True
    whole = RoFormerForCausalLM(theirs.config).eval()
    whole.roformer.load_state_dict(theirs.state_dict())
    head = whole.cls.predictions
    with torch.no_grad():
        head.transform.dense.load_state_dict(ours.head.dense.state_dict())
        head.transform.LayerNorm.load_state_dict(ours.head.norm.state_dict())
        head.bias.copy_(ours.head.bias)
    return whole


def sentence_transformer(theirs: Any, tokenizer: Any, folder: Any) -> Any:
    """sentence-transformers around a peer's encoder: [CLS], the same vocabulary."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertTokenizerFast

    theirs.save_pretrained(folder)
    vocabulary = {token: i for i, token in enumerate(tokenizer.vocabulary)}
    BertTokenizerFast(vocab=vocabulary, do_lower_case=True).save_pretrained(folder)
    net = Transformer(str(folder), max_seq_length=64)
    width = theirs.config.hidden_size
    return SentenceTransformer(modules=[net, Pooling(width, pooling_mode="cls")], device="cpu")
