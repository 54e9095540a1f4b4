"""Write ``fixtures/tensorflow``: a RoFormer-Sim checkpoint as TensorFlow itself writes one.

Run once, with TensorFlow, which nothing else here needs::

    python -m venv tf && tf/bin/pip install tensorflow-cpu
    tf/bin/python plugins/kexue-roformer-sim/tests/make_tensorflow_fixture.py

``tensors.json`` holds dtype, shape and sha256 of every tensor as TensorFlow's own reader gives it
back.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent / "fixtures" / "tensorflow"
CONFIG = {
    "hidden_size": 32,
    "embedding_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 150,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def shapes() -> dict[str, tuple[int, ...]]:
    hidden, embedding = CONFIG["hidden_size"], CONFIG["embedding_size"]
    inner, vocab = CONFIG["intermediate_size"], CONFIG["vocab_size"]

    def dense(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}/kernel": (rows, columns), f"{name}/bias": (columns,)}

    def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}/LayerNorm/beta": (size,), f"{name}/LayerNorm/gamma": (size,)}

    found = {
        "bert/embeddings/word_embeddings": (vocab, embedding),
        "bert/embeddings/token_type_embeddings": (2, embedding),
        **norm("bert/embeddings", embedding),
        **dense("bert/encoder/embedding_hidden_mapping_in", embedding, hidden),
        **dense("bert/pooler/dense", hidden, hidden),
        **dense("cls/predictions/transform/dense", hidden, embedding),
        **norm("cls/predictions/transform", embedding),
        "cls/predictions/output_bias": (vocab,),
    }
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{i}"
        for part in ("query", "key", "value"):
            found |= dense(f"{layer}/attention/self/{part}", hidden, hidden)
        found |= dense(f"{layer}/attention/output/dense", hidden, hidden)
        found |= norm(f"{layer}/attention/output", hidden)
        found |= dense(f"{layer}/intermediate/dense", hidden, inner)
        found |= dense(f"{layer}/output/dense", inner, hidden)
        found |= norm(f"{layer}/output", hidden)
    return found


def main() -> None:
    HERE.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, shape in shapes().items():
            scale = 1.0 if name.endswith("gamma") else 0.0
            value = (scale + 0.1 * random.standard_normal(shape)).astype(np.float32)
            tf.compat.v1.get_variable(name, initializer=value)
        # What a training leaves beside the weights.
        tf.compat.v1.get_variable("global_step", initializer=np.int64(12345))
        for moment in ("adam_m", "adam_v"):
            name = f"bert/pooler/dense/bias/{moment}"
            tf.compat.v1.get_variable(name, initializer=np.zeros(32, np.float32))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(
            session, str(HERE / "bert_model.ckpt"), write_meta_graph=False
        )
    (HERE / "checkpoint").unlink()
    reader = tf.train.load_checkpoint(str(HERE / "bert_model.ckpt"))
    told = {}
    for name in sorted(reader.get_variable_to_shape_map()):
        tensor = np.asarray(reader.get_tensor(name))
        digest = hashlib.sha256(tensor.tobytes()).hexdigest()
        told[name] = [str(tensor.dtype), list(tensor.shape), digest]
    (HERE / "tensors.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (HERE / "bert_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="utf-8")
    characters = [chr(0x4E00 + i) for i in range(CONFIG["vocab_size"] - len(VOCABULARY))]
    text = "\n".join([*VOCABULARY, *characters]) + "\n"
    (HERE / "vocab.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
