"""Write a model as a folder of weights: whole or not at all, and the same bytes every time."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kexue_core.configs import build_config
from kexue_core.errors import ConfigError, StorageError
from kexue_core.folder import CARD_FILE, WEIGHTS_FILE, SamplerChoice, WeightsConfig
from kexue_core.hub.receipts import hash_file
from kexue_core.interfaces import Assets
from kexue_core.plugins import discover
from kexue_core.safetensors_header import encode_header
from kexue_core.specs import ModelSpec, import_object
from kexue_core.tensors import DTYPE_NAMES, shared_names

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["save_folder"]


def save_folder(
    folder: Path | str,
    model: nn.Module,
    *,
    distribution: str | None = None,
    model_name: str | None = None,
    preprocess: Mapping[str, Any] | None = None,
    sampler: tuple[str, Mapping[str, Any]] | None = None,
    requires: Sequence[str] = (),
    card: str | None = None,
    half: bool = False,
    extra_files: Callable[[Path], None] | None = None,
) -> Path:
    """Write ``config.json``, ``model.safetensors`` and ``README.md``.

    Everything is written to a temporary sibling, flushed to the disk and then renamed into place: a
    full disk or a kill leaves an earlier folder as it was. Models that are memory-mapped from the
    earlier folder go on working, in this process and in others. The same model always gives the
    same bytes.

    Args:
        folder: Where to; its parent is made where it is missing. An earlier folder of weights is
            replaced, one that holds other files is refused.
        model: Keeps its frozen config dataclass as ``model.config``. Parameters that it shares are
            written once. It may live on any device and is not changed.
        distribution: Distribution that declares the model.
        model_name: Name of the model in it. Where either is ``None``, both are found by the class
            of ``model``.
        preprocess: How raw data becomes the model's input: modality, size, range, crop.
        sampler: (name, options) of the default sampler.
        requires: References of weights that these cannot work without.
        card: Text of ``README.md``; a few lines on how to load it where ``None``.
        half: Round floating-point tensors to float16, but for those that ``ModelSpec.float32``
            names. Without it saving is lossless.
        extra_files: Called with the folder that is being written, to add what belongs beside the
            weights (a model that is :class:`~kexue_core.interfaces.Assets` adds its own).

    Returns:
        ``folder``.

    Raises:
        ConfigError: ``model.config`` does not survive JSON, a tensor cannot be stored or does not
            fit float16, or ``folder`` holds other files.
        NotFoundError: No installed plugin declares the model.
        WeightsFormatError: ``preprocess``, ``sampler`` or ``requires`` is not what it should be.
        StorageError: The folder cannot be written (a full disk, no permission).
    """
    folder = Path(folder)
    spec = None
    if distribution is None or model_name is None:
        spec, distribution = discover().spec_of(model)
        model_name = spec.name
    elif half:
        found = discover().find("model", model_name, distribution).spec
        spec = found if isinstance(found, ModelSpec) else None
    config = WeightsConfig(
        model=model_name,
        plugin=distribution,
        config=_plain_config(model, spec),
        preprocess=dict(preprocess or {}),
        sampler=None if sampler is None else SamplerChoice(*sampler),
        requires=tuple(requires),
    )
    state = _tensors(model, half=half, float32=spec.float32 if spec else ())
    if card is None:
        card = _default_card(config)

    def write(path: Path) -> None:
        _write_tensors(path / WEIGHTS_FILE, state)
        replace(config, sha256=hash_file(path / WEIGHTS_FILE)).write(path)
        (path / CARD_FILE).write_text(card, encoding="utf-8", newline="\n")
        if isinstance(model, Assets):
            model.save_assets(path)
        if extra_files is not None:
            extra_files(path)

    _replace_folder(folder, write)
    return folder


def _plain_config(model: nn.Module, spec: ModelSpec | None) -> dict[str, Any]:
    """The model's config as JSON will give it back."""
    settings = getattr(model, "config", None)
    if not is_dataclass(settings) or isinstance(settings, type):
        raise ConfigError(
            f"{type(model).__name__} keeps no dataclass as self.config",
            hint="A model keeps the frozen dataclass that it was built from as self.config",
        )
    values = {f.name: _lists(getattr(settings, f.name)) for f in fields(settings) if f.init}
    config_class = import_object(spec.config) if spec is not None else type(settings)
    if build_config(config_class, values) != settings:
        raise ConfigError(
            f"{type(settings).__name__} does not come back from JSON as it was",
            hint="A config holds numbers, text, booleans, None and tuples of them",
        )
    return values


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value


def _tensors(
    model: nn.Module, *, half: bool, float32: Sequence[str]
) -> dict[str, tuple[Tensor, torch.dtype]]:
    """Name -> (tensor as it is, dtype to write it in), each shared tensor under one name."""
    state: dict[str, tuple[Tensor, torch.dtype]] = {}
    for names, tensor in shared_names(model):
        name = names[0]
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta or tensor.layout != torch.strided:
            raise ConfigError(
                f"{name} cannot be stored: it is no dense tensor with values",
                hint="Register plain tensors; leave out what can be computed (persistent=False)",
            )
        dtype = tensor.dtype
        if half and dtype.is_floating_point:
            kept = any(fnmatchcase(n, pattern) for n in names for pattern in float32)
            dtype = dtype if kept else torch.float16
        if dtype not in DTYPE_NAMES:
            raise ConfigError(f"{name} cannot be stored: its dtype is {dtype}")
        state[name] = tensor, dtype
    return state


def _write_tensors(path: Path, state: Mapping[str, tuple[Tensor, torch.dtype]]) -> None:
    """Write one tensor after the other: at no time is there a second copy of the model."""
    header, order = encode_header(
        {name: (DTYPE_NAMES[dtype], tuple(t.shape)) for name, (t, dtype) in state.items()}
    )
    with path.open("wb") as file:
        file.write(header)
        for name in order:
            tensor, dtype = state[name]
            file.write(_bytes(name, tensor.detach(), dtype))


def _bytes(name: str, tensor: Tensor, dtype: torch.dtype) -> memoryview:
    stored = tensor.to("cpu", dtype)
    # Rounding past 65504 gives infinity, which one sees only in the samples.
    if dtype != tensor.dtype and not torch.equal(stored.isfinite(), tensor.cpu().isfinite()):
        raise ConfigError(
            f"{name} does not fit {dtype}: its largest value is {tensor.abs().max():.3g}",
            hint="Name it in the float32 globs of its ModelSpec",
        )
    return stored.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _default_card(config: WeightsConfig) -> str:
    return (
        f"# {config.model}\n\n"
        f"Weights of the model `{config.model}` of `{config.plugin}`.\n\n"
        "```python\n"
        "import kexue_core as kexue\n\n"
        'model = kexue.load("file:path/to/this/folder")\n'
        "```\n"
    )


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary sibling of ``folder`` and put it in its place."""
    folder = folder.absolute()
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    retired = temporary.with_suffix(".old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        write(temporary)
        _flush(temporary)
        _check_replaceable(folder, {entry.name for entry in temporary.iterdir()})
        if folder.exists():
            # A folder that is not empty cannot be renamed over, so two steps it is. Killed between
            # them, the earlier folder is whole beside its place, and the new one as well.
            folder.rename(retired)
            try:
                temporary.rename(folder)
            except OSError:
                retired.rename(folder)
                raise
            shutil.rmtree(retired, ignore_errors=True)
        else:
            temporary.rename(folder)
    except OSError as error:
        hint = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise StorageError(
            f"{folder} was not written: {error.strerror or error}; what was there before is intact",
            hint=hint,
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(folder: Path, new: set[str]) -> None:
    """Refuse to delete what saving does not replace."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file", hint="Name a folder")
    if others := sorted({entry.name for entry in folder.iterdir()} - new):
        raise ConfigError(
            f"{folder} holds {others[0]!r}, which is no part of these weights",
            hint="Choose another folder, or empty it first",
        )


def _flush(folder: Path) -> None:
    """Make sure that the bytes are on the disk before a name points to them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
