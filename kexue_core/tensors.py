"""What reading and writing weights share: names of dtypes, and names that share one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["DTYPE_NAMES", "TORCH_DTYPES", "shared_names"]

#: Name in a safetensors file -> torch's dtype.
TORCH_DTYPES: dict[str, torch.dtype] = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
    **{"BOOL": torch.bool, "C64": torch.complex64},
}
DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def shared_names(model: nn.Module) -> list[tuple[tuple[str, ...], Tensor]]:
    """The tensors of a state dict, each once, with all the names under which it appears.

    Tied weights are one tensor object under several names. The first name, in the order of the
    state dict, is the one in the file.
    """
    groups: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), ([], tensor))[0].append(name)
    return [(tuple(names), tensor) for names, tensor in groups.values()]
