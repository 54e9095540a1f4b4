"""torch.save files, read without running anything that they hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kexue_core.errors import VerificationError, WeightsFormatError

__all__ = ["read_pickle"]

# Where training scripts put the tensors beside step counts and optimisers.
_INNER = ("state_dict", "model_state_dict", "model")


def read_pickle(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file that ``torch.save`` wrote.

    torch's weights-only unpickler knows tensors and plain containers and calls nothing else.

    Raises:
        VerificationError: It needs code to run: a class or function that is no tensor's.
        WeightsFormatError: It is damaged, or holds no mapping of names to tensors.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        if "GLOBAL" in reason or "global" in reason or "class" in reason:
            raise VerificationError(
                f"{path} needs code to run, and none of it was: {reason[:300]}",
                hint="Ask its author for a file of plain tensors (safetensors)",
            ) from error
        raise WeightsFormatError(f"{path} is no checkpoint: {reason[:300]}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise WeightsFormatError(f"{path} is damaged: {reason[:300]}") from error
    for key in _INNER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsFormatError(f"{path} holds no mapping of names to tensors")
    odd = [k for k, v in content.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if odd:
        raise WeightsFormatError(f"{path}: {odd[0]!r:.80} is no named tensor")
    return content
