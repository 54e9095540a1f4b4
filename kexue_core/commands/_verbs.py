"""Which verbs there are: the core's in a static table, third parties' from package metadata.

Nothing here imports a command: ``kexue --help`` and completion cost no more than this table.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import NamedTuple

import click

from kexue_core.accidents import UserInterrupts, one_line
from kexue_core.distributions import entry_points
from kexue_core.errors import PluginError
from kexue_core.names import NAME
from kexue_core.specs import VERBS

__all__ = ["GROUP", "SECTIONS", "TABLE", "ForeignVerb", "Verb", "foreign_verbs", "load_verb"]

#: Entry-point group of third parties' verbs: ``verb = "module:command"``.
GROUP = "kexue.commands"

SECTIONS = ("Find", "Get", "Use", "Train", "Extend")


class Verb(NamedTuple):
    """A verb of the core: its section of the help, its module here, its line of help."""

    section: str
    module: str
    help: str


#: Verb -> where it lives. The module holds a ``click.Command`` named ``command``.
TABLE: Mapping[str, Verb] = {
    "list": Verb("Find", "listing", "List weights, models, losses, samplers, recipes, plugins"),
    "show": Verb("Find", "show", "Show everything known about one of them"),
    "plugins": Verb("Find", "plugins", "List the installed plugins"),
    "pull": Verb("Get", "pull", "Download weights and verify them"),
    "verify": Verb("Get", "verify", "Check the hashes of weights on this machine"),
    "rm": Verb("Get", "rm", "Remove downloaded weights"),
    "sample": Verb("Use", "sample", "Draw samples from weights"),
    "reconstruct": Verb("Use", "reconstruct", "Encode and decode images, side by side"),
    "interpolate": Verb("Use", "interpolate", "Walk between two images or samples"),
    "score": Verb("Use", "score", "Give images bits per dimension, or an energy"),
    "embed": Verb("Use", "embed", "Turn texts into vectors"),
    "similar": Verb("Use", "similar", "Compare texts, or find the nearest in a file"),
    "rewrite": Verb("Use", "rewrite", "Say texts in other words"),
    "classify": Verb("Use", "classify", "Label texts or images"),
    "extract": Verb("Use", "extract", "Find facts in texts"),
    "train": Verb("Train", "train", "Train a recipe on your data"),
    "eval": Verb("Train", "evaluate", "Measure weights on a data set"),
    "reproduce": Verb("Train", "reproduce", "Run an experiment that tests a post's claim"),
    "new-plugin": Verb("Extend", "new_plugin", "Write the skeleton of a plugin"),
    "check": Verb("Extend", "check", "Hold a plugin against the conformance kit"),
    "install": Verb("Extend", "install", "Install a plugin"),
    "uninstall": Verb("Extend", "uninstall", "Remove a plugin"),
    "push": Verb("Extend", "push", "Publish a folder of weights"),
    "convert": Verb("Extend", "convert", "Convert a foreign checkpoint"),
    "doctor": Verb("Extend", "doctor", "Say what is broken here, and how to mend it"),
}

#: Names that no third party gets: those above, and the verbs that capabilities stand for.
RESERVED = frozenset(TABLE) | frozenset(VERBS)


class ForeignVerb(NamedTuple):
    """A verb that another distribution brings.

    Attributes:
        name: The verb.
        distribution: Who brings it.
        target: Its import string.
        problem: Why it is ignored, or ``None``.
    """

    name: str
    distribution: str
    target: str
    problem: str | None = None


@functools.cache
def foreign_verbs() -> tuple[ForeignVerb, ...]:
    """The verbs of other distributions, by name, those that are ignored included."""
    found = [(entry.name, entry.distribution, entry.value) for entry in entry_points(GROUP)]
    names = [name for name, _, _ in found]
    verbs = []
    for name, owner, target in sorted(found):
        problem = None
        if name in RESERVED:
            problem = f"takes the verb {name!r}, which belongs to kexue itself"
        elif not NAME.fullmatch(name):
            problem = f"brings the verb {name!r}, which is no lower-case word"
        elif names.count(name) > 1:
            rivals = ", ".join(sorted({o for n, o, _ in found if n == name} - {owner}))
            problem = f"brings the verb {name!r}, and so does {rivals or 'it, again'}"
        verbs.append(ForeignVerb(name, owner, target, problem))
    return tuple(verbs)


def load_verb(name: str) -> click.Command | None:
    """Import the command of a verb; ``None`` where no one brings it.

    Raises:
        PluginError: A third party's verb does not import, or is no click command.
    """
    if name in TABLE:
        command = importlib.import_module(f"{__package__}.{TABLE[name].module}").command
        assert isinstance(command, click.Command)
        return command
    verb = next((v for v in foreign_verbs() if v.name == name and v.problem is None), None)
    return _load_foreign(verb) if verb else None


def _load_foreign(verb: ForeignVerb) -> click.Command:
    """Import another distribution's command, containing whatever goes wrong."""
    fix = f"Update it (pip install --upgrade {verb.distribution}) or uninstall it"
    module, _, attribute = verb.target.partition(":")
    with UserInterrupts():
        try:
            command = getattr(importlib.import_module(module), attribute or "command")
        except BaseException as error:  # SystemExit at import must not end kexue either
            raise PluginError(
                f"The verb {verb.name!r} of {verb.distribution} cannot be loaded: "
                f"{one_line(error)}",
                hint=fix,
            ) from error
    if not isinstance(command, click.Command):
        raise PluginError(
            f"The verb {verb.name!r} of {verb.distribution} is no click command: {verb.target}",
            hint=fix,
        )
    return command
