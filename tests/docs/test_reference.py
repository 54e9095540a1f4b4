"""Every public name of the core is documented, and the reference page knows them all."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from synthetic import REPOSITORY

import kexue_core

sys.path.insert(0, str(REPOSITORY / "docs"))
import make_reference

#: Modules whose public names are looked at: the whole core.
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(kexue_core.__path__, "kexue_core.")
    if not any(part.startswith("_") for part in m.name.split("."))
)


def undocumented(module: ModuleType) -> list[str]:
    """Names that a module exports without a word."""
    missing = []
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.isclass(value):
            own = value.__module__ == module.__name__
            # A dataclass without a docstring gets its signature as one.
            if not value.__doc__ or value.__doc__.startswith(f"{value.__name__}("):
                missing.append(name)
            missing += [f"{name}.{m}" for m in own * _undocumented_methods(value)]
        elif inspect.isfunction(value) and not value.__doc__:
            missing.append(name)
    return missing


def _undocumented_methods(cls: type) -> list[str]:
    found = []
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else value
        if name.startswith("_") or not inspect.isfunction(function) or function.__doc__:
            continue
        # What overrides a documented method says the same unless it says otherwise.
        if not any(getattr(getattr(base, name, None), "__doc__", "") for base in cls.__mro__[1:]):
            found.append(name)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} says nothing of itself"
    assert undocumented(module) == []


def test_the_modules_of_the_page_say_what_their_constants_are() -> None:
    silent = [
        f"{name}.{public}"
        for name in make_reference.MODULES
        for module in [importlib.import_module(name)]
        for public in make_reference.public_names(module)
        if not inspect.isclass(getattr(module, public))
        and not inspect.isfunction(getattr(module, public))
        and not make_reference.constant_comment(module, public)
    ]
    assert silent == []


def test_public_docstrings_end_their_first_line_as_a_sentence() -> None:
    for name in make_reference.MODULES:
        module = importlib.import_module(name)
        for public in make_reference.public_names(module):
            value = getattr(module, public)
            if inspect.isclass(value) or inspect.isfunction(value):
                first = (inspect.getdoc(value) or "").partition("\n\n")[0]
                assert re.search(r"[.:]$", first.strip()), f"{name}.{public}: {first!r}"


def test_an_undocumented_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "silent.py").write_text(
        '"""A module."""\n__all__ = ["Loud", "f"]\n\n\ndef f():\n    pass\n\n\n'
        'class Loud:\n    """Says something."""\n\n    def quiet(self):\n        pass\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert undocumented(importlib.import_module("silent")) == ["Loud.quiet", "f"]


@pytest.mark.parametrize("page", ["reference", "conformance"])
def test_the_committed_pages_name_everything(page: str) -> None:
    # Wording may run ahead of the page for a while; names may not.
    written = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")
    generated = getattr(make_reference, page)()
    pattern = r"^(?:### |## |\| )`([^`]+)`"
    found, wanted = (set(re.findall(pattern, text, re.MULTILINE)) for text in (written, generated))
    assert found == wanted, "run `python docs/make_reference.py`"
