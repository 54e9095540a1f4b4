"""``kexue embed``: sentence vectors of texts, in bulk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kexue_core.commands import _output
from kexue_core.commands._options import (
    device_option,
    json_option,
    parse_options,
    quiet_option,
    weights_argument,
)
from kexue_core.commands._output import progress
from kexue_core.commands._texts import good_texts, pyarrow_parquet, read_texts
from kexue_core.commands._work import Loaded, load, working
from kexue_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["command", "embed_file", "vectors"]

#: Texts between two writings to the disk; a killed run repeats at most their work.
BLOCK = 2048

#: Bytes of the header of a .npy file: the same for any number of rows.
HEADER = 128


def vectors(
    loaded: Loaded, texts: Sequence[str], options: Mapping[str, Any]
) -> np.ndarray[Any, Any]:
    """Vectors (n, d) of texts.

    Raises:
        ConfigError: The model's ``embed`` refuses an option.
    """
    try:
        with working(loaded.device):
            found: np.ndarray[Any, Any] = loaded.model.embed(list(texts), **options)
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise ConfigError(f"{loaded.spec.name} refuses its options: {error}") from error
    return found


def embed_file(
    loaded: Loaded,
    source: Path,
    out: Path,
    *,
    field: str = "text",
    skip: bool = False,
    fresh: bool = False,
    options: Mapping[str, Any] | None = None,
    identity: str = "",
    quiet: bool = True,
) -> tuple[int, int, list[str]]:
    """Embed every text of a file into a ``.npy`` or ``.parquet``, in their order.

    Rows are appended to a file beside ``out``, which is renamed when it is whole. A call with the
    same arguments goes on after the last whole row of a run that was killed.

    Args:
        loaded: The model.
        source: The texts, see :mod:`kexue_core.commands._texts`.
        out: ``.npy``: float32 (n, d). ``.parquet``: columns ``line``, ``text``, ``vector``.
        field: Key or column of the texts.
        skip: Leave bad lines out instead of stopping before anything is done.
        fresh: Begin anew whatever there is.
        options: Of the model's ``embed``.
        identity: What tells these weights from others.
        quiet: Show no progress.

    Returns:
        Rows, those among them that an earlier run had done, and what was wrong with bad lines.

    Raises:
        DataError: The texts cannot be read, or hold bad lines; or the part that is there was begun
            with other arguments.
    """
    options = dict(options or {})
    total, told = good_texts(source, field, skip=skip)
    width = int(vectors(loaded, [""], options).shape[1])
    stat = source.stat()
    task = {
        "weights": identity,
        "source": [source.name, stat.st_size, stat.st_mtime_ns],
        "field": field,
        "options": options,
        "width": width,
        "rows": total,
    }
    part = _Part(out, task, width, fresh=fresh)
    good = (t for t in read_texts(source, field) if t.text is not None)
    todo = islice(good, part.rows, None)
    earlier = part.rows
    with progress("embedding", total, quiet=quiet) as advance:
        advance(earlier)
        while block := [t.text for t in islice(todo, BLOCK) if t.text is not None]:
            part.append(vectors(loaded, block, options))
            advance(len(block))
    if part.rows != total:
        raise DataError(f"{source} changed while it was read", hint="Run again with --fresh")
    if out.suffix == ".parquet":
        part.finish_parquet(source, field)
    else:
        part.finish()
    return total, earlier, told


class _Part:
    """The rows so far: a .npy whose header is written last, and a note of what they are.

    Args:
        out: Where the whole will be.
        task: What the rows are made of; a part of another task is not gone on with.
        width: Numbers a row.
        fresh: Begin anew.
    """

    def __init__(self, out: Path, task: Mapping[str, Any], width: int, *, fresh: bool) -> None:
        self.out = out
        self.path = out.with_name(f".{out.name}.part")
        self.note = out.with_name(f".{out.name}.part.json")
        self.width = width
        self.rows = 0
        out.parent.mkdir(parents=True, exist_ok=True)
        if not fresh and self.path.is_file() and self.note.is_file():
            try:
                known = json.loads(self.note.read_text(encoding="utf-8"))
            except ValueError:
                known = None  # killed while it was written: no row can be there yet
            if known is not None and known != json.loads(json.dumps(task)):
                changed = [k for k in task if known.get(k) != json.loads(json.dumps(task[k]))]
                raise DataError(
                    f"{self.path} was begun with other {', '.join(changed)}",
                    hint="Give the same arguments to go on, or --fresh to begin anew",
                )
            if known is not None:
                self.rows = max(0, self.path.stat().st_size - HEADER) // (4 * width)
                # The last row may be half written.
                os.truncate(self.path, HEADER + 4 * width * self.rows if self.rows else 0)
        if not self.rows:
            self.path.write_bytes(b"\0" * HEADER)
            self.note.write_text(json.dumps(task), encoding="utf-8")

    def append(self, rows: np.ndarray[Any, Any]) -> None:
        """Write some more rows; those of one call are written in one piece."""
        with self.path.open("ab") as file:
            file.write(rows.astype("<f4").tobytes())
        self.rows += len(rows)

    def finish(self) -> None:
        """Write the header, and put the file in its place."""
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self.rows}, {self.width}), }}"
        header = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
        header += text.encode().ljust(HEADER - 11) + b"\n"
        with self.path.open("r+b") as file:
            file.write(header)
            file.flush()
            os.fsync(file.fileno())
        self.path.replace(self.out)
        self.note.unlink(missing_ok=True)

    def finish_parquet(self, source: Path, field: str) -> None:
        """Write the table of rows with their texts, and put it in its place."""
        import numpy as np

        pyarrow, parquet = pyarrow_parquet()
        temporary = self.out.with_name(f".{self.out.name}.tmp")
        kind = pyarrow.list_(pyarrow.float32(), self.width)
        schema = pyarrow.schema(
            [("line", pyarrow.int64()), ("text", pyarrow.string()), ("vector", kind)]
        )
        good = (t for t in read_texts(source, field) if t.text is not None)
        with parquet.ParquetWriter(temporary, schema) as writer, self.path.open("rb") as file:
            file.seek(HEADER)
            while block := list(islice(good, BLOCK)):
                raw = file.read(4 * self.width * len(block))
                values = pyarrow.array(np.frombuffer(raw, "<f4"))
                writer.write_table(
                    pyarrow.table(
                        [
                            pyarrow.array([t.number for t in block]),
                            # A lone surrogate of a JSON file fits no UTF-8.
                            pyarrow.array([_storable(t.text or "") for t in block]),
                            pyarrow.FixedSizeListArray.from_arrays(values, self.width),
                        ],
                        schema=schema,
                    )
                )
        temporary.replace(self.out)
        self.path.unlink()
        self.note.unlink(missing_ok=True)


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _check_out(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix not in (".npy", ".parquet"):
        raise click.BadParameter(f"{value} must end in .npy or .parquet")
    return value


@click.command(name="embed")
@weights_argument
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--file",
    "source",
    type=click.Path(path_type=Path),
    help="Texts: .txt (a line each), .jsonl, .parquet; the first two also .gz.",
)
@click.option("--field", default="text", show_default=True, help="Key or column of the texts.")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_check_out,
    help="Where to: .npy, or .parquet with the texts beside their vectors.",
)
@click.option(
    "--bad",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Lines that are no text: stop before any work, or leave them out.",
)
@click.option("--fresh", is_flag=True, help="Do not go on with a run that was stopped.")
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
    out: Path | None,
    bad: str,
    fresh: bool,
    options: tuple[str, ...],
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn texts into vectors with the weights NAME, from the command line or from a file.

    The vectors of a file keep its order. The command may be killed at any time: the same command
    goes on, and no row is lost or there twice. An empty text has a vector too.

    \b
    Examples:
      kexue embed roformer-sim-tiny "今天天气不错" --json
      kexue embed roformer-sim-tiny --file questions.txt --out questions.npy
      kexue embed roformer-sim-tiny --file corpus.jsonl --field title --out corpus.parquet
      kexue embed roformer-sim-tiny --file corpus.jsonl --out corpus.npy -o dtype=auto
    """
    if bool(texts) == (source is not None):
        raise click.UsageError("Give texts, or a file of them with --file")
    if source is not None and out is None:
        raise click.UsageError("Say with --out where the vectors of a file go")
    if texts and out is not None:
        raise click.UsageError("--out is for the vectors of a --file")
    settings = parse_options(options)
    if source is not None and not source.is_file():
        raise DataError(f"{source} does not exist", hint="Check the path")
    loaded = load(name, "embed", device)
    if source is None:
        _show(texts, vectors(loaded, texts, settings), as_json)
        return
    assert out is not None
    rows, earlier, told = embed_file(
        loaded,
        source,
        out,
        field=field,
        skip=bad == "skip",
        fresh=fresh,
        options=settings,
        identity=_identity(loaded),
        quiet=quiet,
    )
    for problem in told:
        _output.note(f"{source}, {problem}: left out", quiet=quiet)
    if earlier:
        _output.note(f"went on after row {earlier:,} of {rows:,}", quiet=quiet)
    if as_json:
        _output.json({"name": name, "out": str(out), "rows": rows, "earlier": earlier})
    else:
        _output.note(f"{rows:,} vectors in {out}", quiet=quiet)


def _identity(loaded: Loaded) -> str:
    """sha256 of the weights: other weights under the same name must not finish their rows."""
    from kexue_core.api import provenance
    from kexue_core.folder import WEIGHTS_FILE
    from kexue_core.hub.receipts import hash_file

    known = provenance(loaded.model)
    return "" if known is None else hash_file(known.folder / WEIGHTS_FILE)


def _show(texts: Sequence[str], found: np.ndarray[Any, Any], as_json: bool) -> None:
    rows: Iterator[tuple[str, list[float]]] = zip(texts, found.tolist(), strict=True)
    if as_json:
        _output.json([{"text": text, "vector": vector} for text, vector in rows])
        return
    for _, vector in rows:
        click.echo("\t".join(f"{value:.6g}" for value in vector))
