"""Import one distribution's plugin, ask it, and contain whatever goes wrong.

Everything of a distribution happens under ``except BaseException``: an accident (an ImportError, a
SystemExit, rubbish returned) is recorded with its cause and the remedy, and all others go on. Only
the user's Ctrl-C ends the loading, even where a plugin swallows it. What cannot be contained in one
process, such as an endless import, is at least named while it lasts. This is a guard against
accidents, not against malice.
"""

from __future__ import annotations

import contextlib
import importlib
import operator
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from kexue_core import hookspecs
from kexue_core.accidents import SLOW_IMPORT, NamedWhileSlow, Problem, UserInterrupts, diagnose
from kexue_core.distributions import EntryPoint
from kexue_core.specs import KINDS, RecipeSpec, Spec

__all__ = ["GROUP", "HEAVY", "PluginRecord", "Problem", "load_plugin"]

#: Entry-point group of plugins: one module a distribution.
GROUP = "kexue"

HOOKS = ("kexue_components", "kexue_registries")

#: Modules that a plugin must not import while it is listed: each costs from 0.1 s to seconds.
HEAVY = frozenset(
    {
        *("torch", "tensorflow", "jax", "numpy", "scipy", "pandas", "matplotlib", "PIL"),
        *("safetensors", "huggingface_hub", "transformers", "tokenizers", "datasets"),
        *("accelerate", "torchmetrics", "jieba", "ray", "fastapi"),
    }
)


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """One distribution with an entry point in the group ``kexue``.

    Attributes:
        distribution: Its normalised name.
        version: Its version, ``"?"`` where the metadata has none.
        module: The module that the entry point names.
        specs: What it declares; empty where a problem is fatal.
        registries: Paths of its own registry.yaml files.
        problems: What is wrong with it.
        seconds: Wall time of import and hook calls.
    """

    distribution: str
    version: str
    module: str
    specs: tuple[Spec, ...]
    registries: tuple[Path, ...]
    problems: tuple[Problem, ...]
    seconds: float

    @property
    def broken(self) -> bool:
        """Whether nothing of this plugin is used."""
        return any(problem.fatal for problem in self.problems)


def load_plugin(name: str, found: list[EntryPoint]) -> tuple[PluginRecord, BaseException | None]:
    """Import one distribution's module and ask it, containing whatever goes wrong."""
    started = time.perf_counter()
    before = set(sys.modules)
    problems: list[Problem] = []
    specs: tuple[Spec, ...] = ()
    registries: tuple[Path, ...] = ()
    caught: BaseException | None = None
    with UserInterrupts():
        try:
            _check_entry_points(found)
            _check_requirement(found[0])
            # What a plugin prints would end up in the middle of a table, or of JSON.
            with NamedWhileSlow(name), contextlib.redirect_stdout(sys.stderr):
                module = importlib.import_module(found[0].value)
                _check_hooks(module)
                specs, registries = _ask(module, name)
        except _Rejected as rejection:
            problems.append(Problem(rejection.cause, rejection.fix))
            caught = rejection.__cause__ or rejection
        except BaseException as error:
            problems.append(diagnose(error, found[0].value, name))
            caught = error
    seconds = time.perf_counter() - started
    if heavy := sorted(({m.partition(".")[0] for m in set(sys.modules) - before}) & HEAVY):
        problems.append(
            Problem(
                f"imports {', '.join(heavy)} while it is listed ({seconds:.1f} s)",
                f"Import {heavy[0]} inside functions; specs name factories by import string",
                fatal=False,
            )
        )
    elif seconds > SLOW_IMPORT:
        problems.append(
            Problem(
                f"takes {seconds:.1f} s to import",
                "Move slow work out of the module named by the entry point",
                fatal=False,
            )
        )
    record = PluginRecord(
        distribution=name,
        version=found[0].version,
        module=found[0].value,
        specs=specs,
        registries=registries,
        problems=tuple(problems),
        seconds=seconds,
    )
    return record, caught


class _Rejected(Exception):  # noqa: N818 - carries a verdict, not a failure of the core
    """A plugin that the core itself turns down."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.fix = fix


def _check_entry_points(found: list[EntryPoint]) -> None:
    """Refuse what names no module, or several."""
    if len(found) > 1:
        raise _Rejected(
            f"declares {len(found)} modules in the entry-point group {GROUP!r}",
            "Keep one: [project.entry-points.kexue] holds one module a distribution",
        )
    module, colon, attribute = found[0].value.partition(":")
    if colon:
        raise _Rejected(
            f"its entry point names {found[0].value}, and must name a module",
            f"Drop ':{attribute}': write {found[0].name} = \"{module}\" under "
            "[project.entry-points.kexue], and install it again",
        )


def _check_requirement(entry_point: EntryPoint) -> None:
    """Hold the plugin's own ``Requires-Dist: kexue...`` against the installed core."""
    for value in entry_point.requires:
        if not re.match(r"kexue(?![\w.-])", value) or "extra ==" in value:
            continue
        from kexue_core import __version__

        specifier = _admits(value, __version__)
        if specifier is not None:
            raise _Rejected(
                f"needs kexue{specifier}, and {__version__} is installed",
                f"Run `pip install --upgrade {entry_point.distribution}`, "
                f"or `pip install 'kexue{specifier}'`",
            )


_PLAIN_REQUIREMENT = re.compile(
    r"kexue(?:\[[\w,-]+\])?\s*\(?((?:[<>]=?\s*\d+(?:\.\d+)*\s*,?\s*)+)\)?"
)


def _admits(requirement: str, version: str) -> str | None:
    """``None`` if a requirement on kexue admits ``version`` (or is about something else).

    Otherwise the specifier that does not. The form that every plugin uses, ``kexue>=0.1,<0.2``,
    is read here: importing packaging for it would cost an eighth of the time of ``kexue list``.
    """
    plain = _PLAIN_REQUIREMENT.fullmatch(requirement)
    release = _release(version)
    if plain and release:
        bounds = re.findall(r"([<>]=?)\s*([\d.]+)", plain[1])
        if all(_COMPARE[sign](release, _release(bound)) for sign, bound in bounds):
            return None
        return ",".join(sign + bound for sign, bound in bounds)
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return None
    if parsed.name != "kexue" or parsed.specifier.contains(version, prereleases=True):
        return None
    return str(parsed.specifier)


_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _release(version: str) -> tuple[int, ...]:
    """``"0.1.0"`` -> ``(0, 1)``; empty for what is no plain release, such as ``0.2rc1``."""
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        return ()
    parts = [int(part) for part in version.split(".")]
    while parts and parts[-1] == 0:
        parts.pop()  # 1.0 and 1 are one release
    return tuple(parts)


def _check_hooks(module: ModuleType) -> None:
    """Refuse a module whose hooks would silently never be called."""
    # pluggy's marker is a mapping; anything else is an object that answers to every attribute.
    marked = [
        name
        for name, value in vars(module).items()
        if isinstance(getattr(value, "kexue_impl", None), dict)
    ]
    if not marked:
        raise _Rejected(
            f"{module.__name__} implements no hook",
            "Decorate kexue_components() with @kexue_core.hookimpl",
        )
    for name in marked:
        if name not in HOOKS:
            import difflib

            close = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.5)
            raise _Rejected(
                f"{module.__name__} implements the unknown hook {name}",
                f"Did you mean {close[0]}?" if close else f"The hooks are {' and '.join(HOOKS)}",
            )


def _ask(module: ModuleType, name: str) -> tuple[tuple[Spec, ...], tuple[Path, ...]]:
    """Call both hooks of one module and validate what they return."""
    manager = pluggy.PluginManager("kexue")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    specs = _collect(manager.hook.kexue_components(), Spec, f"{module.__name__}.kexue_components")
    registries = _collect(
        manager.hook.kexue_registries(), Path, f"{module.__name__}.kexue_registries"
    )
    seen: set[tuple[str, str]] = set()
    for spec in specs:
        for key in ((spec.kind, n) for n in (spec.name, *spec.aliases)):
            if key in seen:
                raise _Rejected(f"declares the {key[0]} {key[1]!r} twice", "Rename one of the two")
            seen.add(key)
    for spec in specs:
        if isinstance(spec, RecipeSpec) and ("model", spec.model) not in seen:
            raise _Rejected(
                f"the recipe {spec.name!r} trains {spec.model!r}, a model that it does not declare",
                "Declare the model in the same distribution, or correct the name",
            )
    return specs, registries


def _collect(results: list[Any], wanted: type[Any], where: str) -> tuple[Any, ...]:
    """Exhaust what one hook returned (a list with one iterable) and check each value."""
    values: list[Any] = []
    for result in results:
        if isinstance(result, (str, bytes)) or not hasattr(result, "__iter__"):
            raise _Rejected(
                f"{where} returned {result!r:.60}, not an iterable of {wanted.__name__}",
                f"Return or yield {wanted.__name__} objects",
            )
        for value in result:
            if not isinstance(value, wanted) or (
                isinstance(value, Spec) and value.kind not in KINDS
            ):
                raise _Rejected(
                    f"{where} gave {value!r:.60}, which is no {wanted.__name__}",
                    f"Return or yield {wanted.__name__} objects",
                )
            values.append(value)
    return tuple(values)
