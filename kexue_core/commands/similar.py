"""``kexue similar``: how alike texts are, and which of a file are nearest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kexue_core.commands import _output
from kexue_core.commands._options import (
    device_option,
    json_option,
    parse_options,
    quiet_option,
    weights_argument,
)
from kexue_core.commands._output import Column, progress
from kexue_core.commands._texts import good_texts, read_texts
from kexue_core.commands._work import load
from kexue_core.commands.embed import BLOCK, vectors

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Found", "command", "nearest"]

PAIRS = (Column("text", least=12), Column("other", least=12), Column("cosine", align="right"))
HITS = (
    Column("query", least=12),
    Column("line", align="right"),
    Column("cosine", align="right"),
    Column("text", least=12),
)


class Found(NamedTuple):
    """A text of the file: its cosine, its line from 1, itself."""

    cosine: float
    line: int
    text: str


def nearest(
    asked: np.ndarray[Any, Any],
    best: list[list[Found]],
    block: Sequence[tuple[int, str]],
    rows: np.ndarray[Any, Any],
    k: int,
) -> list[list[Found]]:
    """The ``k`` best for each query among those so far and one more block of texts.

    Args:
        asked: Unit vectors of the queries, (n, d).
        best: Those so far, best first.
        block: Line and text of the new ones.
        rows: Their unit vectors, (m, d).
        k: How many.
    """
    import numpy as np

    cosines = asked @ rows.T
    keep = min(k, len(block))
    where = np.argpartition(-cosines, keep - 1, axis=1)[:, :keep]
    merged = []
    for i, known in enumerate(best):
        fresh = [Found(float(cosines[i, j]), *block[j]) for j in where[i].tolist()]
        merged.append(sorted([*known, *fresh], key=lambda f: (-f.cosine, f.line))[:k])
    return merged


def _unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    lengths: np.ndarray[Any, Any] = np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray[Any, Any] = rows / np.maximum(lengths, 1e-12)
    return found


@click.command(name="similar")
@weights_argument
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option(
    "--file",
    "source",
    type=click.Path(path_type=Path),
    help="Find the nearest texts in this file (.txt, .jsonl, .parquet).",
)
@click.option("--field", default="text", show_default=True, help="Key or column of its texts.")
@click.option(
    "-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="How many."
)
@click.option(
    "--bad",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Lines that are no text: stop before any work, or leave them out.",
)
@click.option(
    "-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of the model's embed."
)
@device_option
@json_option
@quiet_option
def command(
    *,
    name: str,
    texts: tuple[str, ...],
    source: Path | None,
    field: str,
    k: int,
    bad: str,
    options: tuple[str, ...],
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare texts with the weights NAME, or find those of a file that are most like them.

    Without --file every pair of the texts is compared. The search is exact and reads the file as a
    stream. Cosines are in [-1, 1], 1 for the same.

    \b
    Examples:
      kexue similar roformer-sim-tiny "今天天气不错" "今天天气很好"
      kexue similar roformer-sim-tiny "怎么开通信用卡" --file questions.txt -k 5
    """
    settings = parse_options(options)
    if source is None:
        if len(texts) < 2:
            raise click.UsageError("Give two texts or more, or a file to search with --file")
        loaded = load(name, "similar", device)
        rows = _unit(vectors(loaded, texts, settings))
        cosines = rows @ rows.T
        pairs = [(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts))]
        found = [(texts[i], texts[j], min(1.0, max(-1.0, float(cosines[i, j])))) for i, j in pairs]
        if as_json:
            _output.json([{"text": a, "other": b, "cosine": c} for a, b, c in found])
        else:
            _output.table(PAIRS, [(a, b, f"{c:.4f}") for a, b, c in found])
        return
    total, told = good_texts(source, field, skip=bad == "skip")
    loaded = load(name, "similar", device)
    asked = _unit(vectors(loaded, texts, settings))
    best: list[list[Found]] = [[] for _ in texts]
    block: list[tuple[int, str]] = []
    with progress("searching", total, quiet=quiet) as advance:

        def flush() -> None:
            nonlocal best
            if block:
                rows = _unit(vectors(loaded, [text for _, text in block], settings))
                best = nearest(asked, best, block, rows, k)
                advance(len(block))
                block.clear()

        for found_text in read_texts(source, field):
            if found_text.text is not None:
                block.append((found_text.number, found_text.text))
            if len(block) == BLOCK:
                flush()
        flush()
    for problem in told:
        _output.note(f"{source}, {problem}: left out", quiet=quiet)
    if as_json:
        _output.json(
            [
                {"query": q, "found": [hit._asdict() for hit in hits]}
                for q, hits in zip(texts, best, strict=True)
            ]
        )
        return
    _output.table(
        HITS,
        [
            (query, hit.line, f"{hit.cosine:.4f}", hit.text)
            for query, hits in zip(texts, best, strict=True)
            for hit in hits
        ],
    )
