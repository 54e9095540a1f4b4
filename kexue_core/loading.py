"""Read a folder of weights into a model: checked first, then memory-mapped."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from kexue_core.building import build_empty, fill_leftovers
from kexue_core.catalogue import warn_deprecated
from kexue_core.errors import ConfigError, PluginError, UnsupportedError, WeightsFormatError
from kexue_core.folder import WEIGHTS_FILE, WeightsConfig
from kexue_core.interfaces import Assets
from kexue_core.names import normalize
from kexue_core.plugins import discover
from kexue_core.safetensors_header import TensorEntry, read_header
from kexue_core.specs import ModelSpec
from kexue_core.tensors import DTYPE_NAMES, TORCH_DTYPES, shared_names

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["as_device", "as_dtype", "find_model", "load_folder"]


def load_folder(
    folder: Path | str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    mmap: bool = True,
    plugin: str | None = None,
    model: str | None = None,
) -> nn.Module:
    """Load a folder of weights. Its files are taken as they are: verify them before.

    The header is checked before anything else sees the file, and names, shapes and dtypes are held
    against the model before a tensor is made.

    With ``mmap`` the tensors are views of the file, private to this process: training writes to
    memory, never to the file. The file may be deleted or replaced by rename meanwhile, as
    :func:`kexue_core.saving.save_folder` does; one that is overwritten in place changes the model,
    and one that is truncated in place ends the process. For such files, and for network disks that
    may go away, use ``mmap=False``.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors``.
        device: Where the model goes; the CPU where ``None``.
        dtype: Floating-point dtype of all its tensors, as ``torch.bfloat16`` or ``"bfloat16"``.
            ``None`` computes in float32 whatever the storage: narrower tensors are widened, float32
            ones are used in place, and float64 stays where the file or the model has it. Integers
            and booleans never change.
        mmap: Map the file instead of reading it into memory.
        plugin: Distribution that the folder must name, from the registry.
        model: Model that the folder must name, from the registry.

    Returns:
        The model in eval mode, every parameter and buffer set, tied weights tied, ``requires_grad``
        as its constructor sets it.

    Raises:
        WeightsFormatError: The folder is malformed, belongs to another model or does not fit it.
        PluginError: The plugin is missing, broken, or fails to build the model.
        NotFoundError: The plugin declares no such model.
        ConfigError: The model refuses its config; or ``device`` or ``dtype`` is none.
    """
    folder = Path(folder)
    place, wanted = as_device(device), as_dtype(dtype)
    config = WeightsConfig.read(folder)
    _check_expected(folder, config, plugin, model)
    path = folder / WEIGHTS_FILE
    entries = read_header(path)
    spec, _ = find_model(config.model, config.plugin)
    elements = sum(math.prod(entry.shape) for entry in entries.values())
    module = build_empty(spec, config.config, elements=elements)
    groups = shared_names(module)
    _check_fits(path, entries, groups, spec.name)
    state = _read_state(path, entries, groups, mmap=mmap, device=place, dtype=wanted)
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:  # a model whose own loading hooks want something else
        raise WeightsFormatError(
            f"{path} does not fit {spec.name}: {' '.join(str(error).split())}"
        ) from error
    built = {id(tensor) for _, tensor in groups}
    fill_leftovers(module, spec, config.config, state, built, device=place, dtype=wanted)
    if isinstance(module, Assets):
        _load_assets(module, folder, spec.name)
    return module.eval()


def find_model(name: str, distribution: str | None = None) -> tuple[ModelSpec, str]:
    """The spec of a model and its distribution; a deprecated one warns.

    Raises:
        AmbiguousNameError, NotFoundError, PluginError: As :meth:`Plugins.find`.
    """
    declared = discover().find("model", name, distribution)
    if not isinstance(declared.spec, ModelSpec):  # kinds are named after their classes
        raise PluginError(f"{declared.qualified} is declared as {type(declared.spec).__name__}")
    warn_deprecated(f"The model {declared.qualified}", declared.spec.deprecated, stacklevel=3)
    return declared.spec, declared.distribution


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A floating-point dtype from torch's or its name.

    Raises:
        ConfigError: It is none.
    """
    if dtype is None:
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if (
        not isinstance(found, torch.dtype)
        or not found.is_floating_point
        or found not in DTYPE_NAMES
    ):
        raise ConfigError(
            f"{dtype!r} is no dtype to compute in",
            hint="Choose float32, float16, bfloat16 or float64",
        )
    return found


def as_device(device: torch.device | str | None) -> torch.device:
    """A device that works here.

    Raises:
        ConfigError: There is no such device.
    """
    try:
        # Making a tensor is the only question that every backend answers truthfully.
        return torch.empty(0, device=device or "cpu").device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"The device {str(device)!r} cannot be used: {reason}", hint="Try device='cpu'"
        ) from error


def _load_assets(module: Assets, folder: Path, model: str) -> None:
    """Let a model read what lies beside its tensors."""
    try:
        module.load_assets(folder)
    except FileNotFoundError as error:
        raise WeightsFormatError(
            f"{error.filename} is missing", hint="Pull or copy the weights again"
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsFormatError(f"{model} cannot use the files in {folder}: {error}") from error


def _check_expected(
    folder: Path, config: WeightsConfig, plugin: str | None, model: str | None
) -> None:
    """Refuse a folder that holds other weights than those asked for."""
    for what, is_, should in (
        ("plugin", config.plugin, plugin and normalize(plugin)),
        ("model", config.model, model),
    ):
        if should is not None and is_ != should:
            raise WeightsFormatError(
                f"{folder} holds weights of the {what} {is_}, and {should} was expected",
                hint="Pull or copy the weights again",
            )


def _check_fits(
    path: Path,
    entries: Mapping[str, TensorEntry],
    groups: Sequence[tuple[tuple[str, ...], Tensor]],
    model: str,
) -> None:
    """Compare names, shapes and kinds of numbers with the model's."""
    built = {name: tensor for names, tensor in groups for name in names}
    missing = [names[0] for names, _ in groups if not any(name in entries for name in names)]
    unexpected = [name for name in entries if name not in built]
    both = [(name, entry, built[name]) for name, entry in entries.items() if name in built]
    shapes = [
        f"{name} {list(entry.shape)}, not {list(tensor.shape)}"
        for name, entry, tensor in both
        if entry.shape != tuple(tensor.shape)
    ]
    dtypes = [
        f"{name} {entry.dtype}, not {tensor.dtype}"
        for name, entry, tensor in both
        if not _same_kind(TORCH_DTYPES[entry.dtype], tensor.dtype)
    ]
    found = [
        f"{len(names)} {what} ({', '.join(n[:100] for n in names[:3])}"
        + (", ...)" if len(names) > 3 else ")")
        for names, what in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (shapes, "of another shape"),
            (dtypes, "of another dtype"),
        )
        if names
    ]
    if found:
        raise WeightsFormatError(
            f"{path} does not fit the model {model}; tensors: {', '.join(found)}",
            hint="The weights belong to another model, config or version of the plugin",
        )


def _same_kind(stored: torch.dtype, built: torch.dtype) -> bool:
    """Floats of any width may stand for each other; all else must be the same."""
    return stored == built or (stored.is_floating_point and built.is_floating_point)


def _read_state(
    path: Path,
    entries: Mapping[str, TensorEntry],
    groups: Sequence[tuple[tuple[str, ...], Tensor]],
    *,
    mmap: bool,
    device: torch.device,
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """The state dict of a file that has passed the checks; tied names share one object."""
    size = max(entry.stop for entry in entries.values()) if entries else 0
    data = _contents(path, size, mmap=mmap)
    state: dict[str, Tensor] = {}
    for names, built in groups:
        first, *others = [name for name in names if name in entries]
        value = _tensor(path, first, data, entries[first])
        for name in others:  # written by a program that unties them
            if not torch.equal(_raw(value), _raw(_tensor(path, name, data, entries[name]))):
                raise WeightsFormatError(
                    f"{path}: {first} and {name} differ, and the model ties them",
                    hint="The weights belong to another model, config or version of the plugin",
                )
        if value.is_floating_point():
            value = value.to(device, dtype or _working_dtype(value.dtype, built.dtype))
        else:
            value = value.to(device)
        if isinstance(built, nn.Parameter):
            value = nn.Parameter(value, requires_grad=built.requires_grad)
        state.update(dict.fromkeys(names, value))
    return state


def _working_dtype(stored: torch.dtype, built: torch.dtype) -> torch.dtype:
    """At least float32, at least what the model asks for, and never less than what is stored."""
    return torch.promote_types(torch.promote_types(stored, built), torch.float32)


def _contents(path: Path, size: int, *, mmap: bool) -> Tensor:
    """The first ``size`` bytes of a file as uint8, mapped copy-on-write or read."""
    if sys.byteorder != "little":
        raise UnsupportedError("Weights are little-endian, and this machine is not")
    try:
        with torch.device("cpu"):
            if mmap and size:
                return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
            buffer = bytearray(size)
            with path.open("rb") as file:
                if file.readinto(buffer) != size:
                    raise WeightsFormatError(f"{path} became shorter while it was read")
            return torch.frombuffer(buffer, dtype=torch.uint8) if size else torch.empty(0)
    except (OSError, RuntimeError) as error:
        raise WeightsFormatError(
            f"{path} cannot be read: {str(error).partition(chr(10))[0]}"
        ) from error


def _tensor(path: Path, name: str, data: Tensor, entry: TensorEntry) -> Tensor:
    """One tensor as a view of the file's contents."""
    raw = data[entry.start : entry.stop]
    dtype = TORCH_DTYPES[entry.dtype]
    if dtype == torch.bool and bool((raw > 1).any()):
        raise WeightsFormatError(f"{path}: {name} holds bytes that are neither true nor false")
    if entry.start % dtype.itemsize:  # admitted by the format, though no writer makes it
        raw = raw.clone()
    # Views share one version counter: a batch norm that updates its statistics would make autograd
    # believe that all weights had changed. `.data` starts a counter of its own.
    return raw.view(dtype).view(entry.shape).data


def _raw(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
