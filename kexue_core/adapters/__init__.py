"""Readers of foreign checkpoints: names and tensors, and never code.

What the tensors mean is the business of a plugin's adapter. These readers run in the child process
of ``kexue convert``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kexue_core.errors import NotFoundError, WeightsFormatError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMATS", "find_checkpoint", "read_checkpoint"]

#: What can be read: names for ``AdapterSpec.formats``.
FORMATS = ("pickle", "safetensors", "tensorflow")

_PICKLES = (".bin", ".pt", ".pth", ".pkl")


def find_checkpoint(source: Path) -> tuple[str, Path]:
    """The format of a checkpoint, and the file or prefix that stands for it.

    Args:
        source: A file, the prefix of a TensorFlow checkpoint, or a folder that holds one.

    Raises:
        NotFoundError: There is none.
        WeightsFormatError: The folder holds several, or the file is of no known kind.
    """
    if source.is_dir():
        found = sorted(
            p for p in source.iterdir() if p.suffix in (*_PICKLES, ".safetensors", ".index")
        )
        # safetensors hold no code and load fastest: where a folder has both, they are meant.
        found = [p for p in found if p.suffix == ".safetensors"] or found
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise WeightsFormatError(
                f"{source} must hold one checkpoint, and holds {names}", hint="Name the file itself"
            )
        return find_checkpoint(found[0])
    if source.with_name(f"{source.name}.index").is_file():
        return "tensorflow", source
    if not source.is_file():
        raise NotFoundError(f"{source} does not exist", hint="Name a checkpoint or its folder")
    if source.suffix == ".index":
        return "tensorflow", source.with_suffix("")
    if ".data-0" in source.name:
        return "tensorflow", source.with_name(source.name.partition(".data-0")[0])
    if source.suffix == ".safetensors":
        return "safetensors", source
    with source.open("rb") as stream:
        head = stream.read(2)
    # A zip (torch since 1.6), or a pickle of protocol 2 and later.
    if head == b"PK" or head[:1] == b"\x80":
        return "pickle", source
    raise WeightsFormatError(
        f"{source} is no checkpoint that kexue reads", hint=f"It reads {', '.join(FORMATS)}"
    )


def read_checkpoint(source: Path) -> tuple[str, Mapping[str, Tensor]]:
    """Format and tensors of a checkpoint, on the CPU, in the order of the file.

    Raises:
        NotFoundError, WeightsFormatError: See :func:`find_checkpoint`; or it is damaged.
        VerificationError: It needs code to run.
    """
    kind, path = find_checkpoint(source)
    if kind == "tensorflow":
        import torch

        from kexue_core.adapters.tensorflow import read_bundle

        return kind, {name: torch.from_numpy(a) for name, a in read_bundle(path).items()}
    if kind == "safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return kind, load_file(path)
        except SafetensorError as error:
            raise WeightsFormatError(f"{path} is no safetensors file: {error}") from error
    from kexue_core.adapters.pickled import read_pickle

    return kind, read_pickle(path)
