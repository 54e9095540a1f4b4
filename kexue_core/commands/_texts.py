"""Texts from files for the verbs: a line, a JSON object or a row of a table each, with its number.

Read as a stream: a file of any size takes the memory of one line, or of one block of a table.
"""

from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kexue_core.errors import DataError, KexueError

__all__ = ["ENDINGS", "Text", "good_texts", "pyarrow_parquet", "read_texts"]

#: Endings of files of texts; the first two also with ``.gz`` after.
ENDINGS = (".txt", ".jsonl", ".parquet")

#: Rows of a table that are read at once.
_BLOCK = 4096

#: Bad lines that are told one by one.
_TOLD = 5


class Text(NamedTuple):
    """One text of a file, or why it is none.

    Attributes:
        number: Of its line or row, from 1.
        text: ``None`` where it is bad.
        problem: What is wrong then.
    """

    number: int
    text: str | None
    problem: str = ""


def read_texts(path: Path, field: str = "text") -> Iterator[Text]:
    """Every text of a file in its order.

    A line of ``.txt`` is a text, an empty line the empty text, so that results stay in step with
    the file. ``.jsonl`` holds an object a line (blank lines are none), ``.parquet`` a column;
    ``field`` names the key or column.

    Raises:
        DataError: The file is missing, of another kind, or damaged; or there is no such column.
    """
    name = path.name.removesuffix(".gz")
    if not path.is_file():
        raise DataError(f"{path} does not exist", hint="Check the path")
    try:
        if path.name.endswith(".parquet"):
            yield from _parquet(path, field)
        elif name.endswith((".jsonl", ".txt")):
            yield from _lines(path, field if name.endswith(".jsonl") else None)
        else:
            raise DataError(
                f"{path} does not end in {', '.join(ENDINGS)}", hint="Name a file of texts"
            )
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def good_texts(path: Path, field: str = "text", *, skip: bool = False) -> tuple[int, list[str]]:
    """How many good texts a file holds, and what is wrong with the bad ones, told one by one.

    Raises:
        DataError: As :func:`read_texts`; and where a text is bad, unless ``skip``.
    """
    good, bad = 0, 0
    told: list[str] = []
    for found in read_texts(path, field):
        if found.text is not None:
            good += 1
            continue
        bad += 1
        if len(told) < _TOLD:
            told.append(f"line {found.number}: {found.problem}")
    if bad > len(told):
        told.append(f"and {bad - len(told)} more")
    if bad and not skip:
        raise DataError(
            f"{path} has {bad} bad line{'s' if bad > 1 else ''}: {'; '.join(told)}",
            hint="Correct it, or leave such lines out with --bad skip",
        )
    return good, told


def pyarrow_parquet() -> tuple[Any, Any]:
    """pyarrow, and its module that reads and writes tables.

    Raises:
        KexueError: It is not installed.
    """
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise KexueError(
            "Parquet files need pyarrow, which is not installed", hint="Run: pip install pyarrow"
        ) from error
    return pyarrow, parquet


def _lines(path: Path, field: str | None) -> Iterator[Text]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield Text(number, None, "no UTF-8")
                continue
            if field is None:
                yield Text(number, line)
            elif line.strip():
                yield _from_json(number, line, field)


def _from_json(number: int, line: str, field: str) -> Text:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return Text(number, None, "no JSON")
    if not isinstance(content, dict) or field not in content:
        return Text(number, None, f"no key {field!r}")
    text = content[field]
    return (
        Text(number, text) if isinstance(text, str) else Text(number, None, f"{field!r} is no text")
    )


def _parquet(path: Path, field: str) -> Iterator[Text]:
    pyarrow, parquet = pyarrow_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                raise DataError(
                    f"{path} has no column {field!r}",
                    hint=f"Choose by --field: {', '.join(columns[:20])}",
                )
            number = 0
            for batch in file.iter_batches(batch_size=_BLOCK, columns=[field]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    if isinstance(value, str):
                        yield Text(number, value)
                    else:
                        yield Text(number, None, "empty" if value is None else "no text")
    except pyarrow.ArrowInvalid as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is no Parquet file: {reason:.100}") from error
