"""The Python interface: ``import kexue_core as kexue``.

Each function costs the imports that it needs: ``list_weights`` and ``info`` import no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kexue_core.catalogue import (
    Info,
    find_spec,
    info,
    list_weights,
    require_plugin,
    warn_deprecated,
)
from kexue_core.errors import ConfigError, InvalidReferenceError, WeightsFormatError
from kexue_core.folder import WeightsConfig
from kexue_core.interfaces import Requires
from kexue_core.names import Reference, parse_reference
from kexue_core.plugins import discover
from kexue_core.registry import WeightsEntry, load_registry
from kexue_core.sampling import check_options, choose_sampler
from kexue_core.specs import ModelSpec, SamplerSpec, import_object

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "Info",
    "Provenance",
    "create",
    "create_loss",
    "info",
    "list_weights",
    "load",
    "provenance",
    "sample",
    "sampling",
    "save",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a loaded model came from.

    Attributes:
        reference: What was asked for.
        entry: What the registry says of it; ``None`` for ``file:`` and ``hf:``.
        folder: The folder that was read.
        config: Its ``config.json``.
    """

    reference: str
    entry: WeightsEntry | None
    folder: Path
    config: WeightsConfig


# Beside the models and not on them: they stay what their authors wrote.
_PROVENANCE: WeakKeyDictionary[nn.Module, Provenance] = WeakKeyDictionary()


def load(
    reference: str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    mmap: bool = True,
    download: bool = True,
) -> nn.Module:
    """Load weights into their model, in eval mode. No byte is used that was not verified.

    A model that works with others (:class:`~kexue_core.interfaces.Requires`) gets those that its
    weights name under ``requires``, loaded alike.

    >>> glow = load("glow-celeba")                                          # doctest: +SKIP

    Args:
        reference: ``[distribution::]name[@revision]``, ``hf:owner/repo[@revision]`` or
            ``file:path``.
        device: Where the model goes; the CPU where ``None``.
        dtype: Floating-point dtype of all its tensors, as ``torch.bfloat16`` or ``"bfloat16"``.
            ``None`` computes in float32 whatever the storage.
        mmap: Map the file instead of reading it: faster, and float32 weights take no memory of
            their own. Training never writes to the file. Use ``False`` on network disks, and for a
            ``file:`` that something may overwrite in place.
        download: Whether weights that are not on this machine may be fetched.

    Returns:
        A plain ``nn.Module``, every tensor set, tied weights tied, ``requires_grad`` as its
        constructor sets it.

    Raises:
        InvalidReferenceError: ``reference`` is none; a bare path is told from ``file:path``.
        NotFoundError: No such weights.
        AmbiguousNameError: Several plugins have weights of that name.
        PluginError: Their plugin is missing or broken; found out before anything is downloaded.
        ChecksumMismatch: A file is not what the registry says.
        WeightsFormatError: The folder is malformed, or does not fit its model; or what it requires
            does not fit, or requires it in turn.
        ConfigError: The model refuses its config; or ``device`` or ``dtype`` is none.
        NetworkError: The weights cannot be fetched.
    """
    return _load(reference, (), device=device, dtype=dtype, mmap=mmap, download=download)


def _load(
    reference: str,
    requiring: tuple[Path, ...],
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | str | None,
    mmap: bool,
    download: bool,
) -> nn.Module:
    """:func:`load`, for weights that the folders ``requiring`` require, each the next."""
    parsed = _parse(reference)
    entry = None
    if parsed.kind == "name":
        entry = load_registry().find(parsed)
        require_plugin(entry.plugin, f"{entry.name} needs")
        warn_deprecated(entry.name, entry.deprecated, stacklevel=3)
    from kexue_core.hub import locate

    located = locate(parsed, download=download)
    config = WeightsConfig.read(located.folder)
    require_plugin(config.plugin, f"{reference} needs")

    from kexue_core.loading import load_folder

    model = load_folder(
        located.folder,
        device=device,
        dtype=dtype,
        mmap=mmap,
        plugin=entry.plugin if entry else None,
        model=entry.model if entry else None,
    )
    if config.requires and isinstance(model, Requires):
        folders = (*requiring, located.folder)
        if located.folder in requiring:
            raise WeightsFormatError(
                f"{reference} requires itself: " + " requires ".join(p.name for p in folders),
                hint="Correct `requires` in its config.json",
            )
        required = [
            _load(name, folders, device=device, dtype=dtype, mmap=mmap, download=download)
            for name in config.requires
        ]
        try:
            model.attach(required)
        except ValueError as error:
            raise WeightsFormatError(
                f"{reference} does not fit {', '.join(config.requires)}, which it requires: {error}"
            ) from error
    _PROVENANCE[model] = Provenance(
        reference=reference, entry=located.entry, folder=located.folder, config=config
    )
    return model


def provenance(model: nn.Module) -> Provenance | None:
    """Where a model came from; ``None`` where :func:`load` did not make it (a copy, say)."""
    return _PROVENANCE.get(model)


def save(
    model: nn.Module,
    folder: Path | str,
    *,
    preprocess: Mapping[str, Any] | None = None,
    sampler: tuple[str, Mapping[str, Any]] | None = None,
    requires: Sequence[str] | None = None,
    card: str | None = None,
    half: bool = False,
) -> Path:
    """Write a model as a folder of weights, which ``load("file:...")`` reads back bit for bit.

    The folder is written beside its place and renamed: a full disk or a kill leaves an earlier one
    as it was. What is not given stays as the weights had it that the model was loaded from.

    Args:
        model: Of a class that an installed plugin declares, with its config as ``model.config``.
        folder: Where to. An earlier folder of weights is replaced, any other is refused.
        preprocess: How raw data becomes the model's input: modality, size, range, crop.
        sampler: (name, options) of the default sampler.
        requires: References of weights that these cannot work without.
        card: Text of ``README.md``.
        half: Round floating-point tensors to float16, but for those that the model's spec keeps.
            Without it saving is lossless.

    Returns:
        The folder.

    Raises:
        NotFoundError: No installed plugin declares the model's class.
        ConfigError: The config does not survive JSON, a tensor cannot be stored, or the folder
            holds other files.
        WeightsFormatError: ``preprocess``, ``sampler`` or ``requires`` is not what it should be.
        StorageError: The folder cannot be written.
    """
    from kexue_core.saving import save_folder

    known = provenance(model)
    if known is not None:
        preprocess = known.config.preprocess if preprocess is None else preprocess
        sampler = known.config.sampler if sampler is None else sampler
        requires = known.config.requires if requires is None else requires
    return save_folder(
        folder,
        model,
        preprocess=preprocess,
        sampler=sampler,
        requires=requires or (),
        card=card,
        half=half,
    )


def create(model: str, /, **config: Any) -> nn.Module:
    """Make a model with parameters drawn by its own constructor.

    >>> glow = create("glow", levels=3)                                     # doctest: +SKIP

    Args:
        model: Name of a model that a plugin declares, or ``distribution::name``.
        **config: Arguments of its config dataclass; the defaults are its author's.

    Raises:
        NotFoundError: Nobody declares the model.
        AmbiguousNameError: Several plugins declare it.
        PluginError: Its plugin is missing or broken.
        ConfigError: Unknown arguments, or values that the model refuses.
    """
    spec = find_spec("model", model).spec
    assert isinstance(spec, ModelSpec)
    warn_deprecated(f"The model {spec.name}", spec.deprecated, stacklevel=2)

    from kexue_core.building import build

    return build(spec, config)


def create_loss(loss: str, /, **options: Any) -> Any:
    """Make a loss.

    >>> loss = create_loss("zlpr")                                          # doctest: +SKIP

    Args:
        loss: Name of a loss that a plugin declares, or ``distribution::name``.
        **options: Arguments of its factory.

    Returns:
        A callable, an ``nn.Module`` as a rule; its arguments are its own (see ``kexue show``).

    Raises:
        NotFoundError: Nobody declares the loss.
        AmbiguousNameError: Several plugins declare it.
        PluginError: Its plugin is missing or broken.
        ConfigError: Options that the loss refuses.
    """
    spec = find_spec("loss", loss).spec
    warn_deprecated(f"The loss {spec.name}", spec.deprecated, stacklevel=2)
    factory = import_object(spec.factory)
    try:
        return factory(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{loss} refuses its options: {error}") from error


def sample(
    model: nn.Module, n: int, *, seed: int = 0, sampler: str | None = None, **options: Any
) -> Tensor:
    """Draw samples from a model. Sample *i* of a seed is the same however many are drawn.

    Args:
        model: A model with a capability that a sampler needs. It is used in the mode it is in.
        n: Number of samples, >= 0.
        seed: Seed of all randomness, 0 to 2**64 - 1, drawn on the CPU whatever the model's device.
        sampler: Name of a sampler. ``None`` takes the default of the weights with its options, and
            for a model without weights the first that fits: of its own plugin, then of the core.
        **options: Options of the sampler, such as ``temperature``; ``kexue show NAME`` lists them.

    Returns:
        (n, *data_shape) on the model's device; images are in [0, 1].

    Raises:
        ConfigError: ``n`` or ``seed`` is out of range, or an option is unknown or of another type.
        UnsupportedError: No sampler fits the model, or the one named does not.
        NotFoundError: No such sampler, or no installed plugin declares the model.
    """
    for what, number in (("n", n), ("seed", seed)):
        if type(number) is not int or not 0 <= number < 2**64:
            raise ConfigError(f"{what} must be a whole number from 0 to 2**64 - 1, not {number!r}")
    chosen, settings = sampling(model, sampler=sampler, **options)
    warn_deprecated(f"The sampler {chosen.name}", chosen.deprecated, stacklevel=2)

    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn: Tensor = import_object(chosen.factory)(model, n, generator=generator, **settings)
    return drawn


def sampling(
    model: nn.Module, *, sampler: str | None = None, **options: Any
) -> tuple[SamplerSpec, dict[str, Any]]:
    """The sampler and all its settings that :func:`sample` uses for the same arguments.

    Raises:
        ConfigError, UnsupportedError, NotFoundError: As :func:`sample`.
    """
    spec, distribution = discover().spec_of(model)
    known = provenance(model)
    default = known.config.sampler if known else None
    name = sampler or (default.name if default else None)
    chosen = choose_sampler(name, spec, distribution)
    settings = {key: option.default for key, option in chosen.options.items()}
    if default is not None and default.name in (chosen.name, *chosen.aliases):
        settings |= check_options(chosen, default.options, where="the weights' config.json: ")
    settings |= check_options(chosen, options)
    # None means that nobody set it, as it is the function's own default: records need not say it.
    return chosen, {key: value for key, value in settings.items() if value is not None}


def _parse(reference: object) -> Reference:
    if not isinstance(reference, str):
        raise InvalidReferenceError(
            f"{reference!r} is no reference", hint=f"For a folder write 'file:{reference}'"
        )
    return parse_reference(reference)
