"""Options and arguments that several verbs share, so that they mean the same everywhere."""

from __future__ import annotations

from typing import Any

import click

__all__ = [
    "WeightsName",
    "device_option",
    "json_option",
    "parse_options",
    "quiet_option",
    "seed_option",
    "weights_argument",
]


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


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print results only.")
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of all randomness."
)
device_option = click.option(
    "--device", metavar="DEVICE", default=None, help="cpu, cuda, cuda:1, mps; default: the best."
)


def weights_argument(**kwargs: Any) -> Any:
    """The argument ``NAME``: a reference to weights, completed by the shell."""
    return click.argument("name", type=WeightsName(), metavar="NAME", **kwargs)


def parse_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``("steps=60", "noise=0.01")`` -> ``{"steps": 60, "noise": 0.01}``.

    Values are read as JSON where they are JSON (numbers, true, null, lists), else as text.

    Raises:
        click.BadParameter: A pair without ``=``, or a name given twice.
    """
    import json

    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not separator or not key:
            raise click.BadParameter(f"{pair!r} is not of the form KEY=VALUE")
        if key in options:
            raise click.BadParameter(f"{key} is given twice")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options
