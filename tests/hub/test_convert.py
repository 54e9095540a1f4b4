"""Foreign checkpoints: tensors are read, code is not run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DataType

from kexue_core.adapters import read_checkpoint
from kexue_core.adapters.tensorflow import read_bundle
from kexue_core.api import load
from kexue_core.errors import (
    KexueError,
    NotFoundError,
    PluginError,
    VerificationError,
    WeightsFormatError,
)
from kexue_core.hub import locate
from kexue_core.hub.conversion import convert
from kexue_core.hub.download import pull
from kexue_core.hub.removal import remove
from kexue_core.hub.verification import verify
from kexue_core.plugins import discover

SHOP = Path(__file__).parent / "shop"


@pytest.fixture
def shop(world, monkeypatch):
    monkeypatch.syspath_prepend(SHOP)
    monkeypatch.setenv("KEXUE_PLUGINS", "kexue-shop")
    discover.cache_clear()
    yield world
    discover.cache_clear()


def tensors(width: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(width, 1, generator=generator)
    return {"dense/bias": torch.randn(1, generator=generator), "dense/kernel": kernel}


# --- a writer of TensorFlow's format, with TensorFlow's own messages where tensorboard has them ---


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(items: list[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    out, restarts, last = b"", [], b""
    for index, (key, value) in enumerate(items):
        shared = 0
        if index % interval:
            while key[: shared + 1] == last[: shared + 1] and shared < min(len(key), len(last)):
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + b"".join(struct.pack("<I", r) for r in restarts) + struct.pack("<I", len(restarts))


def write_bundle(prefix: Path, arrays: dict[str, np.ndarray], *, per_block: int = 3) -> None:
    data, items = b"", [(b"", field(1, 1) + field(3, field(1, 1)))]
    for name in sorted(arrays):
        array = arrays[name]
        raw = array.tobytes()
        dims = [TensorShapeProto.Dim(size=n) for n in array.shape]
        names = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "bool": "BOOL"}
        entry = field(1, DataType.Value(f"DT_{names[array.dtype.name]}"))
        entry += field(2, TensorShapeProto(dim=dims).SerializeToString())
        entry += field(4, len(data)) + field(5, len(raw))
        entry += varint(6 << 3 | 5) + struct.pack("<I", 0)
        items.append((name.encode(), entry))
        data += raw
    table, index = b"", []
    for start in range(0, len(items), per_block):
        part = items[start : start + per_block]
        raw = block(part)
        index.append((part[-1][0] + b"~", varint(len(table)) + varint(len(raw))))
        table += raw + b"\0" * 5
    meta = block([])
    handles = varint(len(table)) + varint(len(meta))
    table += meta + b"\0" * 5
    raw = block(index)
    handles += varint(len(table)) + varint(len(raw))
    table += raw + b"\0" * 5
    table += handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table)
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes=st.dictionaries(
        st.text("abc/_0é", min_size=1, max_size=12),
        st.tuples(
            st.lists(st.integers(0, 4), max_size=3),
            st.sampled_from(["float32", "float16", "int64", "bool"]),
        ),
        max_size=12,
    )
)
def test_bundles_come_back_as_they_were_written(tmp_path, shapes):
    generator = np.random.default_rng(0)
    arrays = {
        name: (generator.normal(size=shape) * 9).astype(dtype)
        for name, (shape, dtype) in shapes.items()
    }
    write_bundle(tmp_path / "model", arrays)
    found = read_bundle(tmp_path / "model")
    assert list(found) == sorted(arrays, key=str.encode)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 400), byte=st.integers(0, 255), cut=st.booleans())
@example(position=224, byte=224, cut=False)  # a message's tag becomes a number's
def test_damaged_bundles_are_errors_or_arrays_never_crashes(tmp_path, position, byte, cut):
    write_bundle(tmp_path / "m", {k: v.numpy() for k, v in tensors().items()})
    path = tmp_path / "m.index"
    data = bytearray(path.read_bytes())
    position %= len(data)
    data[position] = byte
    path.write_bytes(data[:position] if cut else data)
    with contextlib.suppress(KexueError):
        read_bundle(tmp_path / "m")


# --- conversions ----------------------------------------------------------------------------------


def save_pickle(folder: Path) -> Path:
    torch.save(tensors(), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def save_nested(folder: Path) -> Path:
    torch.save({"state_dict": tensors(), "step": 3}, folder / "last.pt")
    return folder


def save_tensorflow(folder: Path) -> Path:
    write_bundle(folder / "bert_model.ckpt", {k: v.numpy() for k, v in tensors().items()})
    return folder / "bert_model.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_pickle, save_nested, save_tensorflow])
def test_a_checkpoint_becomes_a_folder_of_weights(shop, tmp_path, save):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/vocab.txt").write_text("[PAD]\n")
    done = convert(save(tmp_path / "old"), tmp_path / "new")
    assert (done.adapter, done.tensors) == ("kexue-shop::line-old", 2)
    model = load(f"file:{tmp_path / 'new'}")
    torch.testing.assert_close(model.linear.weight, tensors()["dense/kernel"].T)
    assert (tmp_path / "new/vocab.txt").read_text() == "[PAD]\n"


class Payload:
    """What a hostile pickle holds: it would leave a mark if it were run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_code_is_refused_and_not_run(shop, tmp_path):
    mark = tmp_path / "mark"
    torch.save({"dense/kernel": Payload(mark)}, tmp_path / "evil.pt")
    with pytest.raises(VerificationError, match="code"):
        convert(tmp_path / "evil.pt", tmp_path / "new")
    with (tmp_path / "evil.pkl").open("wb") as stream:
        pickle.dump(Payload(mark), stream)
    with pytest.raises((VerificationError, WeightsFormatError)):
        read_checkpoint(tmp_path / "evil.pkl")
    assert not mark.exists()
    assert not (tmp_path / "new").exists()


def test_missing_unexpected_and_misshapen_keys_are_named(shop, tmp_path):
    state = {"dense/kernel": torch.zeros(4, 2), "dropout/rate": torch.zeros(1)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(WeightsFormatError) as raised:
        convert(tmp_path / "model.pt", tmp_path / "new")
    text = str(raised.value)
    assert "missing: linear.bias" in text
    assert "unexpected: dropout/rate" in text
    assert "linear.weight (2, 4) instead of (1, 4)" in text
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04", b"\x80\x02garbage", b"text"],
    ids=["empty", "zip", "pickle", "text"],
)
def test_damaged_files_are_typed_errors(tmp_path, data):
    (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises((WeightsFormatError, VerificationError)):
        read_checkpoint(tmp_path / "model.pt")


def test_what_is_not_there_is_said(shop, tmp_path):
    with pytest.raises(NotFoundError):
        convert(tmp_path / "nothing", tmp_path / "new")
    with pytest.raises(WeightsFormatError, match="one checkpoint"):
        convert(tmp_path, tmp_path / "new")
    with pytest.raises(NotFoundError, match="adapter"):
        convert(save_pickle(tmp_path), tmp_path / "new", adapter="other")


def test_a_name_with_an_adapter_is_pulled_converted_and_removed(shop, tmp_path):
    path = save_pickle(tmp_path)
    shop.hub.store.add("o/old", {"pytorch_model.bin": path.read_bytes(), "tf_model.h5": b"x"})
    entry = {"plugin": "kexue-shop", "repo": "o/old", "status": "unverified", "adapter": "line-old"}
    shop.register(line=entry)
    [done] = pull(["line"])
    assert done.folder.parent == shop.home / "converted"
    found = locate("line", download=False)
    assert found.folder == done.folder
    model = load("line")
    torch.testing.assert_close(model.linear.weight, tensors()["dense/kernel"].T)
    weights = done.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(VerificationError):
        locate("line", download=False)
    assert [r.state for r in verify("line", repair=True)] == ["ok", "ok", "ok", "repaired"]
    assert locate("line", download=False).folder == done.folder
    remove("line")
    assert not shop.files()


def test_without_the_plugin_the_files_are_kept_and_it_is_named(shop, tmp_path, monkeypatch):
    shop.hub.store.add("o/old", {"pytorch_model.bin": save_pickle(tmp_path).read_bytes()})
    entry = {"plugin": "kexue-gone", "repo": "o/old", "status": "unverified", "adapter": "line-old"}
    shop.register(line=entry)
    [done] = pull(["line"])
    assert "install kexue-gone" in done.note
    with pytest.raises(PluginError, match="kexue-gone"):
        locate("line")
    assert json.dumps(sorted(done.files)) == '["pytorch_model.bin"]'
