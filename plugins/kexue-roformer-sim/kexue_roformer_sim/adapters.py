"""Public checkpoints to our state dict: RoFormer-Sim and SimBERT, from TensorFlow and Hugging Face.

Three things differ between them and us: names; queries, keys and values are three maps there and
one here; and RoPE turns neighbours there and halves here, which is a permutation of the rows of
queries and keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from kexue_core.errors import WeightsFormatError
from kexue_roformer_sim.encoder import halves_from_pairs

__all__ = ["read_roformer", "read_simbert"]

Positions: TypeAlias = Literal["rope", "learned"]

#: What a checkpoint may hold that no sentence vector or rewrite needs: tables that are computed
#: here, next-sentence heads, the state of an optimiser.
_IGNORED = re.compile(
    r"encoder\.embed_positions\.weight|embeddings\.position_ids|cls\.seq_relationship\..*"
    r"|.*[./](adam_[mv]|AdamWeightDecayOptimizer.*|m|v)|global_step|_CHECKPOINTABLE_OBJECT_GRAPH"
    r"|.*\.rotary_emb\..*"
)

_TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}

_TENSORFLOW = (
    (r"^bert/", ""),
    (r"encoder/embedding_hidden_mapping_in/", "embeddings_project/"),
    (r"encoder/layer_(\d+)/", r"encoder/layer/\1/"),
    (r"cls/predictions/output_bias$", "cls/predictions/bias"),
    (r"/gamma$", "/weight"),
    (r"/beta$", "/bias"),
    (r"(word|token_type|position)_embeddings$", r"\1_embeddings/weight"),
)


def read_roformer(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """RoFormer-Sim, of either format.

    Args:
        tensors: The checkpoint.
        config: The JSON beside it; what it leaves out is read off the tensors.

    Returns:
        State dict and arguments of :class:`~kexue_roformer_sim.encoder.EncoderConfig`.

    Raises:
        WeightsFormatError: Tensors are missing, unexpected, or of other shapes than the config says
            (a RoFormer v2 has no biases); or the config says something that the net does not do.
    """
    return _read(tensors, config, "rope")


def read_simbert(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """SimBERT, or any BERT with a pooler, of either format; as :func:`read_roformer`."""
    return _read(tensors, config, "learned")


def _read(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], positions: Positions
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    found = _common_names(tensors)
    settings = _settings(found, config, positions)
    names = dict(_names(settings))
    _check(found, {n for theirs in names.values() for n, _ in theirs}, dict(_shapes(names)))
    heads = settings["heads"] if positions == "rope" else 0
    state = {
        ours: _join([found[name] for name, _ in theirs], heads) for ours, theirs in names.items()
    }
    return state, settings


def _common_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names without a prefix, whatever the format; what counts for nothing is out.

    Raises:
        WeightsFormatError: A copy of a tied tensor differs from it, or two names become one.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        renamed = _from_tensorflow(name) if "/" in name else name
        renamed = re.sub(r"^(roformer|bert|model)\.", "", renamed)
        renamed = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", renamed)
        renamed = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", renamed)
        if _IGNORED.fullmatch(name) or _IGNORED.fullmatch(renamed):
            continue
        if renamed in found:
            raise WeightsFormatError(f"{name} is there twice, with and without a prefix")
        found[renamed] = tensor.T if name.endswith("/kernel") else tensor
    for copy, original in _TIED.items():
        if copy not in found:
            continue
        tensor = found.pop(copy)
        if not torch.equal(tensor, found.setdefault(original, tensor)):
            raise WeightsFormatError(f"{copy} differs from {original}, and the model ties them")
    return found


def _from_tensorflow(name: str) -> str:
    for pattern, replacement in _TENSORFLOW:
        name = re.sub(pattern, replacement, name)
    return name.replace("/kernel", "/weight").replace("/", ".")


def _settings(
    found: Mapping[str, Tensor], config: Mapping[str, Any], positions: Positions
) -> dict[str, Any]:
    """Arguments of our config: what the JSON says, and where it is silent, the shapes."""
    if config.get("hidden_act", "gelu") != "gelu":
        raise WeightsFormatError(
            f"hidden_act is {config['hidden_act']!r}, and this net computes gelu"
        )
    if config.get("rotary_value"):
        raise WeightsFormatError("rotary_value is true, and this net leaves values as they are")
    table = found.get("embeddings.word_embeddings.weight")
    segments = found.get("embeddings.token_type_embeddings.weight")
    inner = found.get("encoder.layer.0.intermediate.dense.weight")
    places = found.get("embeddings.position_embeddings.weight")
    pooler = found.get("pooler.dense.weight")
    deepest = [int(n.split(".")[2]) for n in found if re.match(r"encoder\.layer\.\d+\.", n)]

    def size(key: str, guess: int | None) -> int:
        value = config.get(key, guess)
        value = guess if value is None else value
        if type(value) is not int or value < 0:
            raise WeightsFormatError(
                f"{key} is {value!r}, and no size"
                if key in config
                else f"The config has no {key}, and the checkpoint does not show it",
                hint="Put the config.json of the checkpoint beside it",
            )
        return value

    hidden = size("hidden_size", None if pooler is None else pooler.shape[0])
    settings = {
        "vocab_size": size("vocab_size", None if table is None else table.shape[0]),
        "embedding_size": size("embedding_size", _embedding_size(config, table)),
        "hidden_size": hidden,
        "layers": size("num_hidden_layers", max(deepest, default=-1) + 1),
        "heads": size("num_attention_heads", hidden // 64),
        "intermediate_size": size("intermediate_size", None if inner is None else inner.shape[0]),
        "segments": size("type_vocab_size", None if segments is None else segments.shape[0]),
        "positions": positions,
        "vocabulary": "own",
        "rewrites": any(name.startswith("cls.predictions.") for name in found),
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
    }
    if positions == "learned":
        settings["max_positions"] = size(
            "max_position_embeddings", None if places is None else places.shape[0]
        )
    return settings


def _embedding_size(config: Mapping[str, Any], table: Tensor | None) -> int | None:
    """Where the JSON does not say: the hidden size in BERT's, which has no such key."""
    if config.get("model_type") in (None, "bert") and type(config.get("hidden_size")) is int:
        return int(config["hidden_size"])
    return None if table is None else table.shape[1]


def _names(c: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """Our name, and the foreign names with their shapes that it is made of."""
    hidden, embedding, inner = c["hidden_size"], c["embedding_size"], c["intermediate_size"]

    def pair(ours: str, theirs: str, *shape: int) -> Iterator[tuple[str, list[Any]]]:
        yield f"{ours}.weight", [(f"{theirs}.weight", shape)]
        yield f"{ours}.bias", [(f"{theirs}.bias", shape[:1])]

    tables = {"tokens": ("word", c["vocab_size"]), "segments": ("token_type", c["segments"])}
    if c["positions"] == "learned":
        tables["positions"] = ("position", c["max_positions"])
    for ours, (theirs, rows) in tables.items():
        full = f"embeddings.{theirs}_embeddings.weight"
        yield f"embeddings.{ours}.weight", [(full, (rows, embedding))]
    yield from pair("embeddings.norm", "embeddings.LayerNorm", embedding)
    if embedding != hidden:
        yield from pair("embeddings.project", "embeddings_project", hidden, embedding)
    for i in range(c["layers"]):
        ours, theirs = f"layers.{i}", f"encoder.layer.{i}"
        for kind, shape in (("weight", (hidden, hidden)), ("bias", (hidden,))):
            parts = [f"{theirs}.attention.self.{p}.{kind}" for p in ("query", "key", "value")]
            yield f"{ours}.qkv.{kind}", [(part, shape) for part in parts]
        yield from pair(f"{ours}.attention", f"{theirs}.attention.output.dense", hidden, hidden)
        yield from pair(f"{ours}.norm1", f"{theirs}.attention.output.LayerNorm", hidden)
        yield from pair(f"{ours}.inner", f"{theirs}.intermediate.dense", inner, hidden)
        yield from pair(f"{ours}.outer", f"{theirs}.output.dense", hidden, inner)
        yield from pair(f"{ours}.norm2", f"{theirs}.output.LayerNorm", hidden)
    yield from pair("pooler", "pooler.dense", hidden, hidden)
    if c["rewrites"]:
        yield from pair("head.dense", "cls.predictions.transform.dense", embedding, hidden)
        yield from pair("head.norm", "cls.predictions.transform.LayerNorm", embedding)
        yield "head.bias", [("cls.predictions.bias", (c["vocab_size"],))]


def _shapes(
    names: Mapping[str, list[tuple[str, tuple[int, ...]]]],
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for theirs in names.values():
        yield from theirs


def _check(
    found: Mapping[str, Tensor], wanted: set[str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse what does not fit exactly, in the checkpoint's own words."""
    wrong = [
        f"{name} {tuple(found[name].shape)}, where the config says {shape}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    problems = [
        f"{kind}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if names[5:] else "")
        for kind, names in (
            ("missing", sorted(wanted - found.keys())),
            ("unexpected", sorted(found.keys() - wanted)),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        raise WeightsFormatError(
            f"The checkpoint is not of this architecture; {'; '.join(problems)}",
            hint="See that its config.json is its own, and that it is RoFormer (version 1, with "
            "pooler) for the adapter roformer-sim, BERT for simbert",
        )


def _join(parts: list[Tensor], heads: int) -> Tensor:
    """One tensor as it is, or queries, keys and values as one, turned pairs brought apart."""
    if len(parts) == 1:
        return parts[0].contiguous()
    if heads:
        parts = [*(halves_from_pairs(part, heads) for part in parts[:2]), parts[2]]
    return torch.cat(parts)
