"""Make a model from its spec: filled as its author wrote it, or empty for weights to come.

Building for real draws every parameter at random only for a checkpoint to overwrite it: most of the
time and half of the memory of a usual load. On torch's meta device a constructor runs without
allocating anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from kexue_core.configs import build_config
from kexue_core.errors import ConfigError, PluginError
from kexue_core.specs import ModelSpec, import_object

__all__ = ["build", "build_empty", "fill_leftovers"]


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


def build_empty(spec: ModelSpec, config: Mapping[str, Any]) -> nn.Module:
    """Make a model whose tensors have shapes and dtypes but, as a rule, no values yet.

    Raises:
        ConfigError, PluginError: As :func:`build`.
    """
    try:
        with torch.device("meta"):
            return build(spec, config)
    except (ConfigError, PluginError):
        # A constructor that looks at values (``.item()``, numpy) cannot run on meta, and fails in
        # any way it likes. If the config itself is at fault, this raises the same once more.
        with _quiet():
            return build(spec, config)


def fill_leftovers(
    model: nn.Module,
    spec: ModelSpec,
    config: Mapping[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    """Give values to what a state dict does not hold: non-persistent buffers, plain attributes.

    They are what the constructor computes (positions, masks, windows), so a second model is built
    for real and its values are taken over. Its parameters are left uninitialised where torch's own
    layers fill them: that costs address space, no time and no memory. Nothing happens, and nothing
    is built, where no tensor of ``model`` is on meta.

    Args:
        model: A model from :func:`build_empty` with its state dict assigned.
        spec: Its declaration.
        config: Arguments of its config dataclass.
        device: Where the values go.
        dtype: Dtype of floating-point values, ``None`` for the constructor's.
    """
    if not any(True for module in model.modules() for _ in _leftovers(module)):
        return
    with _quiet():
        twin = build(spec, config)
    for module, source in zip(model.modules(), twin.modules(), strict=True):
        for name in list(_leftovers(module)):
            setattr(module, name, _moved(getattr(source, name), device, dtype))


def _leftovers(module: nn.Module) -> Iterator[str]:
    """Names of the attributes of one module that are on meta, or hold what is."""
    yield from (name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta)
    for name, value in vars(module).items():
        if name not in ("_parameters", "_buffers", "_modules") and _on_meta(value):
            yield name


def _on_meta(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_meta
    if isinstance(value, Mapping):
        value = list(value.values())
    # One level down: a list of windows, a dict of masks.
    return isinstance(value, list | tuple) and any(
        isinstance(v, torch.Tensor) and v.is_meta for v in value
    )


def _moved(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, Mapping):
        return type(value)({k: _moved(v, device, dtype) for k, v in value.items()})  # type: ignore[call-arg]  # dict and its like
    if isinstance(value, list | tuple):
        return type(value)(_moved(v, device, dtype) for v in value)
    return value


@contextmanager
def _quiet() -> Iterator[None]:
    """Build on the CPU, always alike, and leave the caller's random state as it was."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), _LeaveParametersUnset():
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed GPUs too
        yield


class _LeaveParametersUnset(TorchFunctionMode):
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
