"""``kexue classify``: the labels of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

import click

from kexue_core.commands import _output
from kexue_core.commands._options import (
    device_option,
    json_option,
    quiet_option,
    weights_argument,
)
from kexue_core.commands._output import Column, progress
from kexue_core.commands._work import BATCH, Loaded, load, working
from kexue_core.errors import DataError

__all__ = ["choose", "classify", "command"]

COLUMNS = (Column("text", least=20), Column("label"), Column("score", align="right"))

#: A label with a score above this is given: for ZLPR, a logit above 0.
THRESHOLD = 0.5

Ranked = Sequence[tuple[str, float]]


def classify(loaded: Loaded, texts: Sequence[str], quiet: bool = True) -> list[Ranked]:
    """All labels of each text with scores in [0, 1], best first."""
    found: list[Ranked] = []
    with progress("classifying", len(texts), quiet=quiet) as advance:
        for i in range(0, len(texts), BATCH):
            batch = texts[i : i + BATCH]
            found += loaded.model.classify(batch)
            for _ in batch:
                advance()
    return found


def choose(ranked: Ranked, threshold: float, top: int | None) -> Ranked:
    """The best ``top`` labels, or else those above ``threshold``."""
    return ranked[:top] if top else [pair for pair in ranked if pair[1] > threshold]


@click.command(name="classify")
@weights_argument
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--file",
    "source",
    type=click.File(encoding="utf-8", errors="replace"),
    help="One text a line; - for stdin.",
)
@click.option(
    "--top", type=click.IntRange(min=1), help="Give the best N labels, whatever they are."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=THRESHOLD,
    show_default=True,
    help="Give labels with scores above.",
)
@device_option
@json_option
@quiet_option
def command(
    *,
    name: str,
    texts: tuple[str, ...],
    source: TextIO | None,
    top: int | None,
    threshold: float,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Label texts with the weights NAME: every label that is predicted, with its score in [0, 1].

    A text may get several labels, or none. Scores order the labels of a text; whether they are
    probabilities, the weights' card says.

    \b
    Examples:
      kexue classify zlpr-reuters "Cocoa prices rose in Bahia"
      kexue classify zlpr-reuters --file headlines.txt > labels.tsv
      kexue classify zlpr-reuters "Wheat exports fell" --top 3 --json
    """
    given = [*texts, *_lines(source)]
    if not given:
        raise click.UsageError("Give texts, or a file of them with --file")
    loaded = load(name, "classify", device)
    modality = loaded.config.preprocess.get("modality", "text")
    if modality != "text":
        raise DataError(
            f"{name} classifies {modality}, and this verb reads texts",
            hint="Call model.classify from Python",
        )
    with working(loaded.device):
        found = [choose(ranked, threshold, top) for ranked in classify(loaded, given, quiet)]
    if as_json:
        rows: list[dict[str, Any]] = [
            {"text": text, "labels": [{"label": k, "score": s} for k, s in chosen]}
            for text, chosen in zip(given, found, strict=True)
        ]
        _output.json({"name": name, "threshold": None if top else threshold, "texts": rows})
        return
    table: list[tuple[str, str | None, str | None]] = []
    for text, chosen in zip(given, found, strict=True):
        # A text without labels has a line too, so that none is missed.
        table += [(text, label, f"{score:.4f}") for label, score in chosen] or [(text, None, None)]
    _output.table(COLUMNS, table)
    nothing = sum(not chosen for chosen in found)
    if nothing:
        _output.note(f"{nothing} of {len(given)} texts got no label", quiet=quiet)


def _lines(source: TextIO | None) -> list[str]:
    """The lines of a file that are not blank."""
    return [] if source is None else [line.rstrip("\r\n") for line in source if line.strip()]
