"""The loss that draws codes and encoder together.

References:
    van den Oord et al., Neural Discrete Representation Learning, 2017, eq 3. arXiv 1711.00937
    https://kexue.fm/archives/10519: beta is `codebook`, gamma is `commitment`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VQCommitment", "commitment_loss", "vq_commitment_example"]

REDUCTIONS = ("mean", "sum", "none")


def commitment_loss(
    z: Tensor,
    e: Tensor,
    *,
    codebook: float = 1.0,
    commitment: float = 0.25,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """codebook |sg z - e|^2 + commitment |z - sg e|^2, where sg holds its argument constant.

    Half precision is computed and returned in float32.

    Args:
        z: What the encoder gives, any shape.
        e: Vectors of its codes, in the same shape.
        codebook: Weight of the term that moves the codes; 0 where a moving average moves them.
        commitment: Weight of the term that moves the encoder.
        mask: True where an element counts; broadcast to `z`.
        reduction: "mean" or "sum" over the elements that count, or "none".

    Returns:
        A scalar, or for "none" the shape of `z` (0 where masked out).

    Raises:
        ValueError: The shapes differ, or the reduction is unknown.
    """
    if z.shape != e.shape:
        raise ValueError(f"z and e must have one shape, got {tuple(z.shape)} and {tuple(e.shape)}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    dtype = torch.promote_types(torch.promote_types(z.dtype, e.dtype), torch.float32)
    z, e = z.to(dtype), e.to(dtype)
    if mask is not None:  # before the square, so that what is hidden may be infinite
        z, e = (torch.where(mask, t, t.new_zeros(())) for t in (z, e))
    how = "none" if reduction == "none" else "sum"
    loss = codebook * F.mse_loss(e, z.detach(), reduction=how)
    loss = loss + commitment * F.mse_loss(z, e.detach(), reduction=how)
    if reduction != "mean":
        return loss
    count = z.numel() if mask is None else int(mask.expand_as(z).sum())
    return loss / max(count, 1)


class VQCommitment(nn.Module):
    """`commitment_loss` as a module; see there.

    Example:
        >>> loss = VQCommitment(commitment=0.25)
        >>> loss(z, quantized)  # doctest: +SKIP
    """

    def __init__(
        self, *, codebook: float = 1.0, commitment: float = 0.25, reduction: str = "mean"
    ) -> None:
        super().__init__()
        if not (codebook >= 0 and commitment >= 0):
            raise ValueError(f"weights must be >= 0, got {codebook} and {commitment}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.codebook, self.commitment, self.reduction = codebook, commitment, reduction

    def forward(self, z: Tensor, e: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of vectors z and their codes' vectors e, of one shape."""
        return commitment_loss(
            z,
            e,
            codebook=self.codebook,
            commitment=self.commitment,
            mask=mask,
            reduction=self.reduction,
        )


def vq_commitment_example(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Four vectors and four codes of three dimensions; both learn."""
    z, e = (torch.randn(4, 3, generator=generator) for _ in range(2))
    return z.requires_grad_(), e.requires_grad_()
