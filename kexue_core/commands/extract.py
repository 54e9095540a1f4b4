"""``kexue extract``: facts that texts say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

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
from kexue_core.commands._texts import Text, good_texts, read_texts
from kexue_core.commands._work import Loaded, load, working
from kexue_core.errors import ConfigError, DataError

__all__ = ["command", "extract"]

COLUMNS = (
    Column("text", least=20, drop=1),
    Column("subject", least=8, style="cyan"),
    Column("predicate", least=8, style="bold"),
    Column("object", least=8, style="green"),
    Column("score", align="right", drop=2),
)

#: Texts between two writings, so that a model can put those of similar length together.
BLOCK = 1024

Facts = Sequence[Mapping[str, Any]]


def extract(loaded: Loaded, texts: Sequence[str], options: Mapping[str, Any]) -> list[Facts]:
    """The facts of each text.

    Raises:
        ConfigError: The model's ``extract`` refuses an option.
    """
    try:
        with working(loaded.device):
            found: list[Facts] = list(loaded.model.extract(list(texts), **options))
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise ConfigError(f"{loaded.spec.name} refuses its options: {error}") from error
    return found


@click.command(name="extract")
@weights_argument
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    help="Texts: .txt (a line each), .jsonl, .parquet; the first two also .gz.",
)
@click.option("--field", default="text", show_default=True, help="Key or column of the texts.")
@click.option(
    "--bad",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Lines that are no text: stop before any work, or leave them out.",
)
@click.option(
    "-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of the model's extract."
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
    bad: str,
    options: tuple[str, ...],
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the facts that texts say with the weights NAME: subject, predicate, object.

    Piped, or with --json, each text gives one line of JSON in the order of the texts:
    {"text": ..., "facts": [...]}, from a file with its "line". Pieces of a fact carry their place:
    text[start:end]. On a terminal it is a table.

    \b
    Examples:
      kexue extract dgcnn-ie-duie "《红楼梦》的作者是曹雪芹"
      kexue extract dgcnn-ie-duie --input corpus.jsonl > facts.jsonl
      kexue extract dgcnn-ie-duie --input corpus.jsonl --field title -o dtype=auto > facts.jsonl
    """
    if bool(texts) == (source is not None):
        raise click.UsageError("Give texts, or a file of them with --input")
    settings = parse_options(options)
    given: Iterator[Text]
    if source is None:
        total, told = len(texts), list[str]()
        given = (Text(0, text) for text in texts)
    else:
        total, told = good_texts(source, field, skip=bad == "skip")
        given = (t for t in read_texts(source, field) if t.text is not None)
    loaded = load(name, "extract", device)
    if loaded.config.preprocess.get("modality", "text") != "text":
        raise DataError(f"{name} takes no texts", hint="Call model.extract from Python")
    for problem in told:
        _output.note(f"{source}, {problem}: left out", quiet=quiet)
    rows: list[tuple[str, str | None, str | None, str | None, str | None]] = []
    nothing = 0
    with progress("extracting", total, quiet=quiet) as advance:
        while block := list(islice(given, BLOCK)):
            contents = [t.text or "" for t in block]
            for text, facts in zip(block, extract(loaded, contents, settings), strict=True):
                nothing += not facts
                if as_json or not _output.on_terminal():
                    line = {"line": text.number} if source is not None else {}
                    content = {**line, "text": text.text, "facts": facts}
                    click.echo(_escaped(json.dumps(content, ensure_ascii=False)))
                else:
                    rows += _rows(text.text or "", facts)
            advance(len(block))
    if rows:
        _output.table(COLUMNS, rows)
    if nothing:
        _output.note(f"nothing was found in {nothing:,} of {total:,} texts", quiet=quiet)


def _rows(
    text: str, facts: Facts
) -> list[tuple[str, str | None, str | None, str | None, str | None]]:
    """The lines of a text in the table; one where there is no fact, so that none is missed."""
    if not facts:
        return [(text, None, None, None, None)]
    found = []
    for i, fact in enumerate(facts):
        subject, predicate, object_ = (
            _words(fact.get(key)) for key in ("subject", "predicate", "object")
        )
        score = fact.get("score")
        shown = f"{score:.3f}" if isinstance(score, float) else None
        found.append((text if i == 0 else "", subject, predicate, object_, shown))
    return found


def _words(piece: Any) -> str | None:
    if isinstance(piece, Mapping):
        piece = piece.get("text")
    return None if piece is None else str(piece)


def _escaped(line: str) -> str:
    """A line of JSON whose lone surrogates, which no UTF-8 holds, are escapes."""
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in line)
