"""What a plugin declares: frozen dataclasses, standard library only.

A spec names its factory by import string (``"kexue_flow.glow:Glow"``), so that listing what is
installed imports none of the heavy modules behind it. Everything is checked when the spec is made:
a plugin that declares nonsense fails alone, while it declares it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from kexue_core.errors import InvalidReferenceError, InvalidSpecError, PluginError
from kexue_core.names import check_name

__all__ = [
    "CAPABILITIES",
    "KINDS",
    "VERBS",
    "AdapterSpec",
    "LossSpec",
    "ModelSpec",
    "Option",
    "RecipeSpec",
    "SamplerSpec",
    "Spec",
    "import_object",
]

#: Capability -> the verbs that it makes possible. Their Protocols: :mod:`kexue_core.interfaces`.
CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "latent": ("sample", "reconstruct", "interpolate"),
    "generator": ("sample", "interpolate"),
    "density": ("score",),
    "energy": ("sample", "score"),
    "codes": ("reconstruct",),
    "code-prior": ("sample",),
    "text-encoder": ("embed", "similar"),
    "rewriter": ("rewrite",),
    "extractor": ("extract",),
    "classifier": ("classify",),
}

#: Every verb, in the order in which tables show them.
VERBS: tuple[str, ...] = tuple(dict.fromkeys(v for verbs in CAPABILITIES.values() for v in verbs))

_IMPORT_STRING = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What every declaration carries.

    Attributes:
        name: Lower-case words joined by hyphens; unique within its kind and distribution.
        factory: Import string ``module:attribute`` of what builds the thing.
        summary: One line for tables.
        post: Number of the kexue.fm post it implements, or ``None``.
        papers: arXiv identifiers.
        aliases: Former or alternative names, which go on working.
        deprecated: What to use instead; a deprecated spec is hidden from tables and loads with a
            warning.
    """

    name: str
    factory: str
    summary: str = ""
    post: int | None = None
    papers: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    deprecated: str | None = None

    def __post_init__(self) -> None:
        where = f"{type(self).__name__} {self.name!r}"
        for name in (self.name, *_names(self.aliases, f"{where}: aliases")):
            _check_name(name, where)
        _check_import_string(self.factory, f"{where}: factory")
        _names(self.papers, f"{where}: papers")
        _check_line(self.summary, f"{where}: summary")
        if self.deprecated is not None:
            _check_line(self.deprecated, f"{where}: deprecated")
        if self.post is not None and (
            not isinstance(self.post, int) or isinstance(self.post, bool)
        ):
            raise InvalidSpecError(f"{where}: post must be a number such as 5807")

    @property
    def kind(self) -> str:
        """``model``, ``loss``, ``sampler``, ``recipe`` or ``adapter``."""
        return type(self).__name__.removesuffix("Spec").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Spec):
    """An architecture.

    Attributes:
        factory: The class; called with one instance of ``config``. It keeps it as ``self.config``.
        config: Import string of its frozen dataclass.
        capabilities: Keys of :data:`CAPABILITIES`; the conformance kit checks each.
        tiny: Arguments of ``config`` for a model that builds and runs in well under a second.
        example_input: Import string of ``f(model, n, generator) -> input``: *n* valid inputs.
        float32: Globs over state-dict keys that publishing never rounds to float16.
        bound: Whether ``log_prob`` of a ``density`` is a lower bound (a VAE's) and not exact.
    """

    config: str
    capabilities: tuple[str, ...] = ()
    tiny: Mapping[str, Any] = field(default_factory=dict)
    example_input: str | None = None
    float32: tuple[str, ...] = ()
    bound: bool = False

    def __post_init__(self) -> None:
        super(ModelSpec, self).__post_init__()
        where = f"ModelSpec {self.name!r}"
        _check_import_string(self.config, f"{where}: config")
        if self.example_input is not None:
            _check_import_string(self.example_input, f"{where}: example_input")
        for capability in _names(self.capabilities, f"{where}: capabilities"):
            if capability not in CAPABILITIES:
                raise InvalidSpecError(
                    f"{where}: unknown capability {capability!r}",
                    hint=f"Choose from {', '.join(CAPABILITIES)}",
                )
        _names(self.float32, f"{where}: float32")
        if not isinstance(self.tiny, Mapping):
            raise InvalidSpecError(f"{where}: tiny must be a mapping of config arguments")
        _check_flag(self.bound, f"{where}: bound")
        if self.bound and "density" not in self.capabilities:
            raise InvalidSpecError(
                f"{where}: bound says something of a density that is not declared",
                hint="Add 'density' to capabilities, or leave bound out",
            )

    @property
    def verbs(self) -> tuple[str, ...]:
        """What the command line can do with weights of this model."""
        able = {verb for c in self.capabilities for verb in CAPABILITIES[c]}
        return tuple(verb for verb in VERBS if verb in able)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSpec(Spec):
    """A loss.

    Attributes:
        factory: Called with options, returns the callable loss (an ``nn.Module`` as a rule).
        example: Import string of ``f(generator) -> args`` giving a tuple of arguments to call the
            loss with: losses differ too much (input and target, model and batch, critic with real
            and fake) for one signature.
        stop_gradient: Whether it holds arguments constant on purpose, so that its gradient is not
            the derivative of its value (a commitment loss).
    """

    example: str
    stop_gradient: bool = False

    def __post_init__(self) -> None:
        super(LossSpec, self).__post_init__()
        where = f"LossSpec {self.name!r}"
        _check_import_string(self.example, f"{where}: example")
        _check_flag(self.stop_gradient, f"{where}: stop_gradient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a sampler: its default says its type.

    Attributes:
        default: Used when the caller and the weights' config say nothing.
        help: One line, with the unit and range.
    """

    default: float | int | bool | str | None
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec(Spec):
    """A sampler: ``sampler(model, n, *, generator, **options) -> Tensor``.

    Attributes:
        factory: Import string of that function.
        needs: Capabilities of which the model must have at least one.
        options: Name -> :class:`Option`.
        targets_density: Whether it draws from the model's own density, so that its moments on a
            Gaussian can be checked against the exact ones.
        tiny: Options with which the conformance kit runs it: quick, and for ``targets_density``
            accurate on a Gaussian in the plane with deviations of 0.08 and 0.12.
        example: Import string of ``f() -> model``, for where the kit's Gaussian will not do.
    """

    needs: tuple[str, ...]
    options: Mapping[str, Option] = field(default_factory=dict)
    targets_density: bool = False
    tiny: Mapping[str, Any] = field(default_factory=dict)
    example: str | None = None

    def __post_init__(self) -> None:
        super(SamplerSpec, self).__post_init__()
        where = f"SamplerSpec {self.name!r}"
        for capability in _names(self.needs, f"{where}: needs"):
            if capability not in CAPABILITIES:
                raise InvalidSpecError(
                    f"{where}: needs the unknown capability {capability!r}",
                    hint=f"Choose from {', '.join(CAPABILITIES)}",
                )
        if not isinstance(self.options, Mapping) or not all(
            isinstance(option, Option) for option in self.options.values()
        ):
            raise InvalidSpecError(f"{where}: options must map names to Option(default=, help=)")
        for name, option in self.options.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise InvalidSpecError(f"{where}: {name!r} names no argument of a function")
            _check_line(option.help, f"{where}: help of {name}")
            if not isinstance(option.default, (float, int, str, NoneType)):
                raise InvalidSpecError(
                    f"{where}: the default of {name} must be a number, a text, True, False or None"
                )
        _check_flag(self.targets_density, f"{where}: targets_density")
        if not isinstance(self.tiny, Mapping):
            raise InvalidSpecError(f"{where}: tiny must be a mapping of its options to values")
        for name in self.tiny:
            if name not in self.options:
                raise InvalidSpecError(f"{where}: tiny sets {name!r}, which is none of options")
        if self.example is not None:
            _check_import_string(self.example, f"{where}: example")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSpec(Spec):
    """How weights are trained.

    Attributes:
        factory: A :class:`kexue_core.training.Recipe` subclass.
        model: Name of the model it trains, declared by the same distribution.
        data: Name of a public data set on the Hub, so that a stranger can run the recipe.
        weights: Name that the weights are published under, ``None`` for the recipe's own. Several
            recipes may train the same weights at several sizes.
    """

    model: str
    data: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        super(RecipeSpec, self).__post_init__()
        where = f"RecipeSpec {self.name!r}"
        _check_name(self.model, f"{where}: model")
        if self.weights is not None:
            _check_name(self.weights, f"{where}: weights")
        if self.data is not None:
            _check_line(self.data, f"{where}: data")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec(Spec):
    """A reader of foreign checkpoints.

    Attributes:
        factory: ``f(tensors, config) -> (state dict, config)`` of kexue's model.
        model: Name of the model it feeds, declared by the same distribution.
        formats: What it reads, such as ``tensorflow`` or ``pickle``.
    """

    model: str
    formats: tuple[str, ...]

    def __post_init__(self) -> None:
        super(AdapterSpec, self).__post_init__()
        where = f"AdapterSpec {self.name!r}"
        _check_name(self.model, f"{where}: model")
        _names(self.formats, f"{where}: formats")


#: The five kinds of things a plugin can declare.
KINDS: tuple[str, ...] = ("model", "loss", "sampler", "recipe", "adapter")


def import_object(path: str) -> Any:
    """Import what ``"module:attribute"`` names.

    Raises:
        PluginError: The module does not import, or has no such attribute.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        missing = getattr(error, "name", None)
        raise PluginError(
            f"{path} cannot be imported: {error}",
            hint=f"Install what it needs: pip install {missing}"
            if missing
            else "See `kexue doctor`",
        ) from error
    except AttributeError as error:
        raise PluginError(
            f"{path} does not exist: {error}", hint="Correct the import string in the plugin's spec"
        ) from error
    except Exception as error:  # a module may do anything while it is imported
        raise PluginError(
            f"{path} cannot be imported: {type(error).__name__}: {error}",
            hint="--debug shows where; tell the plugin's author",
        ) from error
    return found


def _names(values: object, where: str) -> Iterable[str]:
    if not isinstance(values, tuple) or not all(isinstance(v, str) for v in values):
        raise InvalidSpecError(f"{where} must be a tuple of strings, not {values!r}")
    return values


def _check_name(name: object, where: str) -> None:
    try:
        check_name(name)
    except InvalidReferenceError as error:
        raise InvalidSpecError(f"{where}: {error.message}", hint=error.hint) from None


def _check_line(text: object, where: str) -> None:
    if not isinstance(text, str) or len(text.splitlines()) > 1:
        raise InvalidSpecError(f"{where} must be one line of text")


def _check_flag(flag: object, where: str) -> None:
    if not isinstance(flag, bool):
        raise InvalidSpecError(f"{where} must be True or False")


def _check_import_string(path: object, where: str) -> None:
    if not isinstance(path, str) or not _IMPORT_STRING.fullmatch(path):
        raise InvalidSpecError(
            f"{where} must be an import string such as 'kexue_flow.glow:Glow', not {path!r}"
        )
