"""Plain values in and out of the frozen dataclasses that configure models and recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from kexue_core.errors import ConfigError

__all__ = ["build_config"]


def build_config(config_class: type[Any], values: Mapping[str, Any]) -> Any:
    """Make a config dataclass from plain values; lists become tuples, unknown keys are refused.

    Raises:
        ConfigError: Unknown or missing keys, or values that the class itself refuses.
    """
    known = {f.name for f in fields(config_class) if f.init}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"{config_class.__name__} has no {', '.join(unknown)}",
            hint=f"It takes {', '.join(sorted(known))}",
        )
    try:
        return config_class(**{k: _tuples(v) for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config_class.__name__}: {error}") from error


def _tuples(value: Any) -> Any:
    """JSON knows only lists; a frozen config holds tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
