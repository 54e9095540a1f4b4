"""Plain values in and out of the frozen dataclasses that configure models and recipes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kexue_core.errors import ConfigError
from kexue_core.names import did_you_mean

__all__ = ["build_config", "parse_pairs", "parse_settings"]


def build_config(config_class: type[Any], values: Mapping[str, Any]) -> Any:
    """Make a config dataclass from plain values; lists become tuples, unknown keys are refused.

    Raises:
        ConfigError: Unknown or missing keys, or values that the class itself refuses.
    """
    known = {f.name for f in fields(config_class) if f.init}
    unknown = sorted(set(values) - known)
    if unknown:
        suggestion = did_you_mean(unknown[0], known)
        raise ConfigError(
            f"{config_class.__name__} has no {', '.join(unknown)}",
            hint=(f"{suggestion} " if suggestion else "") + f"It takes {', '.join(sorted(known))}",
        )
    types = _types(config_class)
    for key, value in values.items():
        if not _fits(types.get(key), value):
            wanted = _described(types[key])
            raise ConfigError(
                f"{config_class.__name__}: {key} must be {wanted}, not {value!r:.60}",
                hint="Correct the value",
            )
    try:
        return config_class(**{k: _tuples(v) for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config_class.__name__}: {error}", hint="Correct the values") from error


def _types(config_class: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(config_class)
    except NameError:  # an annotation that only type checkers can read
        return {}


def _fits(kind: Any, value: Any) -> bool:
    """Whether a plain value is of an annotated type; types that are not plain are not judged."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(option, value) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (tuple, list, Sequence):
        return isinstance(value, list | tuple)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str, NoneType):
        return isinstance(value, kind)
    return True


def _described(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_described(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (tuple, list, Sequence):
        return "a list"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, "None" if kind is NoneType else str(kind))


def _tuples(value: Any) -> Any:
    """JSON knows only lists; a frozen config holds tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def parse_settings(config_class: type[Any], settings: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` settings of a config dataclass, each as the type of its field.

    Numbers are written as in Python (``1e-4``, ``10_000``), booleans as ``true`` or ``false``,
    ``none`` where a field allows it, tuples with commas (``widths=64,128``).

    Returns:
        Values by name, for :func:`build_config` or ``dataclasses.replace``.

    Raises:
        ConfigError: No ``=``, an unknown key (the known ones are listed), or a value that does not
            read as the field's type.
    """
    types = get_type_hints(config_class)
    known = {f.name: types[f.name] for f in fields(config_class) if f.init}
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise ConfigError(f"{setting!r} is no setting", hint="Write --set key=value")
        if key not in known:
            suggestion = did_you_mean(key, known)
            raise ConfigError(
                f"{config_class.__name__} has no {key}",
                hint=(f"{suggestion} " if suggestion else "")
                + f"It takes {', '.join(sorted(known))}",
            )
        try:
            values[key] = _read(known[key], text.strip())
        except ValueError:
            raise ConfigError(
                f"{key}={text} is no {_type_name(known[key])}",
                hint=f"Write --set {key}={_EXAMPLES.get(known[key], 'value')}",
            ) from None
    return values


def parse_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """``("steps=60", "noise=0.01")`` -> ``{"steps": 60, "noise": 0.01}``, where no types are known.

    Values are read as JSON where they are JSON (numbers, true, null, lists), else as text.

    Raises:
        ConfigError: A pair without ``=``, or a name given twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not separator or not key:
            raise ConfigError(f"{pair!r} is not of the form KEY=VALUE")
        if key in options:
            raise ConfigError(f"{key} is given twice")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


_EXAMPLES: dict[Any, str] = {int: "1000", float: "1e-4", bool: "true"}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _read(kind: Any, text: str) -> Any:
    """``text`` as a value of the annotated type ``kind``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if NoneType in arguments and text.lower() in ("none", "null"):
            return None
        for option in arguments:
            if option is not NoneType:
                try:
                    return _read(option, text)
                except ValueError:
                    continue
        raise ValueError(text)
    if origin is Literal:
        for option in arguments:
            if str(option) == text:
                return option
        raise ValueError(text)
    if origin in (tuple, list, Sequence):
        items = [item.strip() for item in text.strip("()[]").split(",") if item.strip()]
        if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            if len(items) != len(arguments):
                raise ValueError(text)
            return tuple(_read(a, item) for a, item in zip(arguments, items, strict=True))
        return tuple(_read(arguments[0], item) for item in items)
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise ValueError(text)
        return _TRUTH[text.lower()]
    if kind is int:
        return int(text)
    if kind is float:
        return float(text)
    if kind is str:
        return text
    raise ValueError(text)


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return {int: "whole number", float: "number", bool: "true or false"}.get(
        kind, str(getattr(kind, "__name__", kind))
    )
