"""Write a new plugin from the packaged templates: complete, tested, conformant."""

from __future__ import annotations

import re
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
    """Write the plugin ``kexue-<name>`` into ``directory``.

    Args:
        name: What is declared: lower-case words joined by hyphens, such as ``toy-flow``.
        kind: ``model``, ``loss`` or ``sampler``.
        directory: Where the plugin's folder is made; it may not exist yet.

    Returns:
        The plugin's folder.

    Raises:
        InvalidReferenceError: The name is not of the grammar.
        ConfigError: The name is taken or too long, or the folder exists.
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
    folder = directory / dist
    if folder.exists():
        raise ConfigError(f"{folder} exists already", hint="Choose another name, or --dir")
    summary, modules = KINDS[kind]
    words = name.split("-")
    cls = "".join(word.capitalize() for word in words)
    values = {
        "dist": dist,
        "package": package,
        "name": name,
        # A class or function cannot begin with a digit: `3d-net` gives Net3d no better name.
        "cls": cls if cls[0].isalpha() else f"Model{cls}",
        "function": re.sub(r"^(?=\d)", "sample_", "_".join(words)),
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
    for target, source in files.items():
        text = (TEMPLATES / f"{source}.tmpl").read_text(encoding="utf-8")
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(values), encoding="utf-8", newline="\n")
    (folder / package / "py.typed").touch()
    return folder


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
