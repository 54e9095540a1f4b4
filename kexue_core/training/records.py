"""One measured number with everything needed to measure it again."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from kexue_core.errors import DataError

__all__ = [
    "ResultRecord",
    "append_records",
    "command_line",
    "conditions",
    "device_name",
    "read_records",
    "versions",
]


#: What a record need not say.
_OPTIONAL = {"floor", "settings"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """A result as registry.yaml, results.jsonl and model cards hold it.

    Attributes:
        metric: What was measured, such as ``bits_per_dim``.
        value: The number.
        dataset: Name of the data.
        split: ``train``, ``val`` or ``test``.
        n: Samples it was measured on.
        seed: Seed of the measurement, or of the run that measured.
        command: The command line that gives it again.
        weights: sha256 of ``model.safetensors``, the published (rounded) file.
        versions: Distribution -> version.
        device: What it ran on.
        floor: What real data get in place of samples, at the same n: a figure of samples is read
            beside it. ``None`` where there is no such thing.
        settings: Whatever else the number depends on: steps, temperature, fingerprint of the data.
    """

    metric: str
    value: float
    dataset: str
    split: str
    n: int
    seed: int
    command: str
    weights: str
    versions: Mapping[str, str]
    device: str
    floor: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML; ``floor`` and ``settings`` only where there are."""
        plain = asdict(self)
        return {k: v for k, v in plain.items() if k not in _OPTIONAL or v not in (None, {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ResultRecord:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: Keys are missing or unknown, or value or floor is no finite number.
        """
        known = {f.name for f in fields(cls)}
        missing = sorted(known - _OPTIONAL - set(values))
        unknown = sorted(set(values) - known)
        if missing or unknown:
            raise DataError(
                "A result record "
                + (f"lacks {', '.join(missing)}" if missing else f"has no {', '.join(unknown)}"),
                hint=f"It holds {', '.join(sorted(known))}",
            )
        for key in ("value", "floor") if "floor" in values else ("value",):
            value = values[key]
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not math.isfinite(value)
            ):
                what = values["metric"] if key == "value" else f"{values['metric']}'s floor"
                raise DataError(f"The result {what} is {value!r}, no finite number")
        return cls(**values)


def conditions(settings: Mapping[str, Any], *, digits: int = 64) -> str:
    """What a figure of samples must not be quoted without: how they were drawn, whose features.

    Args:
        settings: Of a record: ``sampler`` with its ``options``, ``features`` as ``name@sha256``.
        digits: How many of the hash are written.

    Returns:
        ``latent-prior(temperature=0.7), features of classifier-fashion@fbb8...``; empty where
        neither is known.
    """
    parts = []
    if sampler := settings.get("sampler"):
        given = (settings.get("options") or {}).items()
        parts.append(f"{sampler}({', '.join(f'{k}={v}' for k, v in given if v is not None)})")
    if features := settings.get("features"):
        name, at, digest = str(features).partition("@")
        parts.append(f"features of {name}{at}{digest[:digits]}")
    return ", ".join(parts)


def command_line(verb: str, name: str, options: Mapping[str, Any]) -> str:
    """A command of kexue as records keep it: with nothing of this machine's folders.

    Args:
        verb: ``train`` or ``eval``.
        name: What it is applied to.
        options: Option -> value; ``None`` and ``()`` are left out, a tuple repeats the option.
            Of a path that exists here only the last part is kept.
    """
    words = ["kexue", verb, _last_part(name)]
    for option, value in options.items():
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None:
                words += [f"--{option}", _last_part(str(one))]
    return shlex.join(words)


def _last_part(text: str) -> str:
    prefix, path = ("file:", text[5:]) if text.startswith("file:") else ("", text)
    looks = prefix or Path(path).is_absolute() or path.startswith((".", "~"))
    if looks or Path(path).exists():
        return prefix + (Path(path).expanduser().resolve().name or path)
    return text


def versions(*distributions: str) -> dict[str, str]:
    """Versions of Python, torch, the core and ``distributions``, as installed."""
    import torch

    from kexue_core import __version__

    found = {"python": platform.python_version(), "torch": torch.__version__, "kexue": __version__}
    for name in distributions:
        if name not in found:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "not installed"
    return found


def device_name(device: Any) -> str:
    """What a device is, in words: the GPU's or the processor's name."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((x.partition(":")[2].strip() for x in lines if "model name" in x), model)
    return f"{torch.device(device).type}: {model}, {torch.get_num_threads()} threads"


def append_records(path: Path, records: list[ResultRecord]) -> None:
    """Append records to a ``.jsonl`` file, one a line, all of them or none.

    Raises:
        DataError: The file cannot be written.
    """
    lines = "".join(json.dumps(r.to_dict(), ensure_ascii=False) + "\n" for r in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def read_records(path: Path) -> list[ResultRecord]:
    """Read what :func:`append_records` wrote; an absent file holds none.

    Raises:
        DataError: A line is no record.
    """
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            records.append(ResultRecord.from_dict(json.loads(line.decode("utf-8"))))
        except (ValueError, AttributeError, TypeError, DataError) as error:
            raise DataError(f"{path}, line {number}: {error}", hint="Remove the line") from error
    return records
