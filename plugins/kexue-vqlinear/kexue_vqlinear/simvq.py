"""SimVQ: every code passes through one linear map.

The codes e_k of a plain table become e_k W + b. That is a table again, of the same capacity; what
changes is how it learns. One step moves W, and with it every code, chosen or not, towards where the
encoder's vectors are: no code is left behind. The random e_k themselves stay as they were drawn.

References:
    [1] Zhu et al., Addressing Representation Collapse in Vector Quantized Models with One Linear
        Layer, 2024. arXiv 2411.02038
    [2] Su Jianlin, https://kexue.fm/archives/10519
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_vqlinear.nearest import nearest
from kexue_vqlinear.quantizer import Quantizer, with_gradient_of
from kexue_vqlinear.vq import VQ

__all__ = ["SimVQ", "Transform"]

Transform: TypeAlias = Literal["linear", "diagonal"]


class SimVQ(Quantizer):
    """Vector quantisation with a linear map over the codes [1].

    Args:
        dim, num_embeddings, options: See `Quantizer`.
        frozen: Leave the random e_k ~ N(0, 1/dim) as they are, and learn the map alone [1]. The
            other way works about as well [2].
        transform: "linear", or "diagonal" for one factor a coordinate that starts at 1, which lies
            between plain VQ and SimVQ [2].
        bias: Whether there is a b; [1] has one.

    Example:
        >>> quantize = SimVQ(128, 8192, channel_first=True)
        >>> quantized, codes, loss, diagnostics = quantize(torch.randn(2, 128, 8, 8))
        >>> bool((quantize.from_codes(codes) == quantized).all())
        True
    """

    embedding: Tensor

    def __init__(
        self,
        dim: int,
        num_embeddings: int,
        *,
        frozen: bool = True,
        transform: Transform = "linear",
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_embeddings, **options)
        if transform not in ("linear", "diagonal"):
            raise ValueError(f"transform must be 'linear' or 'diagonal', got {transform!r}")
        self.transform = transform
        embedding = torch.randn(num_embeddings, dim) * dim**-0.5
        if frozen:
            self.register_buffer("embedding", embedding)
        else:
            self.register_parameter("embedding", nn.Parameter(embedding))
        if transform == "diagonal":
            self.weight = nn.Parameter(torch.ones(dim))
            self.bias = nn.Parameter(torch.zeros(dim)) if bias else None
        else:
            linear = nn.Linear(dim, dim, bias=bias)  # for its initialisation
            self.weight = nn.Parameter(linear.weight.detach())
            self.bias = nn.Parameter(linear.bias.detach()) if bias else None

    def codes_of(self, embedding: Tensor) -> Tensor:
        """The map over rows e of the table: e W + b, (k, dim)."""
        if self.transform == "linear":
            return F.linear(embedding, self.weight, self.bias)
        scaled = embedding * self.weight
        return scaled if self.bias is None else scaled + self.bias

    @torch.no_grad()
    def table(self) -> Tensor:
        """All codes after the map."""
        return self.codes_of(self.embedding)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Quantizer.quantize`.

        The search sees all codes and no gradient; the gradient sees the chosen codes alone, which
        is exact and takes no memory of the size of the table.
        """
        table = self.table()
        codes = nearest(z, table, temperature=self.temperature if self.training else 0.0)
        # The map of the chosen rows differs from the table's in the last bits: other sizes, other
        # kernels. The value is the table's.
        e = with_gradient_of(self.codes_of(F.embedding(codes, self.embedding)), table[codes])
        return self.estimate(z, e), codes, self.commit(z, e)

    @torch.no_grad()
    def bake(self) -> VQ:
        """A plain `VQ` with the same codes and outputs, bit for bit, for inference."""
        options = {"codebook": self.codebook, "commitment": self.commitment}
        baked = VQ(self.dim, self.num_embeddings, channel_first=self.channel_first, **options)
        baked.embedding = nn.Parameter(self.table(), requires_grad=False)
        return baked.eval()
