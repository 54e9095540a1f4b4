"""The header of a safetensors file: what is admitted, what is refused, and at what cost."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from kexue_core.errors import WeightsFormatError
from kexue_core.safetensors_header import (
    DTYPES,
    MAX_HEADER,
    MAX_TENSORS,
    TensorEntry,
    encode_header,
    read_header,
)
from kexue_core.tensors import DTYPE_NAMES, TORCH_DTYPES


def write(path: Path, header: bytes | Mapping[str, Any], data: bytes = b"") -> Path:
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def entry(shape: object, offsets: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_dtypes_are_torchs() -> None:
    assert {name: dtype.itemsize for name, dtype in TORCH_DTYPES.items()} == DTYPES
    assert len(DTYPE_NAMES) == len(TORCH_DTYPES)


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
tensors = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from(sorted(DTYPES)), shapes),
    max_size=8,
)


@given(described=tensors)
def test_what_is_encoded_is_read(described: Mapping[str, Any], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "encoded.safetensors"
    head, order = encode_header(described)
    size = sum(DTYPES[d] * torch.Size(s).numel() for d, s in described.values())
    path.write_bytes(head + bytes(size))
    entries = read_header(path)
    assert list(entries) == order or any(0 in s for _, s in described.values())
    assert {name: (e.dtype, e.shape) for name, e in entries.items()} == dict(described)
    with safe_open(path, "np") as theirs:
        assert set(theirs.keys()) == set(described)
        assert theirs.metadata() == {"format": "pt"}


@given(described=tensors)
def test_what_the_library_writes_is_read(
    described: Mapping[str, Any], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "library.safetensors"
    path.write_bytes(
        save({n: torch.zeros(s, dtype=TORCH_DTYPES[d]) for n, (d, s) in described.items()})
    )
    read = {name: (e.dtype, e.shape) for name, e in read_header(path).items()}
    assert read == dict(described)


def test_entries_count_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    header = {"b": entry([1], [8, 12]), "a": entry([2], [0, 8])}
    path = write(tmp_path / "f", header, bytes(12))
    start = path.stat().st_size - 12
    assert list(read_header(path).items()) == [
        ("a", TensorEntry("F32", (2,), start, start + 8)),
        ("b", TensorEntry("F32", (1,), start + 8, start + 12)),
    ]


A = entry([2], [0, 8])


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"", b"", "no JSON|Expecting value"),
        (b"[]", b"", "no JSON object"),
        (b"null", b"", "no JSON object"),
        (b'{"a": 1}', b"", "not described by"),
        (b'{"a": {}}', b"", "not described by"),
        (b"{} x", b"", "Extra data"),
        (b"\xff\xfe{}", b"", "not UTF-8"),
        ("{}".encode("utf-16"), b"", "not UTF-8"),
        (b'{"a": NaN}', b"", "NaN is no JSON"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
         b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8), "'a' occurs twice"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8),
         "'dtype' occurs twice"),
        ({"a": A | {"strides": [1]}}, bytes(8), "not described by"),
        ({"a": entry([2], [0, 8], "F33")}, bytes(8), "unknown dtype 'F33'"),
        ({"a": entry([2], [0, 8], ["F32"])}, bytes(8), "unknown dtype"),
        ({"a": entry([2], [0, 8], None)}, bytes(8), "unknown dtype"),
        ({"a": entry([-2], [0, 8])}, bytes(8), "impossible shape"),
        ({"a": entry([2.0], [0, 8])}, bytes(8), "impossible shape"),
        ({"a": entry([True, 2], [0, 8])}, bytes(8), "impossible shape"),
        ({"a": entry(2, [0, 8])}, bytes(8), "impossible shape"),
        ({"a": entry([1] * 65, [0, 4])}, bytes(4), "impossible shape"),
        ({"a": entry([2**63], [0, 8])}, bytes(8), "impossible shape"),
        ({"a": entry([2**62, 2], [0, 8])}, bytes(8), "has 8 bytes, its dtype and shape need"),
        ({"a": entry([2**32, 2**32], [0, 0])}, b"", "has 0 bytes, its dtype and shape need"),
        ({"a": entry([2], [0, 8, 8])}, bytes(8), "impossible data_offsets"),
        ({"a": entry([2], [0])}, bytes(8), "impossible data_offsets"),
        ({"a": entry([2], [-8, 0])}, bytes(8), "impossible data_offsets"),
        ({"a": entry([2], [8, 0])}, bytes(8), "lies at bytes 8:0"),
        ({"a": entry([2], [0, 12])}, bytes(8), "lies at bytes 0:12 of 8"),
        ({"a": entry([3], [0, 8])}, bytes(8), "has 8 bytes, its dtype and shape need 12"),
        ({"a": entry([2], [4, 12])}, bytes(12), "'a' follows a hole"),
        ({"a": A, "b": entry([2], [12, 20])}, bytes(20), "'b' follows a hole"),
        ({"a": A, "b": entry([2], [4, 12])}, bytes(12), "'b' overlaps"),
        ({"a": A, "b": A}, bytes(8), "overlaps"),
        ({"a": A}, bytes(9), "tensors end at byte"),
        ({"a": A}, bytes(7), "lies at bytes 0:8 of 7"),
        ({}, b"x", "tensors end at byte"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
        ({"__metadata__": "text"}, b"", "__metadata__"),
        (b"[" * 100_000, b"", "nested too deeply"),
        (b'{"a":' * 100_000, b"", "nested too deeply"),
        (b"1" * 10_000, b"", "4300 digits|no JSON object"),
    ],
)  # fmt: skip
def test_malformed_headers_are_refused_in_one_line(
    tmp_path: Path, header: bytes | Mapping[str, Any], data: bytes, message: str
) -> None:
    with pytest.raises(WeightsFormatError, match=message) as caught:
        read_header(write(tmp_path / "f", header, data))
    assert str(tmp_path / "f") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes"),
        (b"1234567", "has 7 bytes"),
        ((11).to_bytes(8, "little") + b"{}", "claims 11 bytes, the whole file has 10"),
        ((MAX_HEADER + 1).to_bytes(8, "little") + b"{}", "claims 10000001 bytes, the limit is"),
        (b"\xff" * 8 + b"{}", "claims 18446744073709551615 bytes, the limit is"),
    ],
)
def test_length_is_checked_before_anything_is_read(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(WeightsFormatError, match=message):
        read_header(tmp_path / "f")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(WeightsFormatError, match=f"{path} is missing"):
            read_header(path)


def test_as_many_tensors_as_are_allowed(tmp_path: Path) -> None:
    described = {f"layers.{i}.weight": ("F32", (2, 3)) for i in range(MAX_TENSORS)}
    head, _ = encode_header(described)
    if len(head) > MAX_HEADER:  # names of this length make the header the tighter limit
        described = dict(list(described.items())[: MAX_TENSORS * MAX_HEADER // len(head) - 100])
        head, _ = encode_header(described)
    path = tmp_path / "many"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 24 * len(described))
    assert len(read_header(path)) == len(described)


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    header = {f"{i:x}": entry([0], [0, 0], "U8") for i in range(MAX_TENSORS + 1)}
    raw = json.dumps(header, separators=(",", ":")).encode()
    assert len(raw) < MAX_HEADER
    with pytest.raises(WeightsFormatError, match="100001 tensors, the limit is 100000"):
        read_header(write(tmp_path / "f", raw))


def full(unit: bytes, before: bytes = b'{"a":[', after: bytes = b"0]}") -> bytes:
    """A header of the largest size that is made of one unit."""
    return before + unit * ((MAX_HEADER - len(before) - len(after)) // len(unit)) + after


@pytest.mark.parametrize(
    "header",
    [
        full(b"{},"),
        full(b"[],"),
        full(b"[0],"),
        full(b'"ab",'),
        full(b"1.5,"),
        full(b"999,"),
        full(b"9" * 4000 + b","),
        full(b'{"":0},'),
        full(b'"\\ud83d\\ude00",'),
        full(b"a", b'{"__metadata__":{"a":"', '🙂"}}'.encode()),
        full(b"9223372036854775807,", b'{"a":{"shape":[', b"1]}}"),
        b"{" + b",".join(b'"%x":0' % i for i in range(640_000)) + b"}",
    ],
    ids=lambda header: header[:24].decode(errors="replace"),
)  # fmt: skip
def test_hostile_headers_cost_bounded_memory(tmp_path: Path, header: bytes, child: Any) -> None:
    assert len(header) <= MAX_HEADER
    path = write(tmp_path / "hostile", header)

    def read() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with suppress(WeightsFormatError):
            read_header(path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < 200e6  # kilobytes on Linux

    process = child(read)
    process.join(timeout=120)
    assert process.exitcode == 0
