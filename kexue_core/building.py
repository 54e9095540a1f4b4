"""Make a model from its spec: filled as its author wrote it, or empty for weights to come.

Building for real draws every parameter at random only for a checkpoint to overwrite it: most of the
time and half of the memory of a usual load. So torch's own layers are kept from filling theirs, and
large models are built on the meta device, where nothing is allocated at all.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from kexue_core.configs import build_config
from kexue_core.errors import ConfigError, PluginError, WeightsFormatError
from kexue_core.specs import ModelSpec, import_object

__all__ = ["SMALL", "build", "build_empty", "fill_leftovers"]

#: Numbers of a model (32 MB of float32) below which its constructor runs for real. Nothing is large
#: then, and meta can be slow: many of its kernels are Python, 0.2 to 1 ms a call. A Glow of 6.4M
#: parameters takes 0.06 s for real and 0.3 s on meta, a large one of linear layers the reverse.
SMALL = 8_000_000

#: How many times the numbers of its file a constructor may make: tied and reparametrised tensors
#: are made several times.
SPARE = 8

#: And how many more, for what is in no file.
SPARE_NUMBERS = 10_000_000

#: Every tensor counts as at least so many numbers, as making it takes time.
SMALL_TENSOR = 100


def build(spec: ModelSpec, config: Mapping[str, Any]) -> nn.Module:
    """Make a model, its parameters drawn by its own constructor.

    Args:
        spec: The model's declaration.
        config: Arguments of its config dataclass.

    Raises:
        ConfigError: The config has unknown keys, or values that it or the model refuses.
        PluginError: The model's code cannot be imported or fails.
    """
    settings = build_config(import_object(spec.config), config)
    factory = import_object(spec.factory)
    try:
        model = factory(settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{spec.name} refuses its config: {_line(error)}") from error
    except Exception as error:
        raise PluginError(
            f"{spec.name} cannot be built: {type(error).__name__}: {_line(error)}",
            hint="Report it to the plugin's author",
        ) from error
    if not isinstance(model, nn.Module):
        raise PluginError(
            f"{spec.factory} made a {type(model).__name__}, which is no nn.Module",
            hint="The factory of a ModelSpec is the class",
        )
    return model


def build_empty(spec: ModelSpec, config: Mapping[str, Any], *, elements: int) -> nn.Module:
    """Make a model for a state dict to be assigned to: its parameters have no particular values.

    Args:
        spec: The model's declaration.
        config: Arguments of its config dataclass.
        elements: How many numbers the state dict holds.

    Raises:
        ConfigError, PluginError: As :func:`build`.
        WeightsFormatError: The config is that of a far larger model.
    """
    try:
        if elements > SMALL:
            try:
                with _at_most(SPARE * elements + SPARE_NUMBERS), torch.device("meta"):
                    return build(spec, config)
            except (ConfigError, PluginError):
                # A constructor that looks at values (``.item()``, numpy) cannot run on meta, and
                # fails in any way it likes. If the config is at fault, it does so again below.
                pass
        with _at_most(SPARE * elements + SPARE_NUMBERS), _unfilled():
            return build(spec, config)
    except _TooLarge:
        raise WeightsFormatError(
            f"The config of {spec.name} is that of a far larger model than its weights, which hold "
            f"{elements:,} numbers",
            hint="Pull or copy the weights again",
        ) from None


def fill_leftovers(
    model: nn.Module,
    spec: ModelSpec,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    built: Collection[int],
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    """See to what a state dict does not hold: non-persistent buffers, tensors as plain attributes.

    They are what the constructor computes (positions, masks, windows). Where it ran on meta, a
    second model is built for real and theirs are taken over; its parameters are not filled where
    torch's own layers do it, which costs address space and neither time nor memory.

    Args:
        model: A model from :func:`build_empty` with its state dict assigned.
        spec: Its declaration.
        config: Arguments of its config dataclass.
        state: The state dict.
        built: Identities of the tensors that it took the place of.
        device: Where the leftovers go.
        dtype: Dtype of floating-point values, ``None`` for the constructor's.

    Raises:
        PluginError: The model also keeps one of those in a plain list or mapping, where assigning
            leaves it behind.
    """
    loaded = {id(tensor) for tensor in state.values()}
    leftovers = [
        (position, name, value)
        for position, module in enumerate(model.modules())
        for name, value in _unsaved(module, loaded)
    ]
    found = [tensor for _, _, value in leftovers for tensor in _tensors(value)]
    if any(isinstance(tensor, nn.Parameter) or id(tensor) in built for tensor in found):
        raise PluginError(
            f"{spec.name} keeps parameters or buffers in a plain list or mapping too",
            hint="Use nn.ParameterList or nn.ParameterDict, or a property",
        )
    twin: list[nn.Module] = []
    if any(tensor.is_meta for tensor in found):
        with _unfilled():
            twin = list(build(spec, config).modules())
    modules = list(model.modules())
    for position, name, value in leftovers:
        source = getattr(twin[position], name) if twin else value
        setattr(modules[position], name, _moved(source, device, dtype))


def _unsaved(module: nn.Module, loaded: Collection[int]) -> Iterator[tuple[str, Any]]:
    """Names and values of the attributes of one module that hold tensors of no state dict.

    A list of nothing but loaded tensors is none: ``nn.GRU`` keeps one of its own weights.
    """
    for name, buffer in module.named_buffers(recurse=False):
        if id(buffer) not in loaded:
            yield name, buffer
    for name, value in vars(module).items():
        if name in ("_parameters", "_buffers", "_modules"):
            continue
        if any(id(tensor) not in loaded for tensor in _tensors(value)):
            yield name, value


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors of an attribute: itself, or one level down in a list of masks, say."""
    if isinstance(value, Mapping):
        value = list(value.values())
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, Tensor):
            yield each


def _moved(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, Mapping):
        return {k: _moved(v, device, dtype) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(v, device, dtype) for v in value)
    return value


class _TooLarge(BaseException):
    """Passes through whatever a constructor catches."""


@contextmanager
def _at_most(numbers: int) -> Iterator[None]:
    """Stop a constructor that makes more: a config may ask for a million layers."""
    left = numbers
    builder = threading.get_ident()

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal left
        # torch's hooks hear of the modules of all threads.
        if tensor is None or threading.get_ident() != builder or is_lazy(tensor):
            return
        left -= max(SMALL_TENSOR, tensor.numel())
        if left < 0:
            raise _TooLarge

    hooks = (
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _unfilled() -> Iterator[None]:
    """Build on the CPU, always alike, torch's own layers left unfilled, random state untouched."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), _LeaveUnfilled():
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed GPUs too
        yield


class _LeaveUnfilled(TorchFunctionMode):
    """Make ``nn.init.uniform_`` and its like pass over parameters, which are loaded anyway."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":  # property getters have none
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
