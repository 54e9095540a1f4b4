"""Public checkpoints: TensorFlow's own files, Hugging Face's by a Hub, and what does not fit."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from kexue_roformer_sim.adapters import read_roformer, read_simbert
from kexue_roformer_sim.encoder import EncoderConfig
from kexue_roformer_sim.model import RoFormerSim
from safetensors.torch import save
from torch import Tensor

import kexue_core as kexue
from kexue_core.adapters import read_checkpoint
from kexue_core.errors import WeightsFormatError
from kexue_core.hub.conversion import convert
from kexue_core.registry import load_registry
from kexue_core.testing.loopback_hub import LoopbackHub

TENSORFLOW = Path(__file__).parent / "fixtures" / "tensorflow"
CONFIG = json.loads((TENSORFLOW / "bert_config.json").read_text())


def hugging_face(*, prefix: str = "", bert: bool = False) -> tuple[dict[str, Tensor], Any]:
    """The tensors that transformers' own RoFormer or BERT saves, with the pooler and the head."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {**CONFIG, "max_position_embeddings": 80}
    if bert:
        sizes.pop("embedding_size")
    if bert:
        config = transformers.BertConfig(**sizes)
        net, head = transformers.BertModel(config), transformers.BertForMaskedLM(config)
        own = "bert."
    else:
        config = transformers.RoFormerConfig(**sizes)
        net, head = transformers.RoFormerModel(config), transformers.RoFormerForMaskedLM(config)
        own = "roformer."
    tensors = {f"{prefix}{k}": v for k, v in net.state_dict().items()}
    if not bert:
        tensors[f"{prefix}pooler.dense.weight"] = torch.randn(32, 32)
        tensors[f"{prefix}pooler.dense.bias"] = torch.randn(32)
    tensors |= {k: v for k, v in head.state_dict().items() if not k.startswith(own)}
    tensors["cls.predictions.decoder.weight"] = tensors[
        f"{prefix}embeddings.word_embeddings.weight"
    ]
    return tensors, config


def test_every_tensor_of_the_tensorflow_fixture_is_equal_bit_for_bit() -> None:
    kind, tensors = read_checkpoint(TENSORFLOW)
    assert kind == "tensorflow"
    told = json.loads((TENSORFLOW / "tensors.json").read_text())
    assert set(tensors) == set(told)
    for name, (dtype, shape, digest) in told.items():
        array = tensors[name].numpy()
        assert (str(array.dtype), list(array.shape)) == (dtype, shape)
        assert hashlib.sha256(array.tobytes()).hexdigest() == digest


def as_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The TensorFlow tensors under Hugging Face's names, as its own script converts them."""
    found = {}
    for name, tensor in tensors.items():
        if "adam" in name or name == "global_step":
            continue
        parts = name.split("/")
        value = tensor.T.contiguous() if parts[-1] == "kernel" else tensor
        parts[-1] = {"kernel": "weight", "gamma": "weight", "beta": "bias"}.get(
            parts[-1], parts[-1]
        )
        new = ".".join(parts).replace("bert.", "roformer.").replace("layer_", "layer.")
        new = new.replace("encoder.embedding_hidden_mapping_in", "embeddings_project")
        new = new.replace("output_bias", "bias")
        if new.endswith("_embeddings"):
            new += ".weight"
        found[new] = value
    return found


def test_both_routes_give_the_same_module(tmp_path: Path) -> None:
    _, tensors = read_checkpoint(TENSORFLOW)
    direct, settings = read_roformer(tensors, CONFIG)
    other, others = read_roformer(as_hugging_face(tensors), CONFIG)
    assert settings == others
    assert direct.keys() == other.keys()
    assert all(torch.equal(direct[k], other[k]) for k in direct)
    assert settings["embedding_size"] == 24
    done = convert(TENSORFLOW, tmp_path / "tf", adapter="roformer-sim")
    model = kexue.load(f"file:{done.folder}")
    assert isinstance(model, RoFormerSim)
    assert len(model.tokenizer) == 150
    assert model.embed(["一丁"]).shape == (1, 32)
    plain = RoFormerSim(EncoderConfig(**settings))
    plain.load_state_dict(direct)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name])


@pytest.mark.parametrize("prefix", ["", "roformer."])
def test_a_prefix_makes_no_difference(prefix: str) -> None:
    tensors, config = hugging_face(prefix=prefix)
    state, settings = read_roformer(tensors, config.to_dict())
    assert settings["rewrites"]
    bare, _ = read_roformer(hugging_face()[0], config.to_dict())
    same = [k for k in state if not k.startswith("pooler")]
    assert all(torch.equal(state[k], bare[k]) for k in same)
    without = {k: v for k, v in tensors.items() if not k.startswith("cls.")}
    _, settings = read_roformer(without, config.to_dict())
    assert not settings["rewrites"]


def test_sizes_are_read_off_the_tensors_where_the_config_says_nothing() -> None:
    tensors, config = hugging_face()
    _, settings = read_roformer(tensors, config.to_dict())
    heads = {"num_attention_heads": CONFIG["num_attention_heads"]}
    _, guessed = read_roformer(tensors, heads)
    assert guessed == settings
    simbert, config = hugging_face(bert=True)
    _, settings = read_simbert(simbert, config.to_dict())
    assert read_simbert(simbert, heads)[1] == settings


def v2(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """RoFormer v2 has no biases: a peer loads it in silence."""
    for name in [n for n in tensors if n.endswith(".bias")]:
        del tensors[name]


def no_pooler(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    del tensors["pooler.dense.weight"], tensors["pooler.dense.bias"]


def extra(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors["classifier.weight"] = torch.zeros(2, 2)


def wider(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["intermediate_size"] = 128


def deeper(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["num_hidden_layers"] = 3


def shallower(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["num_hidden_layers"] = 1


def more_words(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["vocab_size"] = 12_000


def untied(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors["cls.predictions.decoder.weight"] = torch.zeros(150, 24)


def relu(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["hidden_act"] = "relu"


def rotated_values(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["rotary_value"] = True


def no_number(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["hidden_size"] = "32"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (v2, r"missing: .*\.bias"),
        (no_pooler, r"missing: pooler\.dense\.bias, pooler\.dense\.weight"),
        (extra, r"unexpected: classifier\.weight"),
        (wider, r"layer\.0\.intermediate\.dense\.weight \(64, 32\).*\(128, 32\)"),
        (deeper, r"missing: encoder\.layer\.2\."),
        (shallower, r"unexpected: encoder\.layer\.1\."),
        (more_words, r"word_embeddings\.weight \(150, 24\).*\(12000, 24\)"),
        (untied, r"decoder\.weight differs"),
        (relu, "hidden_act"),
        (rotated_values, "rotary_value"),
        (no_number, "hidden_size"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: Any, named: str) -> None:
    tensors, config = hugging_face()
    settings = config.to_dict()
    change(tensors, settings)
    with pytest.raises(WeightsFormatError, match=named):
        read_roformer(tensors, settings)


def test_a_bert_is_no_roformer() -> None:
    tensors, config = hugging_face(bert=True)
    with pytest.raises(WeightsFormatError, match=r"unexpected: .*position_embeddings"):
        read_roformer(tensors, config.to_dict())
    tensors, config = hugging_face()
    with pytest.raises(WeightsFormatError, match=r"missing: .*position_embeddings"):
        read_simbert(tensors, config.to_dict())


def pickled(tensors: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    return buffer.getvalue()


def test_the_catalogue_names_the_seven_public_weights() -> None:
    load_registry.cache_clear()
    public = [e for e in load_registry().weights if e.adapter in ("roformer-sim", "simbert")]
    assert {e.name for e in public} == {
        *(f"roformer-sim-{size}" for size in ("base", "small", "ft-base", "ft-small")),
        *(f"simbert-{size}" for size in ("base", "small", "tiny")),
    }
    for entry in public:
        assert entry.plugin == "kexue-roformer-sim"
        assert entry.status == "unverified"
        assert entry.repo
        assert set(entry.capabilities) <= {"embed", "similar", "rewrite"}


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("name", ["roformer-sim-small", "simbert-tiny"])
def test_public_weights_are_pulled_and_converted(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real catalogue against a Hub that holds repositories of the same names and format."""
    load_registry.cache_clear()
    bert = name.startswith("simbert")
    tensors, config = hugging_face(prefix="" if bert else "roformer.", bert=bert)
    unshared = {k: v.clone().contiguous() for k, v in tensors.items()}
    (entry,) = [e for e in load_registry().weights if e.name == name]
    data = pickled(tensors) if file.endswith(".bin") else save(unshared)
    files = {
        file: data,
        "vocab.txt": (TENSORFLOW / "vocab.txt").read_bytes(),
        "config.json": json.dumps(config.to_dict()).encode(),
    }
    with LoopbackHub() as hub:
        hub.store.add(str(entry.repo), files)
        for key, value in {**hub.environment(), "HF_HUB_CACHE": str(tmp_path / "hub")}.items():
            monkeypatch.setenv(key, value)
        model = kexue.load(name)
    assert isinstance(model, RoFormerSim)
    assert model.config.positions == ("learned" if bert else "rope")
    read = read_simbert if bert else read_roformer
    state, _ = read(tensors, config.to_dict())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model.embed(["一丁七万"]).shape == (1, 32)
    assert model.rewrite("一丁七万", 2)


def test_weights_without_their_vocabulary_say_so(tmp_path: Path) -> None:
    tensors, config = hugging_face()
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "model.bin").write_bytes(pickled(tensors))
    done = convert(tmp_path / "model.bin", tmp_path / "new", adapter="roformer-sim")
    with pytest.raises(WeightsFormatError, match=r"vocab\.txt"):
        kexue.load(f"file:{done.folder}")
