"""What verbs print: a table on a terminal, tab-separated text when piped, JSON when asked for.

rich is imported only where stdout or stderr is a terminal; a pipe pays nothing for colours.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import click

__all__ = [
    "Column",
    "facts",
    "human_size",
    "json",
    "note",
    "on_terminal",
    "progress",
    "size",
    "table",
    "tick",
]

# C0 and C1 control characters: a summary must not move the cursor of whoever lists it.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

#: Blanks between two columns on a terminal.
_GAP = 2

# What a line may be broken after: blanks, hyphens, underscores, slashes. Chinese breaks anywhere.
# Compiled when a table is drawn: the ranges cost 5 ms, which a pipe need not pay.
_CJK = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_PIECE = rf"[{_CJK}]|[^\s/_{_CJK}-]*(?:[\s/_-]+|(?=[{_CJK}])|$)"

#: Pieces longer than this are broken anywhere.
_LONG = 20


class Column(NamedTuple):
    """A column of :func:`table`.

    Attributes:
        name: Its heading, and its name in the tab-separated header line.
        align: ``left``, or ``right`` for numbers.
        least: Width down to which its cells may be wrapped on a narrow terminal; 0 for never.
        drop: Where wrapping is not enough, columns go by this rank, highest first; 0 stays.
        style: Of its cells on a terminal, in the words of rich: ``bold``, ``cyan``.
    """

    name: str
    align: Literal["left", "right"] = "left"
    least: int = 0
    drop: int = 0
    style: str = ""


def on_terminal() -> bool:
    """Whether people read stdout."""
    return sys.stdout.isatty()


def size(count: int | None) -> str:
    """Bytes for a table's cell: ``13.4 MB`` on a terminal, the plain number when piped."""
    if on_terminal():
        return human_size(count)
    return "" if count is None else str(count)


def table(headings: Sequence[Column | str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows: as a table that fits the terminal, or tab-separated with a header line.

    ``None`` is an empty cell. A terminal does not show columns that are empty throughout; those
    that it has no room for are named below the table. The tab-separated form has all columns.
    """
    columns = [Column(c) if isinstance(c, str) else c for c in headings]
    cells = [[_cell(value) for value in row] for row in rows]
    if not on_terminal():
        for line in ([c.name for c in columns], *cells):
            click.echo("\t".join(line))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _console()
    filled = [i for i in range(len(columns)) if any(row[i] for row in cells)]
    kept, dropped = _fit(columns, cells, filled, console.width)
    # The box puts one blank between columns, padding the rest of the gap.
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for index, width in kept.items():
        column = columns[index]
        shown.add_column(
            Text(_wrap(column.name, width)), justify=column.align, width=width, style=column.style
        )
    for row in cells:
        shown.add_row(*(Text(_wrap(row[index], width)) for index, width in kept.items()))
    console.print(shown)
    if dropped:
        names = ", ".join(c.name for c in columns if c in dropped)
        console.print(Text(f"Not shown for want of room: {names}", style="dim"))


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print named values one a line, aligned on a terminal; empty ones are left out."""
    shown = [(name, _cell(value)) for name, value in pairs if value not in (None, "", (), [], {})]
    if not on_terminal():
        for name, value in shown:
            click.echo(f"{name}\t{value}")
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in shown:
        grid.add_row(Text(name), Text(value))
    _console().print(grid)


def section(title: str) -> None:
    """Begin a further part: a heading on a terminal, an empty line when piped."""
    click.echo("")
    if on_terminal():
        from rich.text import Text

        _console().print(Text(title, style="bold"))


def json(value: object) -> None:
    """Print a value as JSON; dataclasses, paths and tuples are understood.

    NaN and infinities become null: JSON has no word for them.
    """
    import json

    click.echo(json.dumps(_plain(value), ensure_ascii=False, indent=2, allow_nan=False))


def note(text: str, *, quiet: bool = False) -> None:
    """Say something about the work on stderr, as one line: ``kexue: ...``."""
    if not quiet:
        click.echo(f"kexue: {_cell(text)}", err=True)


def human_size(size: int | None) -> str:
    """Bytes as people read them, in powers of ten as disks and the Hub count: ``13.4 MB``."""
    if size is None:
        return "?"
    if size < 1000:
        return f"{size} B"
    power = min(4, (len(str(size)) - 1) // 3)
    value = size / 1000**power
    return f"{value:.{1 if value < 99.95 else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def tick(done: bool) -> str:
    """``yes`` or ``no``: words survive every terminal, font and pipe."""
    return "yes" if done else "no"


@contextmanager
def progress(what: str, total: int | None, *, quiet: bool = False) -> Iterator[Any]:
    """A progress bar on stderr, if that is a terminal: call what is yielded with each advance."""
    if quiet or not sys.stderr.isatty():
        yield lambda advance=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda advance=1: bar.advance(task, advance)


def _console() -> Any:
    from rich.console import Console

    # Highlighting would colour digits inside names; markup would eat "[...]" in summaries.
    return Console(highlight=False, markup=False, emoji=False)


def _cell(value: object) -> str:
    """A value as one line of text without control characters."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return tick(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(v) for v in value)
    return _CONTROL.sub(" ", str(value)).strip()


def _plain(value: object) -> object:
    import dataclasses

    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, Iterable):
        return [_plain(inner) for inner in value]
    # Paths, and dates that a hand-written registry may hold.
    return str(value)


def _fit(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], kept: list[int], width: int
) -> tuple[dict[int, int], list[Column]]:
    """Index -> width of the columns that fit, and those that do not.

    Wide columns are narrowed first, the widest most, but none below its longest piece; if there is
    still no room, the column of the highest ``drop`` goes. Widths are of terminal cells: a Chinese
    character or an emoji takes two.
    """
    from rich.cells import cell_len

    natural, floor = {}, {}
    for i in kept:
        texts = [columns[i].name, *(row[i] for row in cells)]
        natural[i] = max(map(cell_len, texts))
        pieces = (cell_len(piece.rstrip()) for text in texts for piece in re.findall(_PIECE, text))
        longest = min(_LONG, max(pieces, default=1))
        floor[i] = (
            min(natural[i], max(columns[i].least, longest)) if columns[i].least else natural[i]
        )
    dropped: list[Column] = []
    while True:
        widths = {i: natural[i] for i in kept}
        excess = sum(widths.values()) + _GAP * (len(kept) - 1) - width
        while excess > 0 and (soft := [i for i in kept if widths[i] > floor[i]]):
            widths[max(soft, key=widths.__getitem__)] -= 1
            excess -= 1
        droppable = [i for i in kept if columns[i].drop]
        if excess <= 0 or not droppable:
            return widths, dropped
        gone = max(droppable, key=lambda i: (columns[i].drop, i))
        kept = [i for i in kept if i != gone]
        dropped.append(columns[gone])


def _wrap(text: str, width: int) -> str:
    """Break a text into lines, after blanks, hyphens and slashes where that is possible."""
    from rich.cells import cell_len, chop_cells

    lines = [""]
    for piece in re.findall(_PIECE, text):
        word = piece.rstrip()
        if cell_len(lines[-1] + word) <= width:
            lines[-1] += piece
        elif cell_len(word) <= width:
            lines.append(piece)
        else:  # a long path or hash: anywhere
            lines[-1:] = chop_cells(lines[-1] + word, width)
            lines[-1] += piece[len(word) :]
    return "\n".join(line.rstrip() for line in lines)
