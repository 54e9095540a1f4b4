"""Which sampler draws from a model, and with which options. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kexue_core.errors import ConfigError, UnsupportedError
from kexue_core.names import did_you_mean
from kexue_core.plugins import discover
from kexue_core.specs import ModelSpec, SamplerSpec, Spec

__all__ = ["check_options", "choose_sampler"]

_KINDS = {float: "a number", int: "a whole number", bool: "True or False", str: "text"}


def choose_sampler(name: str | None, model: ModelSpec, distribution: str) -> SamplerSpec:
    """The sampler of a name, or the first that fits the model.

    Args:
        name: Name or alias; ``None`` for the first that fits: of the model's own plugin, of the
            core, then of others.
        model: What the model declares.
        distribution: The plugin that declares it.

    Raises:
        UnsupportedError: None fits, or the one named does not.
        NotFoundError: There is none of that name.
    """
    able = [d for d in discover().declared("sampler") if _fits(d.spec, model)]
    # Own plugin, core, others: no third party's sampler becomes the default of another's model.
    able.sort(key=lambda d: (d.distribution != distribution, d.distribution != "kexue"))
    if name is None:
        found = next((d.spec for d in able if not d.spec.deprecated), None)
        if found is None:
            raise UnsupportedError(
                f"No installed sampler can draw from {model.name}, which can "
                + (", ".join(model.verbs) or "do nothing that verbs know"),
                hint="`kexue list --kind sampler` shows what samplers need",
            )
    else:
        meant = [d.spec for d in able if name in (d.spec.name, *d.spec.aliases)]
        found = meant[0] if meant else discover().find("sampler", name).spec
    assert isinstance(found, SamplerSpec)
    if not _fits(found, model):
        raise UnsupportedError(
            f"The sampler {found.name} needs {' or '.join(found.needs)}, "
            f"and {model.name} has {', '.join(model.capabilities) or 'no capability'}",
            hint="Leave the sampler out, or choose from "
            + (", ".join(d.spec.name for d in able) or "none"),
        )
    return found


def _fits(sampler: Spec, model: ModelSpec) -> bool:
    return isinstance(sampler, SamplerSpec) and not set(sampler.needs).isdisjoint(
        model.capabilities
    )


def check_options(
    sampler: SamplerSpec, options: Mapping[str, Any], *, where: str = ""
) -> dict[str, Any]:
    """Options of a sampler, their names known and their values of the default's type.

    Args:
        sampler: The sampler.
        options: Name -> value; a whole number is admitted for a float.
        where: Begins the message: where the options were written.

    Raises:
        ConfigError: An option is unknown or of another type.
    """
    checked = {}
    for name, value in options.items():
        if name not in sampler.options:
            suggestion = did_you_mean(name, sampler.options)
            valid = ", ".join(sampler.options) or "none"
            raise ConfigError(
                f"{where}{sampler.name} has no option {name!r}",
                hint=f"{f'{suggestion} ' if suggestion else ''}Its options are {valid}",
            )
        default = sampler.options[name].default
        if type(default) is float and type(value) is int:
            value = float(value)  # noqa: PLW2901 - 1 means 1.0
        if default is not None and type(value) is not type(default):
            raise ConfigError(
                f"{where}{name} must be {_KINDS[type(default)]} such as {default!r}, not {value!r}",
                hint=sampler.options[name].help,
            )
        checked[name] = value
    return checked
