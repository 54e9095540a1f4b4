"""Pairs of texts from files, divided so that no sentence is on two sides.

A ``.tsv`` has lines ``a TAB b TAB label`` and perhaps a source; a ``.jsonl`` lines of
``{"text", "synonyms"}`` (the format of SimBERT's corpus) or ``{"a", "b", "label"}``. Either may be
gzipped. A folder is all such files in it, each a source by its name, but for files whose names end
in ``.valid``, ``.dev`` and ``.test``, which are held out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kexue_core.errors import DataError

__all__ = ["NLI", "Corpus", "Pair", "divide", "read_corpus", "read_pairs"]

#: Labels of inference sets: their numbers in :func:`kexue_roformer_sim.losses.pair_logits_loss`.
NLI = {"contradiction": 2, "neutral": 3, "entailment": 4}

#: Pairs that share sentences, directly or by others, in one lump of more than this go to training.
_LARGEST_LUMP = 30

#: Of the lumps of pairs, held out for validation.
HELD_OUT = 0.04


class Pair(NamedTuple):
    """Two texts and how like they are.

    Attributes:
        a, b: The texts.
        label: Larger for more alike, comparable within the source; 1 for a synonym. Of inference
            sets the number of :data:`NLI`.
        source: Where it is from.
    """

    a: str
    b: str
    label: float
    source: str


@dataclass(frozen=True)
class Corpus:
    """What a folder or a file holds.

    Attributes:
        name: For records.
        train: Pairs to train on.
        val, test: Pairs held out, by their source up to its first dot.
        texts: Sentences without a partner, for the vocabulary.
    """

    name: str
    train: tuple[Pair, ...]
    val: dict[str, tuple[Pair, ...]]
    test: dict[str, tuple[Pair, ...]]
    texts: tuple[str, ...]


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of one file.

    Raises:
        DataError: It is missing, or a line is malformed; its number is named.
    """
    return list(_pairs(path))


def read_corpus(source: Path) -> Corpus:
    """The pairs of a file, or of all files of a folder. A file that is held out by its name, as
    ``stsb.test.tsv``, is for measuring alone.

    A folder with a ``train_pool`` is that pool with its own column of sources, ``stsb.train`` with
    its grades instead of the pool's, and texts without partner: the sets that it was mixed from
    lie there too and are left alone. No sentence of a held-out file is trained on.

    Raises:
        DataError: There is nothing to train on, or a file is malformed.
    """
    if source.is_file():
        pairs = read_pairs(source)
        if _held_out(source):  # to measure on, whole
            whole = {_set(source): tuple(pairs)}
            return Corpus(_stem(source), (), whole, whole, ())
        train, val, test = divide(pairs)
        return Corpus(_stem(source), train, val, test, ())
    if not source.is_dir():
        raise DataError(f"{source} does not exist", hint="Name a file of pairs or a folder of them")
    files = [p for p in sorted(source.iterdir()) if _kind(p) in ("tsv", "jsonl")]
    pool = [p for p in files if _stem(p) == "train_pool"]
    if pool:
        graded = [p for p in files if _stem(p) == "stsb.train"]
        given = [x for x in _pairs(pool[0]) if not (graded and x.source == "stsb.train")]
        given += [x for p in graded for x in _pairs(p)]
    else:
        given = [x for p in files if not _held_out(p) for x in _pairs(p)]
    # Of a pool's folder only the sets that it leaves out whole are for measuring.
    names = {p.source for p in given}
    outside = [p for p in files if _held_out(p) and not (pool and _in_pool(p, names))]
    val = {_set(p): tuple(_pairs(p)) for p in outside if not _stem(p).endswith(".test")}
    test = {_set(p): tuple(_pairs(p)) for p in outside if _stem(p).endswith(".test")}
    reserved = {t for pairs in (*val.values(), *test.values()) for x in pairs for t in (x.a, x.b)}
    given = [x for x in given if x.a not in reserved and x.b not in reserved]
    train, inner, final = divide(given, test=not test)
    hidden = reserved | {
        t for side in (inner, final) for v in side.values() for x in v for t in x[:2]
    }
    texts = tuple(
        line
        for p in sorted(source.iterdir())
        if _kind(p) == "txt"
        for line in _lines(p)
        if line.strip() and line not in hidden
    )
    if not train:
        raise DataError(f"{source} holds no pairs", hint="Name .tsv or .jsonl files of them")
    return Corpus(source.resolve().name, train, {**inner, **val}, test or final, texts)


def divide(
    pairs: Sequence[Pair], *, test: bool = True
) -> tuple[tuple[Pair, ...], dict[str, tuple[Pair, ...]], dict[str, tuple[Pair, ...]]]:
    """Train, validation and test pairs with no sentence on two sides.

    Pairs that share a sentence are one lump, however long the chain; whole lumps are held out, by a
    hash of their first sentence, so that more data moves none of them. A division by pairs would
    let a net recognise its training sentences.
    """
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for pair in pairs:
        a, b = root(pair.a), root(pair.b)
        parent[max(a, b)] = min(a, b)  # the root is the least sentence, whatever the order
    lumps: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        lumps[root(pair.a)].append(pair)
    train: list[Pair] = []
    held: tuple[dict[str, list[Pair]], ...] = (defaultdict(list), defaultdict(list))
    for name, lump in lumps.items():
        share = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:4]) / 2**32
        side = math.floor(share / HELD_OUT)
        if len(lump) > _LARGEST_LUMP or side > 1 or (side == 1 and not test):
            train += lump
        else:
            for pair in lump:
                held[side][pair.source.partition(".")[0]].append(pair)
    # Where all labels are alike there is nothing to rank.
    val, final = (
        {k: tuple(v) for k, v in sorted(side.items()) if len({p.label for p in v}) > 1}
        for side in held
    )
    return tuple(train), val, final


def _pairs(path: Path) -> Iterator[Pair]:
    kind, source = _kind(path), _stem(path)
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            if kind == "jsonl":
                yield from _from_json(line, source)
            else:
                a, b, label, *rest = line.split("\t")
                value = NLI[label] if label in NLI else float(label)
                yield Pair(a, b, value, rest[0] if rest else source)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} is no pair",
                hint="A .tsv line is a TAB b TAB label, a .jsonl line {'text', 'synonyms'} "
                "or {'a', 'b', 'label'}",
            ) from error


def _from_json(line: str, source: str) -> Iterator[Pair]:
    content = json.loads(line)
    if "synonyms" in content:
        for synonym in content["synonyms"]:
            yield Pair(_clean(content["text"]), _clean(synonym), 1.0, source)
    elif "origin" in content:  # a triplet: two pairs
        for label in ("entailment", "contradiction"):
            yield Pair(content["origin"], content[label], float(NLI[label]), source)
    else:
        label = content["label"]
        value = NLI[label] if label in NLI else float(label)
        yield Pair(_clean(content["a"]), _clean(content["b"]), value, content.get("source", source))


def _clean(text: str) -> str:
    return " ".join(text.split())


def _lines(path: Path) -> Iterable[str]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _kind(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _held_out(path: Path) -> bool:
    return _stem(path).endswith((".valid", ".dev", ".test"))


def _in_pool(path: Path, sources: set[str]) -> bool:
    # snli_triplet is csnli as triplets.
    return _stem(path) in sources or _stem(path).startswith("snli_triplet")


def _set(path: Path) -> str:
    return _stem(path).rpartition(".")[0]
