"""The fast path of encoding on a CPU: linear maps with weights packed once for oneDNN.

torch hands oneDNN a plain weight and has it reordered at every call. Packed once into the layout
that the kernel wants, the same product takes half the time, and the GELU after it costs nothing:
it is done while the result is still in registers. The two operators are torch's own and private
(``torch.compile`` uses them), so they are tried out first; where they are missing or wrong, the
model runs as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_roformer_sim.encoder import Encoder, norm, rotation

if TYPE_CHECKING:
    from kexue_roformer_sim.encoder import KeyValues, Layer

__all__ = ["Packed", "can_pack", "fastest_dtype", "vectors_of"]

Vectors = Callable[[Tensor], Tensor]

#: ``dtype="auto"`` keeps the cosine between fast and float32 vectors above this.
LEAST_COSINE = 0.9999

#: Rows of the products that weights are packed for: 64 texts of 32 tokens.
ROWS = 2048

#: Rows and tokens of the batch that ``"auto"`` compares on.
TRIAL = (16, 16)

#: Model -> dtype -> (what its weights were, packed weights). Beside the models, not on them: a copy
#: or a pickle of a model has nothing to do with oneDNN.
_PACKED: WeakKeyDictionary[nn.Module, dict[torch.dtype, tuple[Any, Packed]]] = WeakKeyDictionary()
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
    if not model.training and weight.device.type == "cpu" and can_pack(chosen):
        return packed(model, chosen)
    return _plain(model, chosen)


def fastest_dtype(model: Encoder) -> torch.dtype:
    """bfloat16 where the machine has instructions for it and this model stands it, else float32.

    Whether it stands it is tried on random tokens: the least cosine between both must be above
    :data:`LEAST_COSINE`. Decided by no clock, so that it is always the same.
    """
    weight = model.pooler.weight
    fast = (
        torch.cuda.is_bf16_supported()
        if weight.device.type == "cuda"
        else weight.device.type == "cpu" and _has_bfloat16() and can_pack(torch.bfloat16)
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


class Packed:
    """The encoder with packed weights. It shares nothing with the model but its sizes.

    Args:
        model: On the CPU.
        dtype: float32 or bfloat16.
    """

    def __init__(self, model: Encoder, dtype: torch.dtype) -> None:
        self.config = model.config
        self.dtype = dtype
        self.embeddings = _copy(model.embeddings)
        self.project = (
            _linear(model.embeddings.project, dtype) if model.embeddings.project else None
        )
        self.layers = [_PackedLayer(layer, dtype) for layer in model.layers]  # type: ignore[arg-type]
        # Once a sentence: not worth rounding.
        self.pooler = (model.pooler.weight.detach().float(), model.pooler.bias.detach().float())
        self.token_weight = (
            None if model.token_weight is None else model.token_weight.detach().float()
        )

    def __call__(self, tokens: Tensor) -> Tensor:
        """Sentence vectors (n, hidden_size), float32, of tokens (n, L) without a second segment."""
        c, e = self.config, self.embeddings
        if not len(tokens):
            return torch.empty(0, c.hidden_size)
        present = tokens != 0
        positions = torch.arange(tokens.shape[1])
        x = F.embedding(tokens, e["tokens"]) + e["segments"][0]
        if "positions" in e:
            x = x + e["positions"][positions]
        x = F.layer_norm(x, x.shape[-1:], e["norm.weight"], e["norm.bias"], c.norm_eps)
        x = x.to(self.dtype)
        if self.project:
            x = self.project(x)
        angles = None
        if c.positions == "rope":
            cos, sin = rotation(positions, c.hidden_size // c.heads, self.dtype)
            # Of queries and keys at once: (L, 1, 1, d / 2) against (n, L, 2, heads, d / 2).
            angles = (cos[:, None, None], sin[:, None, None])
        mask = None
        if not present.all():
            mask = torch.zeros(present.shape, dtype=self.dtype).masked_fill_(~present, -torch.inf)
            mask = mask[:, None, None]
        for layer in self.layers:
            x = layer(x, angles, mask)
        if c.pooling == "cls":
            pooled = x[:, 0].float()
        else:
            weights = present.float()
            if self.token_weight is not None:
                weights = weights * self.token_weight[tokens].exp()
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)
            pooled = torch.einsum("nl,nlh->nh", weights, x.float())
        return F.linear(pooled, *self.pooler)


class _PackedLayer:
    def __init__(self, layer: Layer, dtype: torch.dtype) -> None:
        self.heads = layer.heads
        self.qkv = _linear(layer.qkv, dtype)
        self.attention = _linear(layer.attention, dtype)
        self.inner = _linear(layer.inner, dtype, "gelu")
        self.outer = _linear(layer.outer, dtype)
        self.norms = [_cast(layer.norm1, dtype), _cast(layer.norm2, dtype)]

    def __call__(self, x: Tensor, angles: KeyValues | None, mask: Tensor | None) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.heads, -1)
        v = qkv[:, :, 2].transpose(1, 2)
        if angles is None:
            q, k = qkv[:, :, 0].transpose(1, 2), qkv[:, :, 1].transpose(1, 2)
        else:
            cos, sin = angles
            a, b = qkv[:, :, :2].chunk(2, -1)
            turned = torch.empty_like(qkv[:, :, :2], memory_format=torch.contiguous_format)
            first, second = turned.chunk(2, -1)
            torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
            torch.mul(b, cos, out=second).addcmul_(a, sin)
            q, k = turned.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, mask)
        mixed = self.attention(mixed.transpose(1, 2).reshape(n, length, width))
        x = norm(mixed.add_(x), self.norms[0])
        fed = self.outer(self.inner(x))
        return norm(fed.add_(x), self.norms[1])


def _linear(layer: nn.Linear, dtype: torch.dtype, attr: str = "none") -> Vectors:
    """A linear map with a packed weight, followed by ``attr``."""
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), ROWS)
    bias = layer.bias.detach().to(dtype)
    algorithm = "none" if attr == "gelu" else ""

    def run(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, attr, [], algorithm)
        return y

    return run


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether the private operators are there, and right, for a dtype."""
    if dtype not in (torch.float32, torch.bfloat16) or not _mkldnn():
        return False
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        layer = nn.Linear(24, 40)
        x = torch.randn(3, 5, 24)
        try:
            found = _linear(layer, dtype, "gelu")(x.to(dtype)).float()
        except (AttributeError, RuntimeError, TypeError):
            return False
        # bfloat16 has 8 bits of mantissa.
        limit = 1e-5 if dtype == torch.float32 else 0.05
        return bool((found - F.gelu(layer(x))).abs().max() < limit)


def _mkldnn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch's


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


def _copy(embeddings: nn.Module) -> dict[str, Tensor]:
    """The tables as float32: they are looked up, and what is looked up is rounded later."""
    tables = {k: v.detach().float() for k, v in embeddings.named_parameters()}
    return {
        k.removesuffix(".weight") if k.count(".") == 1 and "norm" not in k else k: v
        for k, v in tables.items()
    }


def _cast(layer: nn.LayerNorm, dtype: torch.dtype) -> nn.LayerNorm:
    made = nn.LayerNorm(layer.normalized_shape, eps=layer.eps, dtype=dtype)
    made.load_state_dict(layer.state_dict())
    return made.requires_grad_(False)


def _state(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """What changes when a weight does: where it lies, and how often it was written to."""
    return tuple((p.data_ptr(), -1 if p.is_inference() else p._version) for p in model.parameters())
