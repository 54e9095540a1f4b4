"""Broken files of weights: each loads what was saved, or is refused with our error.

The mutants leave the data alone. What is flipped there only a hash can find, and the hash is
checked before (see ``test_api.py``). In the model ``mixed`` every tensor has a shape of its own,
so that no header can exchange two of them unnoticed.
"""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from kexue_core.errors import KexueError
from kexue_core.loading import load_folder
from kexue_core.safetensors_header import DTYPES

Mixed = tuple[nn.Module, Path]

# The folder is the same for all mutants of a test and is written back by each.
QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SLOW = settings(QUICK, max_examples=6_000)

sizes = st.one_of(st.integers(0, 200), st.integers(-1, 2**70))
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        sizes,
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(sorted(DTYPES)),
        st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "counts", "scale"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


class Pairs(list[tuple[str, Any]]):
    """A JSON object as written, in which keys may repeat."""

    def dump(self) -> str:
        return "{" + ",".join(f"{json.dumps(k)}:{dump(v)}" for k, v in self) + "}"


def dump(value: Any) -> str:
    return value.dump() if isinstance(value, Pairs) else json.dumps(value)


@st.composite
def rewritten(draw: st.DrawFn, header: bytes) -> bytes:
    """A header whose JSON says something else in one to three places."""
    top = json.loads(header, object_pairs_hook=Pairs)
    for _ in range(draw(st.integers(1, 3))):
        target = top
        position = draw(st.integers(0, len(target) - 1)) if target else 0
        if target and isinstance(target[position][1], Pairs) and draw(st.booleans()):
            target = target[position][1]
            position = draw(st.integers(0, max(len(target) - 1, 0)))
        if not target:
            continue
        key, value = target[position]
        match draw(st.sampled_from(["value", "key", "drop", "twice", "number", "swap"])):
            case "value":
                target[position] = (key, draw(values))
            case "key":
                target[position] = (draw(st.text(max_size=8)), value)
            case "drop":
                del target[position]
            case "twice":
                target.append((key, draw(st.just(value) | values)))
            case "number" if type(value) is list and value:
                value[draw(st.integers(0, len(value) - 1))] = draw(sizes)
            case "swap":
                other = draw(st.integers(0, len(target) - 1))
                (a, x), (b, y) = target[position], target[other]
                target[position], target[other] = (a, y), (b, x)
    return top.dump().encode()


@st.composite
def mutants(draw: st.DrawFn, original: bytes) -> bytes:
    """The bytes of a file that is broken in one way."""
    length = int.from_bytes(original[:8], "little")
    header, data = original[8 : 8 + length], original[8 + length :]
    match draw(st.sampled_from(["flip", "truncate", "extend", "length", "splice", "rewrite"])):
        case "flip":
            mutant = bytearray(original)
            for _ in range(draw(st.integers(1, 4))):
                mutant[draw(st.integers(0, 7 + length))] ^= 1 << draw(st.integers(0, 7))
            return bytes(mutant)
        case "truncate":
            return original[: draw(st.integers(0, len(original) - 1))]
        case "extend":
            return original + draw(st.binary(min_size=1, max_size=100))
        case "length":
            wrong = draw(st.integers(0, 2 * len(original)) | st.integers(0, 2**64 - 1))
            return wrong.to_bytes(8, "little") + original[8:]
        case "splice":
            start, stop = sorted(draw(st.tuples(st.integers(0, length), st.integers(0, length))))
            header = header[:start] + draw(st.binary(max_size=40)) + header[stop:]
        case "rewrite":
            header = draw(rewritten(header))
    return len(header).to_bytes(8, "little") + header + data


def loads_equal_or_is_refused(mixed: Mixed, mutant: bytes, mmap: bool) -> None:
    model, folder = mixed
    file = folder / "model.safetensors"
    intact = file.read_bytes()
    file.unlink()  # written in place, it would change under a model that is mapped from it
    file.write_bytes(mutant)
    refusal = ""
    try:
        loaded = load_folder(folder, mmap=mmap).state_dict()
    except KexueError as error:
        refusal = str(error)
    else:
        assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())
    finally:
        file.unlink()
        file.write_bytes(intact)
    assert "\n" not in refusal
    assert len(refusal) < 2000


@QUICK
@given(data=st.data(), mmap=st.booleans())
def test_mutants(mixed: Mixed, data: st.DataObject, mmap: bool) -> None:
    mutant = data.draw(mutants((mixed[1] / "model.safetensors").read_bytes()))
    loads_equal_or_is_refused(mixed, mutant, mmap)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_mutants_in_bounded_memory(mixed: Mixed, child: Any) -> None:
    original = (mixed[1] / "model.safetensors").read_bytes()
    count = 0

    @SLOW
    @given(mutant=mutants(original), mmap=st.booleans())
    def run(mutant: bytes, mmap: bool) -> None:
        nonlocal count
        count += 1
        loads_equal_or_is_refused(mixed, mutant, mmap)

    def run_and_watch() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        assert count >= 5_000
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < 200e6  # kilobytes on Linux

    # A process of its own: what earlier tests took at their peak would hide what this one takes.
    process = child(run_and_watch)
    process.join()
    assert process.exitcode == 0
