"""What the verbs that run a model share: loading it, reading images, writing results.

torch, numpy and Pillow are imported inside the functions: a usage error costs none of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kexue_core.accidents import out_of_memory
from kexue_core.commands._options import PICTURES
from kexue_core.commands._weights import require_verb
from kexue_core.errors import ConfigError, DataError, KexueError
from kexue_core.names import parse_reference

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from kexue_core.folder import WeightsConfig
    from kexue_core.specs import ModelSpec

__all__ = ["Loaded", "default_out", "is_images", "load", "read_inputs", "working", "write_image"]

#: Inputs that a model is given at once.
BATCH = 16


class Loaded(NamedTuple):
    """A model with what is known of it."""

    model: Any
    spec: ModelSpec
    config: WeightsConfig
    device: torch.device


def load(name: str, verb: str, device: str | None) -> Loaded:
    """Load weights for a verb; without ``device`` on the GPU, if there is one.

    Raises:
        UnsupportedError: They cannot do it; said before torch is imported.
        KexueError: As :func:`kexue_core.api.load`.
    """
    require_verb(name, verb)
    import torch

    from kexue_core import api
    from kexue_core.loading import as_device
    from kexue_core.plugins import discover

    place = as_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model: nn.Module = api.load(name, device=place)
    known = api.provenance(model)
    assert known is not None
    spec, _ = discover().spec_of(model)
    if verb not in spec.verbs:  # an hf: reference, of which nothing was known before
        from kexue_core.errors import UnsupportedError

        raise UnsupportedError(f"{name} cannot {verb}: it can {', '.join(spec.verbs) or 'nothing'}")
    return Loaded(model, spec, known.config, place)


@contextmanager
def working(device: torch.device, *, gradients: bool = False) -> Iterator[None]:
    """Compute, without gradients by default; say what to do where the memory does not suffice.

    Samplers decide themselves about ``gradients``: Langevin's follow those of the energy.
    """
    import torch

    try:
        with torch.set_grad_enabled(gradients):
            yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise KexueError(
            f"The memory of {device} does not suffice",
            hint="Take fewer at once (-n, -o batch_size=1)"
            + (", or --device cpu" if device.type != "cpu" else ""),
        ) from error


def is_images(data: Any) -> bool:
    """Whether data is (n, 1 or 3, height, width): what a picture can show."""
    return getattr(data, "ndim", 0) == 4 and data.shape[1] in (1, 3)


def read_inputs(paths: Sequence[Path], loaded: Loaded) -> tuple[list[str], Tensor]:
    """Read images, folders of them and ``.npy`` arrays as the model wants them.

    Images are turned upright, cropped to a centred square and resized as the ``preprocess`` of the
    weights says, by the code that prepares training data. The rows of an array must have the
    model's shape already.

    Returns:
        A name for each input, and the inputs (n, *data_shape) in [0, 1] on the CPU.

    Raises:
        DataError: A file is missing, broken or of another shape; it is named.
        ConfigError: The weights say of no size that images should have.
    """
    import torch

    names: list[str] = []
    parts: list[Tensor] = []
    pictures: list[Path] = []

    def flush() -> None:
        if pictures:
            parts.append(_read_pictures(pictures, loaded))
            names.extend(map(str, pictures))
            pictures.clear()

    for path in paths:
        if path.is_dir():
            from kexue_core.training.data.folder import image_files

            if not (found := image_files(path)):
                raise DataError(
                    f"{path} holds no image", hint="Name image files, or another folder"
                )
            pictures.extend(found)
        elif not path.is_file():
            raise DataError(f"{path} does not exist", hint="Check the path")
        elif path.suffix == ".npy":
            flush()
            array = _read_array(path, loaded)
            parts.append(array)
            names.extend(f"{path}[{i}]" for i in range(len(array)))
        else:
            pictures.append(path)
    flush()
    return names, torch.cat(parts)


def _read_pictures(paths: Sequence[Path], loaded: Loaded) -> Tensor:
    import numpy as np
    from PIL import Image, ImageOps

    from kexue_core.training.data.images import Images
    from kexue_core.training.data.sources import RawImages

    def read(i: int) -> Image.Image:
        with Image.open(files[i]) as image:
            return ImageOps.exif_transpose(image)

    files = list(paths)
    preprocess = loaded.config.preprocess
    channels, size = _picture_shape(loaded)
    crop = preprocess.get("crop")
    raw = RawImages(
        name="those given",
        identity="",
        indices=np.arange(len(files), dtype=np.int64),
        read=read,
        where=lambda i: str(files[i]),
        files=True,
    )
    images = Images(
        [raw],
        size=size,
        channels=channels,
        split="test",
        crop=crop if isinstance(crop, int) else None,
        fit="pad" if preprocess.get("fit") == "pad" else "crop",
    )
    tensor: Tensor = images.batch(range(len(files)))["image"]
    return tensor


def _picture_shape(loaded: Loaded) -> tuple[int, int]:
    """(channels, size), from ``preprocess`` or from the model's ``data_shape``."""
    preprocess = loaded.config.preprocess
    shape = tuple(getattr(loaded.model, "data_shape", ()))
    if len(shape) != 3:
        shape = (3, preprocess.get("size"), preprocess.get("size"))
    if preprocess.get("modality", "image") != "image" or not isinstance(shape[1], int):
        raise ConfigError(
            f"{loaded.spec.name} takes no images",
            hint="Give its input as a .npy array, one row a sample",
        )
    return preprocess.get("channels", shape[0]), preprocess.get("size", shape[1])


def _read_array(path: Path, loaded: Loaded) -> Tensor:
    import numpy as np
    import torch

    try:
        # allow_pickle stays off: a pickle in an array would be somebody's program.
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no .npy array: {' '.join(str(error).split())}") from error
    shape = tuple(getattr(loaded.model, "data_shape", array.shape[1:]))
    if array.ndim < 1 or array.shape[1:] != shape or not len(array):
        raise DataError(
            f"{path} has the shape {array.shape}", hint=f"{loaded.spec.name} takes (n, {_s(shape)})"
        )
    if array.dtype == np.uint8:
        return torch.from_numpy(array).float() / 255
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise DataError(f"{path} holds {array.dtype}, or values that are not finite")
    return torch.from_numpy(array).float()


def _s(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def default_out(name: str, verb: str, suffix: str = ".png") -> Path:
    """A file in the working directory: ``glow-celeba-sample.png``."""
    target = parse_reference(name).target.rstrip("/")
    stem = re.sub(r"[^\w.-]+", "-", Path(target).name) or "kexue"
    return Path(f"{stem}-{verb}{suffix}")


def write_image(image: Image, path: Path) -> None:
    """Write a picture so that it is whole or not there.

    Raises:
        DataError: The file cannot be written, or its ending is of no picture.
    """
    if path.suffix.lower() not in PICTURES:
        raise DataError(f"{path} does not end like a picture", hint="Name a .png file")
    # The ending stays last: Pillow chooses the format by it.
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(partial)
        partial.replace(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be written: {reason}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
