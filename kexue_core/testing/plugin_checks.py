"""Promises of a distribution as a whole, of its recipes and of its adapters."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping

from kexue_core.configs import build_config
from kexue_core.names import normalize
from kexue_core.specs import (
    AdapterSpec,
    LossSpec,
    ModelSpec,
    RecipeSpec,
    SamplerSpec,
    Spec,
    import_object,
)
from kexue_core.testing.outcomes import Check, CheckFailure
from kexue_core.testing.subjects import AdapterSubject, PluginSubject, RecipeSubject, plain

__all__ = ["ADAPTER_CHECKS", "PLUGIN_CHECKS", "RECIPE_CHECKS"]

#: What a child prints: seconds that listing took, and the heavy modules that it imported.
_LISTING = """
import json, sys
from kexue_core.isolation import HEAVY
from kexue_core.plugins import discover
records = list(discover())
wanted = next(r for r in records if r.distribution == sys.argv[1])
heavy = sorted({m.partition(".")[0] for m in sys.modules} & HEAVY)
print(json.dumps([wanted.seconds, heavy]))
"""


def loads_without_problems(subject: PluginSubject) -> None:
    """The plugin is discovered without a problem and declares something."""
    for problem in subject.record.problems:
        raise CheckFailure(problem.cause, problem.fix)
    if not subject.record.specs and not subject.record.registries:
        raise CheckFailure("It declares nothing", "Yield specs from kexue_components()")


def listing_is_light(subject: PluginSubject) -> str:
    """Listing the plugin imports no torch, numpy or the like; its time is shown."""
    child = subprocess.run(
        [sys.executable, "-c", _LISTING, subject.distribution],
        env={**os.environ, "KEXUE_PLUGINS": subject.distribution},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["no message"]
        raise CheckFailure(f"Listing it fails: {lines[-1]}", "Mend the module of the entry point")
    seconds, heavy = json.loads(child.stdout.splitlines()[-1])
    if heavy:
        raise CheckFailure(
            f"Listing it imports {', '.join(heavy)}",
            f"Import {heavy[0]} in the modules that specs name by import string, and nothing in "
            f"{subject.record.module} and its package's __init__ but kexue_core",
        )
    return f"listed in {1000 * seconds:.0f} ms"


def factories_resolve(subject: PluginSubject) -> None:
    """Every import string of every spec leads to something callable."""
    for spec in subject.record.specs:
        for field, path in _import_strings(spec).items():
            found = import_object(path)
            if not callable(found):
                raise CheckFailure(
                    f"{spec.kind} {spec.name}: {field} {path} is a {type(found).__name__}",
                    "Name a class or function",
                )


def names_are_free(subject: PluginSubject) -> None:
    """No other installed plugin has the names, and the weights take none of kexue's own."""
    from kexue_core.registry import load_registry

    for (kind, name), declared in subject.plugins.conflicts().items():
        others = {d.distribution for d in declared} - {subject.distribution}
        if others and len(others) < len(declared):
            raise CheckFailure(
                f"The {kind} {name!r} is also declared by {', '.join(sorted(others))}",
                f"Rename it: who has both must write {subject.distribution}::{name}",
            )
    for problem in load_registry().problems:
        if problem.origin in subject.record.registries:
            raise CheckFailure(f"{problem.origin.name}: {problem.cause}", problem.fix)


def summaries_are_given(subject: PluginSubject) -> None:
    """Every spec has a summary: it is all that a table shows."""
    for spec in subject.record.specs:
        if not spec.summary.strip():
            raise CheckFailure(
                f"The {spec.kind} {spec.name!r} has no summary", "Write one line for tables"
            )


def requirement_is_bounded(subject: PluginSubject) -> None:
    """The distribution requires ``kexue`` below the next version that may break it."""
    from importlib import metadata

    from packaging.requirements import Requirement

    if subject.distribution == "kexue":
        return
    for text in metadata.requires(subject.distribution) or []:
        requirement = Requirement(text)
        if normalize(requirement.name) == "kexue":
            if not any(s.operator in ("<", "<=", "==", "~=") for s in requirement.specifier):
                raise CheckFailure(
                    f"Its requirement {text!r} has no upper bound",
                    'Write "kexue[torch]>=0.1,<0.2": 0.2 may change what it uses',
                )
            return
    raise CheckFailure(
        "Its metadata does not require kexue",
        'Write dependencies = ["kexue[torch]>=0.1,<0.2"] in pyproject.toml',
    )


def recipe_fits(subject: RecipeSubject) -> None:
    """The recipe is a complete ``Recipe`` with a frozen config and a card."""
    from kexue_core.training.recipe import Card, Recipe, RecipeConfig

    recipe = import_object(subject.spec.factory)
    if not isinstance(recipe, type) or not issubclass(recipe, Recipe):
        raise CheckFailure(
            f"{subject.spec.factory} is no Recipe", "Subclass kexue_core.training.Recipe"
        )
    if recipe.__abstractmethods__:
        raise CheckFailure(
            f"{recipe.__name__} lacks {', '.join(sorted(recipe.__abstractmethods__))}",
            "Write them; kexue_core.training.recipe says what each does",
        )
    config_class = recipe.Config
    if not issubclass(config_class, RecipeConfig) or not dataclasses.is_dataclass(config_class):
        raise CheckFailure(
            f"{recipe.__name__}.Config is no RecipeConfig", "Subclass RecipeConfig as a dataclass"
        )
    if not config_class.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise CheckFailure(f"{config_class.__name__} is not frozen", "Write frozen=True")
    config = config_class()
    if build_config(config_class, json.loads(json.dumps(plain(config)))) != config:
        raise CheckFailure(
            f"{config_class.__name__} does not survive JSON",
            "Use numbers, strings, booleans, None and tuples of them",
        )
    card = getattr(recipe, "card", None)
    if not isinstance(card, Card):
        raise CheckFailure(
            f"{recipe.__name__} has no card",
            "Write card = Card(summary=, data=, license=, terms=, limits=)",
        )
    empty = [f.name for f in dataclasses.fields(Card) if not str(getattr(card, f.name)).strip()]
    if empty:
        raise CheckFailure(
            f"The card says nothing of {', '.join(empty)}",
            "Write a sentence: strangers decide by it",
        )


def recipe_builds_its_model(subject: RecipeSubject) -> None:
    """``build`` makes the declared model, and the optimisers hold parameters of it."""
    recipe = import_object(subject.spec.factory)
    made = recipe(recipe.Config())
    modules = made.build()
    if not isinstance(modules, Mapping) or "model" not in modules:
        raise CheckFailure("build() gives no 'model'", 'Return {"model": the module to publish}')
    wanted = import_object(subject.model.factory)
    if type(modules["model"]) is not wanted:
        raise CheckFailure(
            f"build() makes a {type(modules['model']).__name__}, "
            f"the spec says {subject.model.name} ({wanted.__name__})",
            "Correct RecipeSpec.model or build()",
        )
    held = {
        id(parameter)
        for optimizer in made.optimizers(modules).values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    idle = [
        n for n, p in modules["model"].named_parameters() if p.requires_grad and id(p) not in held
    ]
    if idle:
        raise CheckFailure(
            f"No optimiser holds {', '.join(idle[:3])}",
            "Give it to one in optimizers(), or freeze it with requires_grad_(False)",
        )


def adapter_fits(subject: AdapterSubject) -> None:
    """The adapter feeds a model of this plugin and reads known formats."""
    if subject.spec.model not in subject.models:
        raise CheckFailure(
            f"It feeds {subject.spec.model!r}, which the plugin does not declare",
            "Correct AdapterSpec.model",
        )
    if not subject.spec.formats:
        raise CheckFailure("It reads no format", "Name them: formats=('tensorflow',)")


def _import_strings(spec: Spec) -> dict[str, str]:
    """Field -> import string, of all fields that hold one."""
    found: dict[str, str | None] = {"factory": spec.factory}
    if isinstance(spec, ModelSpec):
        found |= {"config": spec.config, "example_input": spec.example_input}
    elif isinstance(spec, (LossSpec, SamplerSpec)):
        found["example"] = spec.example
    elif not isinstance(spec, (RecipeSpec, AdapterSpec)):
        raise CheckFailure(f"{spec!r:.60} is of no known kind", "Use the specs of kexue_core")
    return {field: path for field, path in found.items() if path is not None}


PLUGIN_CHECKS: tuple[Check[PluginSubject], ...] = (
    Check("loads", loads_without_problems),
    Check("listing", listing_is_light),
    Check("factories", factories_resolve),
    Check("names", names_are_free),
    Check("summaries", summaries_are_given),
    Check("requirement", requirement_is_bounded),
)

RECIPE_CHECKS: tuple[Check[RecipeSubject], ...] = (
    Check("recipe", recipe_fits),
    Check("build", recipe_builds_its_model),
)

ADAPTER_CHECKS: tuple[Check[AdapterSubject], ...] = (Check("adapter", adapter_fits),)
