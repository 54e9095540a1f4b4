"""The header of a safetensors file, read and written in plain Python.

A file is ``<u64 header length><JSON header><data>``; the header maps each tensor's name to its
dtype, shape and byte range in the data (https://github.com/huggingface/safetensors#format).

Nothing else may look at a file before :func:`read_header` has admitted it, and nothing else parses
the header afterwards: two parsers of one header would be two opinions about it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kexue_core.errors import WeightsFormatError
from kexue_core.strict_json import parse_json

__all__ = ["DTYPES", "MAX_HEADER", "MAX_TENSORS", "TensorEntry", "encode_header", "read_header"]

#: Name in the file -> bytes an element. The narrower floats of the format are not listed: torch
#: cannot compute with them, so a model stored in them would load and then fail.
DTYPES: Mapping[str, int] = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "C64": 8},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1},
    **{"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}

MAX_HEADER = 10_000_000
MAX_TENSORS = 100_000

# One tensor's entry has 10 quotes, 2 square brackets and 1 brace, and costs Python about 1 kB. A
# hostile header of 10 MB could hold 5 million of them; counting first bounds memory at 200 MB.
_MAX_TOKENS = 13 * MAX_TENSORS + 10_000

# torch's own limit on many operations; also keeps the product below from growing without bound.
_MAX_DIMENSIONS = 64

# Data begins on a cache line of the page-aligned mapping, as memory from torch's allocator does:
# BLAS may round differently where operands are aligned differently.
_ALIGNMENT = 64

_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        dtype: Key of :data:`DTYPES`.
        shape: Its dimensions.
        start: First byte, counted from the beginning of the file.
        stop: One past its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read and check the header of a file, in the order in which the tensors lie in it.

    Afterwards it is certain that the tensors fill the rest of the file without hole or overlap and
    that each has the size its dtype and shape say. Reads at most :data:`MAX_HEADER` bytes and never
    takes more than 200 MB, whatever the file holds.

    Raises:
        WeightsFormatError: The file is missing, unreadable, truncated, extended or malformed.
    """
    try:
        if not path.is_file():
            raise WeightsFormatError(f"{path} is missing", hint="Pull or copy the weights again")
        with path.open("rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise WeightsFormatError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsFormatError(
            f"{path} is no intact safetensors file: {error}",
            hint="Pull or copy the weights again",
        ) from error


def encode_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, list[str]]:
    """The bytes that precede the data, and the order in which the data must follow.

    The widest dtypes come first, so that every tensor is aligned to its own elements, and then
    names in order: the same tensors always give the same bytes.

    Args:
        tensors: Name -> (key of :data:`DTYPES`, shape).
    """
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # what transformers looks for
    position = 0
    for name in order:
        dtype, shape = tensors[name]
        end = position + DTYPES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, order


def _read(file: BinaryIO, size: int) -> dict[str, TensorEntry]:
    """Raises ValueError with what is wrong."""
    if size < _LENGTH_BYTES:
        raise ValueError(f"it has {size} bytes, fewer than the {_LENGTH_BYTES} of its length field")
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header claims {length} bytes, the limit is {MAX_HEADER}")
    data = _LENGTH_BYTES + length
    if data > size:
        raise ValueError(f"its header claims {length} bytes, the whole file has {size}")
    raw = file.read(length)
    if sum(raw.count(token) for token in (b'"', b"[", b"{")) > _MAX_TOKENS:
        raise ValueError(f"its header describes more than {MAX_TENSORS} tensors")
    header = parse_json(raw)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its __metadata__ does not map text to text")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"it holds {len(header)} tensors, the limit is {MAX_TENSORS}")
    entries = {name: _entry(name, value, data, size) for name, value in header.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    position = data
    for name, entry in entries.items():
        if entry.start != position:
            what = "overlaps the tensor before it" if entry.start < position else "follows a hole"
            raise ValueError(f"{name[:80]!r} {what}")
        position = entry.stop
    if position != size:
        raise ValueError(f"its tensors end at byte {position}, the file at {size}")
    return entries


def _entry(name: str, value: object, data: int, size: int) -> TensorEntry:
    """Check one tensor's description. Raises ValueError."""
    where = f"{name[:80]!r}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{where} has the unknown dtype {dtype!r:.40}")
    if not _sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"{where} has the impossible shape {shape!r:.80}")
    if not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{where} has the impossible data_offsets {offsets!r:.80}")
    start, stop = offsets
    if not start <= stop <= size - data:
        raise ValueError(f"{where} lies at bytes {start}:{stop} of {size - data}")
    if stop - start != (wanted := math.prod(shape) * DTYPES[dtype]):
        raise ValueError(f"{where} has {stop - start} bytes, its dtype and shape need {wanted}")
    return TensorEntry(dtype, tuple(shape), data + start, data + stop)


def _sizes(value: object) -> bool:
    """Whether a value is a list of integers that could be sizes (a bool is none)."""
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)
