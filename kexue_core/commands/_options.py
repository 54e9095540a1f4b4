"""Options and arguments that several verbs share, so that they mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "PICTURES",
    "WeightsName",
    "device_option",
    "json_option",
    "out_option",
    "parse_options",
    "quiet_option",
    "seed_option",
    "weights_argument",
]


#: Endings of the pictures that verbs write.
PICTURES = (".png", ".jpg", ".jpeg", ".webp")

_F = TypeVar("_F", bound=Callable[..., Any])


class WeightsName(click.types.StringParamType):
    """A reference to weights; the shell completes names of the registry."""

    name = "NAME"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Names that begin as typed. Whatever is broken, completion says nothing and ends."""
        from click.shell_completion import CompletionItem

        from kexue_core.registry import load_registry

        try:
            entries = load_registry().weights
        except Exception:
            return []
        return [
            CompletionItem(entry.name, help=entry.summary or None)
            for entry in entries
            if entry.name.startswith(incomplete) and not entry.deprecated
        ]


#: The argument ``NAME``: a reference to weights, completed by the shell.
weights_argument = click.argument("name", type=WeightsName(), metavar="NAME")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print results only.")
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of all randomness."
)
device_option = click.option(
    "--device",
    metavar="DEVICE",
    default=None,
    help="cpu, cuda, cuda:1, mps. Default: cuda if there is one, else cpu.",
)


def out_option(verb: str, *others: str) -> Callable[[_F], _F]:
    """The option ``--out``: a picture, or a file that ends as one of ``others``.

    The ending is checked before the work and not after it.
    """

    def check(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        endings = (*PICTURES, *others)
        if value is not None and value.suffix.lower() not in endings:
            raise click.BadParameter(f"{value} must end in one of {' '.join(endings)}")
        return value

    return click.option(
        "--out",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=check,
        help=f"Where to. Default: NAME-{verb}.png here.",
    )


def parse_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``("steps=60", "noise=0.01")`` -> ``{"steps": 60, "noise": 0.01}``.

    Values are read as JSON where they are JSON (numbers, true, null, lists), else as text.

    Raises:
        click.BadParameter: A pair without ``=``, or a name given twice.
    """
    from kexue_core.configs import parse_pairs
    from kexue_core.errors import ConfigError

    try:
        return parse_pairs(pairs)
    except ConfigError as error:
        raise click.BadParameter(error.message) from error
