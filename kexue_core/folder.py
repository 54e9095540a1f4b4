"""A folder of weights: what its ``config.json`` says.

::

    config.json         what to build, how to prepare its input, how to sample from it
    model.safetensors   the tensors
    README.md           the model card; a vocabulary and the like may lie beside it

Importing this module costs no torch: tables and checks read configs too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kexue_core.errors import InvalidReferenceError, WeightsFormatError
from kexue_core.names import check_name, normalize
from kexue_core.strict_json import parse_json

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "FORMAT",
    "WEIGHTS_FILE",
    "SamplerChoice",
    "WeightsConfig",
]

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"

# Larger than any real config by three orders of magnitude.
_MAX_BYTES = 1_000_000

_SHA256 = re.compile("[0-9a-f]{64}")

_KEYS = ("format", "model", "plugin", "config", "preprocess", "sampler", "requires", "sha256")


class SamplerChoice(NamedTuple):
    """The sampler that suits the weights, and the options that differ from its defaults."""

    name: str
    options: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsConfig:
    """The content of ``config.json``, checked when it is made.

    Attributes:
        model: Name of the model.
        plugin: Distribution that declares it, normalised.
        config: Arguments of the model's config dataclass, as JSON has them (lists, not tuples).
        preprocess: How raw data becomes the model's input: modality, size, range, crop.
        sampler: Default sampler and its options, or ``None``.
        requires: References of weights that these cannot work without.
        sha256: Of ``model.safetensors`` as it was saved, in hex, or ``None`` where nobody noted it.

    Raises:
        WeightsFormatError: A field is not what it should be.
    """

    model: str
    plugin: str
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    sampler: SamplerChoice | None = None
    requires: tuple[str, ...] = ()
    sha256: str | None = None

    def __post_init__(self) -> None:
        _name(self.model, "model")
        if not isinstance(self.plugin, str):
            raise WeightsFormatError(f"plugin must be a distribution's name, not {self.plugin!r}")
        object.__setattr__(self, "plugin", normalize(self.plugin))
        _name(self.plugin, "plugin")
        for name in ("config", "preprocess"):
            _mapping(getattr(self, name), name)
        if self.sampler is not None:
            choice = SamplerChoice(*self.sampler)
            _name(choice.name, "sampler: name")
            _mapping(choice.options, "sampler: options")
            object.__setattr__(self, "sampler", choice)
        if not isinstance(self.requires, tuple) or not all(
            isinstance(r, str) for r in self.requires
        ):
            raise WeightsFormatError(f"requires must be a list of names, not {self.requires!r:.80}")
        if self.sha256 is not None and not (
            isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)
        ):
            raise WeightsFormatError(f"sha256 must be 64 hex digits, not {self.sha256!r:.80}")

    @classmethod
    def read(cls, folder: Path) -> WeightsConfig:
        """Read ``config.json`` of a folder.

        Raises:
            WeightsFormatError: The file is missing, is no strict JSON, has a key that this version
                does not know, or a newer ``format``.
        """
        path = folder / CONFIG_FILE
        try:
            with path.open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            raise WeightsFormatError(
                f"{folder} holds no {CONFIG_FILE}",
                hint="Name a folder of weights, as kexue.save writes them",
            ) from None
        except OSError as error:
            raise WeightsFormatError(f"{path} cannot be read: {error.strerror}") from error
        if len(raw) > _MAX_BYTES:
            raise WeightsFormatError(f"{path} is larger than {_MAX_BYTES} bytes")
        try:
            content = parse_json(raw)
        except ValueError as error:
            raise WeightsFormatError(f"{path} is no JSON: {error}", hint="Correct it") from error
        try:
            return cls._from_json(content)
        except WeightsFormatError as error:
            raise WeightsFormatError(f"{path}: {error.message}", hint=error.hint) from None

    @classmethod
    def _from_json(cls, content: Any) -> WeightsConfig:
        if not isinstance(content, dict):
            raise WeightsFormatError("it holds no JSON object")
        if "format" not in content:
            raise WeightsFormatError(
                "it has no key 'format', so it is no config of kexue weights",
                hint="Foreign checkpoints are read by `kexue convert`",
            )
        version = content["format"]
        if type(version) is not int or version != FORMAT:
            newer = type(version) is int and version > FORMAT
            raise WeightsFormatError(
                f"it has format {version!r:.40}, this kexue reads {FORMAT}",
                hint="Run `pip install --upgrade kexue`" if newer else f'Write "format": {FORMAT}',
            )
        if unknown := sorted(content.keys() - set(_KEYS)):
            raise WeightsFormatError(
                f"unknown key {', '.join(map(repr, unknown[:5]))}",
                hint=f"The keys are {', '.join(_KEYS)}",
            )
        if missing := [key for key in ("model", "plugin", "config") if key not in content]:
            raise WeightsFormatError(f"the key {missing[0]!r} is missing")
        sampler = content.get("sampler")
        if sampler is not None:
            if not isinstance(sampler, dict) or not {"name"} <= sampler.keys() <= {
                "name",
                "options",
            }:
                raise WeightsFormatError("sampler must be null or hold a name and options")
            sampler = SamplerChoice(sampler["name"], sampler.get("options", {}))
        requires = content.get("requires", [])
        return cls(
            model=content["model"],
            plugin=content["plugin"],
            config=content["config"],
            preprocess=content.get("preprocess", {}),
            sampler=sampler,
            requires=tuple(requires) if isinstance(requires, list) else requires,
            sha256=content.get("sha256"),
        )

    def encode(self) -> bytes:
        """The content of ``config.json``: always the same bytes for the same config."""
        content = {
            "format": FORMAT,
            "model": self.model,
            "plugin": self.plugin,
            "config": dict(self.config),
            "preprocess": dict(self.preprocess),
            "sampler": None
            if self.sampler is None
            else {"name": self.sampler.name, "options": dict(self.sampler.options)},
            "requires": list(self.requires),
            **({} if self.sha256 is None else {"sha256": self.sha256}),
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()

    def write(self, folder: Path) -> Path:
        """Write ``config.json`` into a folder that exists; returns its path."""
        path = folder / CONFIG_FILE
        path.write_bytes(self.encode())
        return path


def _name(value: object, where: str) -> None:
    try:
        check_name(value)
    except InvalidReferenceError as error:
        raise WeightsFormatError(f"{where}: {error.message}", hint=error.hint) from None


def _mapping(value: object, where: str) -> None:
    if not isinstance(value, Mapping):
        raise WeightsFormatError(f"{where} must be a mapping, not {value!r:.80}")
    _plain(value, where)


def _plain(value: object, where: str) -> None:
    """Refuse what JSON would not give back, but for tuples, which come back as lists."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise WeightsFormatError(f"{where}: the key {key!r} is no text")
            _plain(inner, f"{where}: {key}")
    elif isinstance(value, list | tuple):
        for inner in value:
            _plain(inner, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise WeightsFormatError(f"{where} is {value}, which JSON cannot hold")
    elif value is not None and not isinstance(value, bool | int | str):
        raise WeightsFormatError(
            f"{where} is a {type(value).__name__}, which JSON cannot hold",
            hint="Configs hold numbers, text, booleans, None and tuples or mappings of them",
        )
