"""Write a new plugin from the packaged templates: complete, tested, conformant."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import io
import keyword
import re
import tempfile
import tokenize
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Literal, TypeAlias

from kexue_core.errors import ConfigError
from kexue_core.names import check_name, normalize
from kexue_core.plugins import discover
from kexue_core.registry import load_registry

__all__ = ["KINDS", "Kind", "write_plugin"]

Kind: TypeAlias = Literal["model", "loss", "sampler"]

#: Longer names would break lines of what is written, and no one wants to type them.
LONGEST_NAME = 30

TEMPLATES = Path(__file__).parent / "templates"

#: What there is to start from: kind -> (summary, the modules of the package).
KINDS: Mapping[Kind, tuple[str, tuple[str, ...]]] = {
    "model": ("Probabilistic principal components of images", ("plugin", "model", "recipes")),
    "loss": ("log cosh of the error, quadratic near zero and linear far out", ("plugin", "loss")),
    "sampler": ("Random-walk Metropolis on an energy", ("plugin", "sampler")),
}


def write_plugin(name: str, kind: Kind, directory: Path) -> Path:
    """Write the plugin ``kexue-<name>`` into ``directory``, all of it or nothing.

    Args:
        name: What is declared: lower-case words joined by hyphens, such as ``toy-flow``.
        kind: ``model``, ``loss`` or ``sampler``.
        directory: Where the plugin's folder is made; it may not exist yet.

    Returns:
        The plugin's folder.

    Raises:
        InvalidReferenceError: The name is not of the grammar.
        ConfigError: The name is taken or too long, or the folder exists or cannot be made.
    """
    check_name(name)
    name = name.removeprefix("kexue-")
    dist = f"kexue-{name}"
    package = dist.replace("-", "_")
    if len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{name!r} has {len(name)} characters", hint=f"Choose at most {LONGEST_NAME}"
        )
    _check_free(name, kind, dist)
    _check_importable(dist, package)
    folder = directory / dist
    # A link to nothing does not exist, and yet no folder can be made in its place.
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} exists already", hint="Choose another name, or --dir")
    summary, modules = KINDS[kind]
    words = name.split("-")
    cls = "".join(word.capitalize() for word in words)
    function = re.sub(r"^(?=\d)", "sample_", "_".join(words))
    values = {
        "dist": dist,
        "package": package,
        "name": name,
        # A class or function cannot begin with a digit: `3d-net` gives Net3d no better name.
        "cls": _own(cls if cls[0].isalpha() else f"Model{cls}", kind, kind.capitalize()),
        "function": _own(function, kind, f"_{kind}"),
        "summary": summary,
    }
    files = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": f"{kind}/README.md",
        ".gitignore": "common/gitignore",
        ".github/workflows/test.yml": "common/workflow.yml",
        "tests/test_conformance.py": "common/test_conformance.py",
        f"{package}/__init__.py": "common/__init__.py",
        **{f"{package}/{module}.py": f"{kind}/{module}.py" for module in modules},
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{directory} is no folder", hint="Choose another --dir") from None
    # Written beside its place and moved there when whole: what an interruption left would bar the
    # next try.
    with tempfile.TemporaryDirectory(prefix=f".{dist}-", dir=directory) as scratch:
        unfinished = Path(scratch) / dist
        for target, source in files.items():
            path = unfinished / target
            path.parent.mkdir(parents=True, exist_ok=True)
            text = Template(_template(source)).substitute(values)
            path.write_text(text, encoding="utf-8", newline="\n")
        (unfinished / package / "py.typed").touch()
        unfinished.rename(folder)
    return folder


def _template(source: str) -> str:
    return (TEMPLATES / f"{source}.tmpl").read_text(encoding="utf-8")


def _own(identifier: str, kind: Kind, suffix: str) -> str:
    """``identifier``, with the suffix where it would hide something that the code needs."""
    taken = keyword.iskeyword(identifier) or hasattr(builtins, identifier)
    return identifier + suffix if taken or identifier in _identifiers(kind) else identifier


@functools.cache
def _identifiers(kind: Kind) -> frozenset[str]:
    """Every identifier in the templates of a kind's modules."""
    found: set[str] = set()
    for module in KINDS[kind][1]:
        text = Template(_template(f"{kind}/{module}.py")).substitute(defaultdict(lambda: "_"))
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        found |= {token.string for token in tokens if token.type == tokenize.NAME}
    return frozenset(found)


def _check_importable(dist: str, package: str) -> None:
    """Refuse a package that would overwrite a module which something else installed."""
    found = importlib.util.find_spec(package)  # of a top-level name: imports nothing
    # A folder without an origin is what an uninstalled package left behind.
    if found is not None and found.origin is not None:
        raise ConfigError(
            f"{dist} would overwrite the module {package}, which exists in {found.origin}",
            hint="Choose another name",
        )


def _check_free(name: str, kind: str, dist: str) -> None:
    """Refuse names that would fail the kit's own check."""
    if dist in {normalize(plugin) for plugin in load_registry().plugins} | {"kexue"}:
        raise ConfigError(f"{dist} is a plugin of kexue itself", hint="Choose another name")
    if discover().record(dist) is not None:
        raise ConfigError(f"{dist} is installed already", hint="Choose another name")
    kinds = (kind, "recipe") if kind == "model" else (kind,)
    for declared in discover().declared():
        if declared.spec.kind in kinds and name in (declared.spec.name, *declared.spec.aliases):
            raise ConfigError(
                f"{declared.distribution} declares a {declared.spec.kind} {name!r} already",
                hint="Choose another name",
            )
