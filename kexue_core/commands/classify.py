"""``kexue classify``: the labels of texts or images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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
from kexue_core.commands._work import BATCH, Loaded, load, read_inputs, working
from kexue_core.errors import DataError

__all__ = ["choose", "classify", "command"]

COLUMNS = (Column("label"), Column("score", align="right"))

#: A label with a score above this is given: for ZLPR, a logit above 0.
THRESHOLD = 0.5

Ranked = Sequence[tuple[str, float]]


def classify(loaded: Loaded, inputs: Any, quiet: bool = True) -> list[Ranked]:
    """All labels of each input (texts, or a tensor of images) with scores, best first."""
    found: list[Ranked] = []
    with progress("classifying", len(inputs), quiet=quiet) as advance:
        for i in range(0, len(inputs), BATCH):
            batch = inputs[i : i + BATCH]
            found += loaded.model.classify(batch)
            for _ in batch:
                advance()
    return found


def choose(ranked: Ranked, threshold: float, top: int | None) -> Ranked:
    """The best ``top`` labels, or else those above ``threshold``."""
    return ranked[:top] if top else [pair for pair in ranked if pair[1] > threshold]


@click.command(name="classify")
@weights_argument
@click.argument("given", nargs=-1, metavar="[TEXT|IMAGE]...")
@click.option(
    "--file",
    "source",
    type=click.File(encoding="utf-8", errors="replace"),
    help="One text or path a line; - for stdin.",
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
    given: tuple[str, ...],
    source: TextIO | None,
    top: int | None,
    threshold: float,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Label texts or images with the weights NAME: every label that is predicted, with its score.

    Whether they read texts or image files, the weights say; a folder stands for the images in it,
    and a .npy array for its rows. One input may get several labels, or none. Scores in [0, 1] order
    its labels; whether they are probabilities, the weights' card says.

    \b
    Examples:
      kexue classify zlpr-reuters "Cocoa prices rose in Bahia"
      kexue classify zlpr-reuters --file headlines.txt > labels.tsv
      kexue classify zlpr-reuters "Wheat exports fell" --top 3 --json
      kexue classify classifier-fashion shirt.png photos/
    """
    words = [*given, *_lines(source)]
    if not words:
        raise click.UsageError("Give texts or images, or a file of them with --file")
    loaded = load(name, "classify", device)
    modality = loaded.config.preprocess.get("modality", "text")
    inputs: Any = words
    if modality == "image":
        words, inputs = read_inputs([Path(word) for word in words], loaded)
        inputs = inputs.to(loaded.device)
    elif modality != "text":
        raise DataError(
            f"{name} classifies {modality}, and this verb reads texts and images",
            hint="Call model.classify from Python",
        )
    with working(loaded.device):
        found = [choose(ranked, threshold, top) for ranked in classify(loaded, inputs, quiet)]
    if as_json:
        rows: list[dict[str, Any]] = [
            {modality: word, "labels": [{"label": k, "score": s} for k, s in chosen]}
            for word, chosen in zip(words, found, strict=True)
        ]
        _output.json({"name": name, "threshold": None if top else threshold, f"{modality}s": rows})
        return
    table: list[tuple[str, str | None, str | None]] = []
    for word, chosen in zip(words, found, strict=True):
        # An input without labels has a line too, so that none is missed.
        table += [(word, label, f"{score:.4f}") for label, score in chosen] or [(word, None, None)]
    _output.table((Column(modality, least=20), *COLUMNS), table)
    nothing = sum(not chosen for chosen in found)
    if nothing:
        _output.note(f"{nothing} of {len(words)} {modality}s got no label", quiet=quiet)


def _lines(source: TextIO | None) -> list[str]:
    """The lines of a file that are not blank."""
    return [] if source is None else [line.rstrip("\r\n") for line in source if line.strip()]
