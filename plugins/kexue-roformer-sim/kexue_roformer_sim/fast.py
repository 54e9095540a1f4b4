"""Which way to vectors and rewrites is the fastest, in which dtype.

On a CPU that is :mod:`.packed` and :func:`.writer.writer`; where weights cannot be packed, the
model runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_core.packing import fingerprint, has_onednn
from kexue_roformer_sim.packed import Packed
from kexue_roformer_sim.writer import writer

if TYPE_CHECKING:
    from kexue_roformer_sim.encoder import Encoder

__all__ = ["fastest_dtype", "packed", "vectors_of", "writer_of"]

Vectors = Callable[[Tensor], Tensor]

#: ``dtype="auto"`` keeps the cosine between fast and float32 vectors above this.
LEAST_COSINE = 0.9999

#: Rows and tokens of the batch that ``"auto"`` compares on.
TRIAL = (16, 16)

#: Model -> dtype -> (what its weights were, packed weights). Beside the models, not on them: a copy
#: or a pickle of a model has nothing to do with oneDNN.
_PACKED: WeakKeyDictionary[nn.Module, dict[torch.dtype, tuple[Any, Packed]]] = WeakKeyDictionary()
_WRITERS: WeakKeyDictionary[nn.Module, tuple[Any, Encoder]] = WeakKeyDictionary()
_FASTEST: WeakKeyDictionary[nn.Module, tuple[Any, torch.dtype]] = WeakKeyDictionary()


def vectors_of(
    model: Encoder, dtype: Literal["float32", "bfloat16", "auto"] | torch.dtype | None = None
) -> Vectors:
    """A function from tokens (n, L) to sentence vectors (n, hidden_size), the fastest there is.

    Args:
        model: In whatever dtype, on whatever device.
        dtype: What to compute in: ``None`` for that of the weights; ``"auto"`` for
            :func:`fastest_dtype`.

    Raises:
        ValueError: ``dtype`` is none of these.
    """
    weight = model.pooler.weight
    if dtype == "auto":
        chosen = fastest_dtype(model)
    elif dtype is None:
        chosen = weight.dtype
    else:
        chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype  # type: ignore[assignment]
    if chosen not in (torch.float32, torch.bfloat16, weight.dtype):
        raise ValueError(f"dtype must be 'float32', 'bfloat16' or 'auto', not {dtype!r}")
    return packed(model, chosen) if _packs(model, chosen) else _plain(model, chosen)


def writer_of(model: Encoder) -> Encoder:
    """The fastest net to run token by token: the model, or one with its weights packed."""
    if not _packs(model, model.pooler.weight.dtype):
        return model
    state = _state(model)
    if model not in _WRITERS or _WRITERS[model][0] != state:
        _WRITERS[model] = (state, writer(model))
    return _WRITERS[model][1]


def fastest_dtype(model: Encoder) -> torch.dtype:
    """bfloat16 where the machine has instructions for it and this model stands it, else float32.

    Whether it stands it is tried on random tokens: the least cosine between both must be above
    :data:`LEAST_COSINE`. Decided by no clock, so that it is always the same.
    """
    weight = model.pooler.weight
    fast = (
        torch.cuda.is_bf16_supported()
        if weight.device.type == "cuda"
        else weight.device.type == "cpu" and _has_bfloat16() and has_onednn(torch.bfloat16)
    )
    if weight.dtype != torch.float32 or not fast:
        return weight.dtype
    state = _state(model)
    if model not in _FASTEST or _FASTEST[model][0] != state:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(1, model.config.vocab_size, TRIAL, generator=generator)
        tokens = tokens.to(weight.device)
        with torch.inference_mode():
            exact = vectors_of(model, torch.float32)(tokens)
            rounded = vectors_of(model, torch.bfloat16)(tokens).float()
        cosine = float(F.cosine_similarity(exact, rounded, dim=-1).min())
        chosen = torch.bfloat16 if cosine >= LEAST_COSINE else torch.float32
        _FASTEST[model] = (state, chosen)
    return _FASTEST[model][1]


def packed(model: Encoder, dtype: torch.dtype) -> Packed:
    """The packed weights of a model; made anew when the model's have changed."""
    made = _PACKED.setdefault(model, {})
    state = _state(model)
    if dtype not in made or made[dtype][0] != state:
        made[dtype] = (state, Packed(model, dtype))
    return made[dtype][1]


def _packs(model: Encoder, dtype: torch.dtype) -> bool:
    return not model.training and model.pooler.weight.device.type == "cpu" and has_onednn(dtype)


def _has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 (AVX-512 BF16, AMX); others are slower at it."""
    try:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    except AttributeError:  # private, and not in every torch
        return False


def _plain(model: Encoder, dtype: torch.dtype) -> Vectors:
    """The model as it is; in another dtype than its own by autocast."""
    weight = model.pooler.weight
    device = weight.device.type

    def run(tokens: Tensor) -> Tensor:
        if dtype == weight.dtype or weight.dtype != torch.float32:
            return model(tokens).vector  # type: ignore[no-any-return]
        with torch.autocast(device, dtype):
            return model(tokens).vector  # type: ignore[no-any-return]

    return run


def _state(model: nn.Module) -> list[tuple[object, ...]]:
    """Of some 256 numbers of each parameter: an optimizer moves them all."""
    return fingerprint(model, most=256)
