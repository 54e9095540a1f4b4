"""Quantisers whose codes are rows of a table: learned, or averaged from what they stand for.

References:
    [1] van den Oord et al., Neural Discrete Representation Learning, 2017; appendix A.1 for the
        moving averages. arXiv 1711.00937
    [2] Yu et al., Vector-quantized Image Modeling with Improved VQGAN, 2021, section 3.2: few
        dimensions, unit vectors. arXiv 2110.04627
    [3] https://kexue.fm/archives/6760, https://kexue.fm/archives/10519
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_vqlinear.nearest import nearest
from kexue_vqlinear.quantizer import Quantizer, with_gradient_of

__all__ = ["EMAVQ", "VQ", "CosineVQ"]


class VQ(Quantizer):
    """A learned table of codes [1]. Only the codes that are chosen get a gradient.

    Rows start uniform in +-1/K. See `Quantizer` for the arguments.
    """

    def __init__(self, dim: int, num_embeddings: int, **options: Any) -> None:
        super().__init__(dim, num_embeddings, **options)
        self.embedding = nn.Parameter(
            torch.empty(num_embeddings, dim).uniform_(-1 / num_embeddings, 1 / num_embeddings)
        )

    def table(self) -> Tensor:
        """The table itself."""
        return self.embedding.detach()

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Quantizer.quantize`."""
        codes = nearest(z, self.table(), temperature=self.temperature if self.training else 0.0)
        e = F.embedding(codes, self.embedding)
        return self.estimate(z, e), codes, self.commit(z, e)


class EMAVQ(Quantizer):
    """A table whose rows are moving averages of the vectors that chose them [1, A.1].

    Nothing of it has a gradient; the loss is the commitment term alone. A code that has hardly been
    chosen of late is put on a random vector of the batch, and so are all that the first batch does
    not choose. Each process of several keeps its own averages.

    Args:
        dim, num_embeddings, options: See `Quantizer`; there is no `codebook`.
        decay: Of the averages, in [0, 1).
        threshold: Part of an equal share of the vectors below which a code is dead; 0 revives none.
    """

    embedding: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor

    def __init__(
        self,
        dim: int,
        num_embeddings: int,
        *,
        decay: float = 0.99,
        threshold: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_embeddings, **{"codebook": 0.0, **options})
        if not (0 <= decay < 1 and threshold >= 0):
            raise ValueError(f"decay must be in [0, 1), threshold >= 0, got {decay}, {threshold}")
        if self.codebook:
            raise ValueError("the averages move these codes, not a loss: codebook must be 0")
        self.decay, self.threshold = decay, threshold
        bound = 1 / num_embeddings
        self.register_buffer("embedding", torch.empty(num_embeddings, dim).uniform_(-bound, bound))
        self.register_buffer("cluster_size", torch.zeros(num_embeddings))
        self.register_buffer("cluster_sum", torch.zeros(num_embeddings, dim))

    def table(self) -> Tensor:
        """The averages."""
        return self.embedding

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Quantizer.quantize`; while training, the averages move afterwards."""
        codes = nearest(z, self.embedding, temperature=self.temperature if self.training else 0.0)
        e = self.embedding[codes]
        if self.training:
            self._update(z.detach().to(self.embedding.dtype), codes)
        return self.estimate(z, e), codes, self.commit(z, e)

    @torch.no_grad()
    def _update(self, z: Tensor, codes: Tensor) -> None:
        counts = torch.bincount(codes, minlength=self.num_embeddings).to(z.dtype)
        sums = torch.zeros_like(self.cluster_sum).index_add_(0, codes, z)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.cluster_sum.lerp_(sums, 1 - self.decay)
        share = len(z) / self.num_embeddings
        dead = (self.cluster_size < self.threshold * share).nonzero()[:, 0]
        if len(dead):
            chosen = torch.randint(len(z), (len(dead),), device=z.device)
            self.cluster_size[dead] = share
            self.cluster_sum[dead] = share * z[chosen]
        # A code that was never chosen nor revived stays where it is.
        mean = self.cluster_sum / self.cluster_size[:, None]
        self.embedding.copy_(torch.where(self.cluster_size[:, None] > 0, mean, self.embedding))


class CosineVQ(Quantizer):
    """Unit vectors of few dimensions, chosen by their cosine [2].

    z is projected to `code_dim` dimensions and normalised, and so are the codes; the chosen one is
    projected back.

    Args:
        dim, num_embeddings, options: See `Quantizer`.
        code_dim: Dimensions of the codes.
    """

    def __init__(
        self, dim: int, num_embeddings: int, *, code_dim: int = 16, **options: Any
    ) -> None:
        super().__init__(dim, num_embeddings, **options)
        if code_dim < 1:
            raise ValueError(f"code_dim must be >= 1, got {code_dim}")
        self.project_in = nn.Linear(dim, code_dim)
        self.embedding = nn.Parameter(F.normalize(torch.randn(num_embeddings, code_dim), dim=-1))
        self.project_out = nn.Linear(code_dim, dim)

    @torch.no_grad()
    def table(self) -> Tensor:
        """The normalised codes, projected back."""
        return self.project_out(F.normalize(self.embedding, dim=-1))  # type: ignore[no-any-return]

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Quantizer.quantize`; the loss is between unit vectors."""
        unit = F.normalize(self.project_in(z.to(self.embedding.dtype)), dim=-1)
        table = F.normalize(self.embedding.detach(), dim=-1)
        codes = nearest(
            unit.detach(), table, temperature=self.temperature if self.training else 0.0
        )
        e = F.normalize(F.embedding(codes, self.embedding), dim=-1)
        output = self.project_out(self.estimate(unit, e))
        return with_gradient_of(output, self.table()[codes]), codes, self.commit(unit, e)
