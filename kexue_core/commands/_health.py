"""The checks of ``kexue doctor``, as plain values. None imports torch: a child process does."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kexue_core import __version__
from kexue_core.commands._verbs import foreign_verbs
from kexue_core.errors import KexueError, RegistryError
from kexue_core.names import normalize
from kexue_core.plugins import discover

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

__all__ = ["SECTIONS", "Check", "examine"]

SECTIONS = ("versions", "devices", "plugins", "verbs", "registry", "mirrors", "cache")

#: Seconds that torch may take to import and to find devices; a cold disk needs 20.
TIMEOUT = 60.0

#: What the core needs, or does more with: distribution -> what it is for if it may be missing.
DISTRIBUTIONS = {
    **{"click": None, "pluggy": None, "PyYAML": None, "rich": None, "packaging": None},
    **{"safetensors": None, "huggingface-hub": None},
    "torch": "to use and train models",
    "numpy": "to use models",
    "pillow": "to read and write images",
    "accelerate": "to train",
    "datasets": "to train on data sets of the Hub",
    "tensorboard": "to watch training",
}


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        section: What it belongs to, such as ``plugins``.
        name: What was looked at.
        state: ``ok``, ``warning`` (works, worth knowing) or ``broken``.
        detail: What was found.
        fix: What to do about it; empty where nothing is to be done.
    """

    section: str
    name: str
    state: Literal["ok", "warning", "broken"]
    detail: str
    fix: str = ""


def examine(sections: Collection[str] = SECTIONS) -> Iterator[Check]:
    """Look at sections. A check that fails itself is reported as broken; the others go on."""
    looks: dict[str, Callable[[], Iterator[Check]]] = {
        "versions": _versions,
        "devices": _devices,
        "plugins": _plugins,
        "verbs": _verbs,
        "registry": _registry,
        "mirrors": _mirrors,
        "cache": _cache,
    }
    for section, look in looks.items():
        if section not in sections:
            continue
        try:
            yield from look()
        except (KexueError, OSError) as error:
            hint = getattr(error, "hint", None) or ""
            yield Check(section, section, "broken", getattr(error, "message", str(error)), hint)


def _versions() -> Iterator[Check]:
    yield Check("versions", "kexue", "ok", __version__)
    yield Check("versions", "python", "ok", f"{platform.python_version()} ({sys.executable})")
    ranges = _required()
    for name, purpose in DISTRIBUTIONS.items():
        try:
            version = metadata.version(name)
            needed = ranges.get(normalize(name))
            if needed is None or needed.contains(version, prereleases=True):
                yield Check("versions", name, "ok", version)
            else:
                yield Check(
                    "versions",
                    name,
                    "broken",
                    f"{version}, and kexue {__version__} needs {needed}",
                    f"pip install '{name}{needed}'",
                )
        except metadata.PackageNotFoundError:
            state: Literal["warning", "broken"] = "warning" if purpose else "broken"
            wanted = f"not installed; needed {purpose}" if purpose else "not installed"
            extra = "[train]" if purpose and "train" in purpose and name != "torch" else "[torch]"
            yield Check(
                "versions", name, state, wanted, f"pip install 'kexue{extra if purpose else ''}'"
            )


def _required() -> dict[str, SpecifierSet]:
    """Versions that the installed core asks for, with those of its extras, by canonical name."""
    from packaging.requirements import InvalidRequirement, Requirement

    found: dict[str, SpecifierSet] = {}
    for line in metadata.requires("kexue") or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # pip would have refused it: not what was asked here
        name = normalize(requirement.name)
        found[name] = (
            found[name] & requirement.specifier if name in found else (requirement.specifier)
        )
    return found


def _devices() -> Iterator[Check]:
    try:
        metadata.version("torch")
    except metadata.PackageNotFoundError:
        return  # said under versions
    try:
        answer = _ask_child("devices")
    except subprocess.TimeoutExpired:
        # A loaded machine is no broken torch, and another try costs nothing.
        yield Check(
            "devices",
            "torch",
            "warning",
            f"no answer within {TIMEOUT:g} s: the machine is busy, or its disk slow",
            "Run `kexue doctor devices` again when it is idle",
        )
        return
    if isinstance(answer, str):
        yield Check(
            "devices", "torch", "broken", answer, "Reinstall torch: see https://pytorch.org"
        )
        return
    for device in answer["devices"]:
        detail = device["name"] if device["works"] else f"{device['name']}: {device['trouble']}"
        fix = "" if device["works"] else "Install a torch built for it, or use --device cpu"
        state: Literal["ok", "warning"] = "ok" if device["works"] else "warning"
        yield Check("devices", device["device"], state, detail, fix)


def _plugins() -> Iterator[Check]:
    plugins = discover()
    for record in plugins:
        if not record.problems:
            detail = f"{record.version}, declares {len(record.specs)}, {record.seconds:.2f} s"
            yield Check("plugins", record.distribution, "ok", detail)
        for problem in record.problems:
            # Slow ones count too: they make every command slow, and someone has to be told.
            yield Check("plugins", record.distribution, "broken", problem.cause, problem.fix)
    for (kind, name), found in plugins.conflicts().items():
        forms = " or ".join(f"{d.distribution}::{name}" for d in found)
        owners = " and ".join(d.distribution for d in found)
        yield Check(
            "plugins", f"{kind} {name}", "warning", f"declared by {owners}", f"Write {forms}"
        )


def _verbs() -> Iterator[Check]:
    verbs = foreign_verbs()
    for verb in verbs:
        if verb.problem is not None:
            yield Check(
                "verbs",
                verb.name,
                "broken",
                f"{verb.distribution} {verb.problem}; it is ignored",
                f"Ask its author to rename it, or uninstall {verb.distribution}",
            )
    if all(verb.problem is not None for verb in verbs):
        return
    try:
        answer = _ask_child("verbs")
    except subprocess.TimeoutExpired:
        yield Check(
            "verbs",
            "of other distributions",
            "warning",
            f"no answer within {TIMEOUT:g} s: the machine is busy, or an import never ends",
            "Run `kexue doctor verbs` again when it is idle",
        )
        return
    if isinstance(answer, str):
        yield Check("verbs", "of other distributions", "broken", answer, "Uninstall the culprit")
        return
    for verb in verbs:
        if verb.problem is None:
            trouble = answer.get(verb.name)
            yield Check(
                "verbs",
                verb.name,
                "broken" if trouble else "ok",
                trouble or f"of {verb.distribution}",
                f"Update {verb.distribution} or uninstall it" if trouble else "",
            )


def _registry() -> Iterator[Check]:
    from kexue_core.registry import CORE_REGISTRY, load_registry

    registry = load_registry()
    origins = {CORE_REGISTRY, *(entry.origin for entry in registry.weights)}
    if named := os.environ.get("KEXUE_REGISTRY"):
        origins = (origins - {CORE_REGISTRY}) | {Path(named)}
    for origin in sorted(origins):
        count = sum(entry.origin == origin for entry in registry.weights)
        yield Check("registry", str(origin), "ok", f"{count} weights")
    for problem in registry.problems:
        yield Check("registry", problem.entry, "broken", problem.cause, problem.fix)


def _mirrors() -> Iterator[Check]:
    from kexue_core.hub.mirrors import split_mirrors
    from kexue_core.registry import MIRROR_MARKER, load_registry

    try:
        entries = load_registry().weights
    except RegistryError:
        entries = ()  # said under registry
    named = split_mirrors(os.environ.get("KEXUE_MIRROR", ""))
    listed = [m for entry in entries for m in entry.mirrors]
    for mirror in dict.fromkeys([*named, *listed]):
        if "://" in mirror:
            yield Check("mirrors", mirror, "ok", "by network; not asked")
            continue
        folder = Path(mirror).expanduser()
        if (folder / MIRROR_MARKER).is_file():
            count = sum(path.is_dir() for path in folder.iterdir())
            yield Check("mirrors", mirror, "ok", f"{count} folders of weights")
        elif mirror in named:
            lacks = f"has no {MIRROR_MARKER}" if folder.is_dir() else "is no folder"
            yield Check("mirrors", mirror, "broken", lacks, "Correct KEXUE_MIRROR or unset it")
        else:
            # An installed wheel has none beside it: nothing to mend.
            yield Check("mirrors", mirror, "ok", "not on this machine")


def _cache() -> Iterator[Check]:
    from kexue_core.commands._cache_health import examine_cache

    for found in examine_cache():
        yield Check("cache", *found)


def _ask_child(question: str) -> Any:
    """The answer of :mod:`._probe`, or a line that says why there is none.

    Raises:
        subprocess.TimeoutExpired: It takes too long.
    """
    import json

    variables = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-m", "kexue_core.commands._probe", question],
        env=variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return f"cannot be asked: {last[:200]}"
