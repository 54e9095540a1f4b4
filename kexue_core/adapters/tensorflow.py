"""TensorFlow checkpoints (version 2, "tensor bundles") without TensorFlow.

``prefix.index`` is a sorted table as LevelDB writes it: blocks of (name, entry), an index of
blocks, a footer. An entry is a protocol buffer that says dtype, shape and where in
``prefix.data-00000-of-00001`` the bytes are.

References:
    tensorflow/core/util/tensor_bundle, tensorflow/core/protobuf/tensor_bundle.proto,
    github.com/google/leveldb/blob/main/doc/table_format.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kexue_core.errors import NotFoundError, WeightsFormatError

__all__ = ["read_bundle"]

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5  # one byte of compression, four of checksum

# Far above any real one: names and shapes only, no numbers.
_MOST_INDEX_BYTES = 100 << 20
_MOST_TENSORS = 100_000

#: Number of the dtype in types.proto -> numpy's. Text (7) is left out: it is no weight.
_DTYPES: dict[int, Any] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    17: np.dtype("<u2"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
_TEXT = 7


def read_bundle(prefix: Path) -> dict[str, Any]:
    """Name -> array of a checkpoint, in the order of names; text tensors are left out.

    Args:
        prefix: Path without ``.index``.

    Raises:
        NotFoundError: A file of the checkpoint is missing.
        WeightsFormatError: It is damaged, of version 1, or uses what kexue does not read:
            compressed blocks, big-endian numbers, partitioned variables, bfloat16.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    try:
        if index.stat().st_size > _MOST_INDEX_BYTES:
            raise WeightsFormatError(f"{index} is larger than {_MOST_INDEX_BYTES} bytes")
        table = list(_table(index.read_bytes()))
    except FileNotFoundError:
        raise NotFoundError(f"{index} does not exist", hint="Name the prefix of it") from None
    except (IndexError, struct.error, ValueError, UnicodeDecodeError) as error:
        raise WeightsFormatError(f"{index} is no TensorFlow checkpoint: {error}") from error
    if not table or table[0][0] != "" or len(table) > _MOST_TENSORS:
        raise WeightsFormatError(f"{index} is no TensorFlow checkpoint: it has no header")
    try:
        header = _message(table[0][1])
        entries = [(name, _message(value)) for name, value in table[1:]]
        if _number(header, 2):
            raise ValueError("its numbers are big-endian")
        shards = _number(header, 1, 1)
        data = _Shards(prefix, shards)
        return {
            name: _array(name, entry, data) for name, entry in entries if _number(entry, 1) != _TEXT
        }
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{error.filename} is missing", hint="A checkpoint is its .index and all .data files"
        ) from None
    except (IndexError, struct.error, ValueError, OverflowError) as error:
        raise WeightsFormatError(f"{prefix} cannot be read: {error}") from error


class _Shards:
    """The data files, mapped into memory when they are needed."""

    def __init__(self, prefix: Path, count: int) -> None:
        self._prefix = prefix
        self._count = count
        self._open: dict[int, Any] = {}

    def read(self, shard: int, offset: int, size: int) -> Any:
        if not 0 <= shard < self._count:
            raise ValueError(f"it names the data file {shard} of {self._count}")
        if shard not in self._open:
            name = f"{self._prefix.name}.data-{shard:05d}-of-{self._count:05d}"
            path = self._prefix.with_name(name)
            empty = path.stat().st_size == 0
            self._open[shard] = np.empty(0, "u1") if empty else np.memmap(path, "u1", mode="r")
        data = self._open[shard]
        if offset < 0 or size < 0 or offset + size > len(data):
            raise ValueError(f"the data file {shard} is too short")
        return data[offset : offset + size]


def _array(name: str, entry: dict[int, list[Any]], data: _Shards) -> Any:
    if 7 in entry:
        raise ValueError(f"{name} is partitioned")
    number = _number(entry, 1)
    dtype = _DTYPES.get(number)
    if dtype is None:
        raise ValueError(f"{name} has dtype {number}, which is not read")
    shape = []
    for dimension in _message(_bytes(entry, 2)).get(2, []):
        size = _number(_message(_bytes({2: [dimension]}, 2)), 1)
        if size >= 1 << 63:
            raise ValueError(f"{name} has no fixed shape")
        shape.append(size)
    size = _number(entry, 5)
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {size} bytes, which is not what {shape} of {dtype} takes")
    raw = data.read(_number(entry, 3), _number(entry, 4), size)
    # A copy: offsets in the file are not aligned, and the map must not outlive the file.
    return np.frombuffer(raw.tobytes(), dtype).reshape(shape).copy()


def _table(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Keys and values of a LevelDB table in their order."""
    footer = data[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("its end has no table's mark (version 1 checkpoints have none)")
    position = 0
    for _ in range(2):  # the handle of the meta index, which is empty
        _, position = _varint(footer, position)
    offset, position = _varint(footer, position)
    size, _ = _varint(footer, position)
    for _, handle in _block(data, offset, size):
        start, after = _varint(handle, 0)
        length, _ = _varint(handle, after)
        for key, value in _block(data, start, length):
            yield key.decode(), value


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    if offset + size + _TRAILER > len(data) or size < 4:
        raise ValueError("a block lies beyond its end")
    if data[offset + size] != 0:
        raise ValueError("its blocks are compressed")
    block = data[offset : offset + size]
    restarts = struct.unpack("<I", block[-4:])[0]
    end = size - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block is shorter than its list of restarts")
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or position + fresh + length > end:
            raise ValueError("an entry lies beyond its block")
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, block[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has no end")


def _number(message: dict[int, list[Any]], field: int, default: int = 0) -> int:
    """The value of a field of the kind number; a damaged tag makes it another kind."""
    value = message.get(field, [default])[0]
    if not isinstance(value, int):
        raise ValueError(f"field {field} is no number")
    return value


def _bytes(message: dict[int, list[Any]], field: int) -> bytes:
    """The value of a field that is itself a message."""
    value = message.get(field, [b""])[0]
    if not isinstance(value, bytes):
        raise ValueError(f"field {field} is no message")
    return value


def _message(data: bytes) -> dict[int, list[Any]]:
    """Field number -> values of a protocol buffer, numbers and bytes as they stand."""
    fields: dict[int, list[Any]] = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        value: Any
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
            case 1:
                value, position = data[position : position + 8], position + 8
            case 2:
                length, position = _varint(data, position)
                value, position = data[position : position + length], position + length
            case 5:
                value, position = data[position : position + 4], position + 4
            case wire:
                raise ValueError(f"a field of the unknown kind {wire}")
        if position > len(data):
            raise ValueError("a field lies beyond its message")
        fields.setdefault(tag >> 3, []).append(value)
    return fields
