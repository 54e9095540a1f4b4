"""``kexue rewrite``: other ways to say a text."""

from __future__ import annotations

from pathlib import Path

import click

from kexue_core.commands import _output
from kexue_core.commands._options import (
    device_option,
    json_option,
    parse_options,
    quiet_option,
    seed_option,
    weights_argument,
)
from kexue_core.commands._output import Column, progress
from kexue_core.commands._texts import good_texts, read_texts
from kexue_core.commands._work import load, working
from kexue_core.errors import ConfigError

__all__ = ["command"]

COLUMNS = (
    Column("text", least=12),
    Column("rewrite", least=12),
    Column("score", align="right"),
)


@click.command(name="rewrite")
@weights_argument
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--file", "source", type=click.Path(path_type=Path), help="Texts: .txt, .jsonl, .parquet."
)
@click.option("--field", default="text", show_default=True, help="Key or column of its texts.")
@click.option(
    "-n",
    "n",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Rewrites of a text, at most.",
)
@click.option(
    "--method",
    type=click.Choice(["sample", "beam"]),
    default="sample",
    show_default=True,
    help="Draw, or take the likeliest.",
)
@seed_option
@click.option(
    "-o",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the model's rewrite, such as top_p=0.9, temperature=1.2, mask=[2,3].",
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
    n: int,
    method: str,
    seed: int,
    options: tuple[str, ...],
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say texts in other words with the weights NAME, best first by the cosine with the text.

    Neither a text itself nor a duplicate is among its rewrites; there may be fewer than asked for,
    and an empty text has none.

    \b
    Examples:
      kexue rewrite roformer-sim-tiny "怎么开通信用卡" -n 5
      kexue rewrite roformer-sim-tiny --file questions.txt --method beam --json
    """
    if source is not None:
        good_texts(source, field)
        texts = (*texts, *(t.text for t in read_texts(source, field) if t.text is not None))
    if not texts:
        raise click.UsageError("Give texts, or a file of them with --file")
    settings = {"method": method, "seed": seed, **parse_options(options)}
    loaded = load(name, "rewrite", device)
    found = []
    with progress("rewriting", len(texts), quiet=quiet) as advance, working(loaded.device):
        for text in texts:
            try:
                found.append(list(loaded.model.rewrite(text, n, **settings)))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{loaded.spec.name} refuses its options: {error}") from error
            advance()
    rows = [
        (text, str(rewrite[0]), float(rewrite[1]))
        for text, results in zip(texts, found, strict=True)
        for rewrite in results
    ]
    if as_json:
        _output.json(
            [
                {"text": text, "rewrites": [{"text": r[0], "score": r[1]} for r in results]}
                for text, results in zip(texts, found, strict=True)
            ]
        )
    else:
        _output.table(COLUMNS, [(text, other, f"{score:.4f}") for text, other, score in rows])
    nothing = sum(not results for results in found)
    if nothing:
        _output.note(f"{nothing} of {len(texts)} texts got no rewrite", quiet=quiet)
