"""What every quantiser is: rows in, the vectors and numbers of their codes out.

The output is always a row of one table, bit for bit, whatever gradient it carries; so `from_codes`
gives exactly what `forward` gave.

References:
    [1] van den Oord et al., Neural Discrete Representation Learning, 2017. arXiv 1711.00937
    [2] Fifty et al., Restructuring Vector Quantization with the Rotation Trick, 2024.
        arXiv 2410.06424; https://kexue.fm/archives/10489
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from kexue_vqlinear.losses import commitment_loss
from kexue_vqlinear.usage import perplexity, utilization

__all__ = ["Diagnostics", "Estimator", "Quantized", "Quantizer", "rotate", "with_gradient_of"]

Estimator: TypeAlias = Literal["ste", "rotation"]

#: Below this length a vector has no direction.
TINY = 1e-6


class Diagnostics(NamedTuple):
    """How the codes of one call were used. No gradients; of a whole data set see `CodeUsage`.

    Attributes:
        utilization: Share of the codes that occur, in [0, 1].
        perplexity: exp of the entropy of the codes that occur: 1 to K; 0 where there are none.
        error: Mean squared difference, a coordinate, between the vectors and their codes.
    """

    utilization: Tensor
    perplexity: Tensor
    error: Tensor


class Quantized(NamedTuple):
    """What a quantiser returns.

    Attributes:
        quantized: The codes' vectors, in the shape of the input and the codebook's number type.
        codes: Their numbers, int64, in that shape without the channels; -1 where masked out.
        loss: Scalar to add to the loss of the net.
        diagnostics: See `Diagnostics`.
    """

    quantized: Tensor
    codes: Tensor
    loss: Tensor
    diagnostics: Diagnostics


class Quantizer(nn.Module, ABC):
    """Base of the quantisers. A subclass says what its codes are and which is chosen.

    Args:
        dim: d, channels of what is quantised.
        num_embeddings: K, number of codes.
        estimator: Where the gradient of the output goes: "ste" hands it on to the input as it is
            [1]; "rotation" turns and scales it as the code is turned and scaled from the input [2].
        temperature: Above 0, codes are drawn while training (see `nearest`).
        codebook: Weight of |sg z - e|^2 in the loss, which moves the codes.
        commitment: Weight of |z - sg e|^2 in the loss, which moves the encoder.
        channel_first: Channels are dimension 1, as in images, and not the last.

    Raises:
        ValueError: A size below 1, a negative weight or temperature, an unknown estimator; or
            rotation with a temperature, which diverges: a drawn code may point anywhere, and the
            rotation then multiplies the gradient by whatever lies between.
    """

    def __init__(
        self,
        dim: int,
        num_embeddings: int,
        *,
        estimator: Estimator = "ste",
        temperature: float = 0.0,
        codebook: float = 1.0,
        commitment: float = 0.25,
        channel_first: bool = False,
    ) -> None:
        super().__init__()
        if dim < 1 or num_embeddings < 1:
            raise ValueError(f"dim and num_embeddings must be >= 1, got {dim}, {num_embeddings}")
        if estimator not in ("ste", "rotation"):
            raise ValueError(f"estimator must be 'ste' or 'rotation', got {estimator!r}")
        if not (temperature >= 0 and codebook >= 0 and commitment >= 0):
            raise ValueError("temperature, codebook and commitment must be >= 0")
        if estimator == "rotation" and temperature > 0:
            raise ValueError(
                "rotation with a temperature diverges: use estimator='ste', or temperature=0"
            )
        self.dim = dim
        self.num_embeddings = num_embeddings
        self.estimator = estimator
        self.temperature = temperature
        self.codebook = codebook
        self.commitment = commitment
        self.channel_first = channel_first

    @abstractmethod
    def table(self) -> Tensor:
        """The vectors of all codes, (K, dim), without gradient."""

    @abstractmethod
    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise rows (n, dim), n >= 1: (their output with its gradients, codes (n,), loss)."""

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Replace each vector by that of its code.

        Args:
            z: (..., dim), or (n, dim, ...) with `channel_first`.
            mask: True where there is something to quantise, in the shape of `z` without its
                channels. Elsewhere the output is 0, the code -1, and nothing counts or learns.

        Raises:
            ValueError: The channels are not `dim`, the mask has another shape, or a value is NaN,
                infinite or too large to square.
        """
        x = self._channels_last(z)
        shape, flat = x.shape[:-1], x.reshape(-1, self.dim)
        keep = None
        if mask is not None:
            if mask.shape != shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"mask must be boolean of shape {tuple(shape)}, "
                    f"got {mask.dtype} of {tuple(mask.shape)}"
                )
            keep = mask.reshape(-1).nonzero()[:, 0]
            flat = flat[keep]
        # Under autocast the net around may be in half precision; distances must not be.
        with torch.autocast(z.device.type, enabled=False):
            if len(flat):
                output, codes, loss = self.quantize(flat)
                error = (output.detach() - flat.detach()).square().mean()
            else:
                output = flat.to(self.table().dtype)
                codes = torch.zeros(0, dtype=torch.long, device=z.device)
                loss = output.sum()  # 0, and something to differentiate
                error = loss.detach()
        counts = torch.bincount(codes, minlength=self.num_embeddings)
        usage = utilization(counts).to(error.dtype), perplexity(counts).to(error.dtype)
        diagnostics = Diagnostics(*usage, error)
        if keep is not None:
            output = output.new_zeros(shape.numel(), self.dim).index_put((keep,), output)
            codes = codes.new_full((shape.numel(),), -1).index_put((keep,), codes)
        output = output.reshape(*shape, self.dim)
        if self.channel_first:
            output = output.movedim(-1, 1)
        return Quantized(output, codes.reshape(shape), loss, diagnostics)

    @torch.no_grad()
    def to_codes(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The codes that `forward` gives in eval mode: the nearest ones, nothing learns."""
        training = self.training
        try:
            return self.eval()(z, mask).codes  # type: ignore[no-any-return]
        finally:
            self.train(training)

    @torch.no_grad()
    def from_codes(self, codes: Tensor) -> Tensor:
        """Vectors of codes (...): bit for bit what `forward` gave with them; 0 for code -1.

        Returns:
            (..., dim), or (n, dim, ...) with `channel_first`.

        Raises:
            ValueError: Codes are no integers of -1 to K - 1.
        """
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"codes must be integers, got {codes.dtype}")
        if codes.numel() and not -1 <= int(codes.min()) <= int(codes.max()) < self.num_embeddings:
            raise ValueError(
                f"codes must be 0 to {self.num_embeddings - 1} (-1: masked out), "
                f"got {int(codes.min())} to {int(codes.max())}"
            )
        vectors = self.table()[codes.clamp(min=0)]
        vectors = torch.where((codes >= 0)[..., None], vectors, vectors.new_zeros(()))
        return vectors.movedim(-1, 1) if self.channel_first else vectors

    def estimate(self, z: Tensor, e: Tensor) -> Tensor:
        """The codes' vectors e, with the estimator's gradient to z."""
        return with_gradient_of(rotate(z, e) if self.estimator == "rotation" else z, e)

    def commit(self, z: Tensor, e: Tensor) -> Tensor:
        """The loss that draws codes and encoder together."""
        return commitment_loss(z, e, codebook=self.codebook, commitment=self.commitment)

    def _channels_last(self, z: Tensor) -> Tensor:
        where = 1 if self.channel_first else -1
        if z.ndim < 2 or z.shape[where] != self.dim:
            takes = f"(n, {self.dim}, ...)" if self.channel_first else f"(..., {self.dim})"
            raise ValueError(f"{type(self).__name__} takes {takes}, got {tuple(z.shape)}")
        if not z.is_floating_point():
            raise ValueError(f"{type(self).__name__} takes floating-point numbers, got {z.dtype}")
        return z.movedim(1, -1) if self.channel_first else z

    def extra_repr(self) -> str:
        """Sizes and estimator."""
        return f"{self.dim}, num_embeddings={self.num_embeddings}, estimator={self.estimator!r}"


class _Carried(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, carrier: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def with_gradient_of(carrier: Tensor, value: Tensor) -> Tensor:
    """`value`, bit for bit, with the gradient going to `carrier`.

    The usual ``carrier + (value - carrier).detach()`` is only nearly `value`.
    """
    carried: Tensor = _Carried.apply(  # type: ignore[no-untyped-call]
        carrier.to(value.dtype), value.detach()
    )
    return carried


def rotate(z: Tensor, e: Tensor) -> Tensor:
    """z turned and scaled into e, (n, d): (|e| / |z|) R z, with factor and R held constant [2].

    R = I - 2 r r^T + 2 e' z'^T turns z' = z / |z| into e' = e / |e|, where r is the direction of
    z' + e'. Where z is 0, R is arbitrary; gradients stay finite.
    """
    with torch.no_grad():
        z_norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(TINY)
        e_norm = torch.linalg.vector_norm(e, dim=-1, keepdim=True).clamp_min(TINY)
        z_unit, e_unit = z / z_norm, e / e_norm
        r = torch.nn.functional.normalize(z_unit + e_unit, dim=-1, eps=TINY)
    along_r = (z * r).sum(-1, keepdim=True) * r
    along_z = (z * z_unit).sum(-1, keepdim=True) * e_unit
    rotated: Tensor = (e_norm / z_norm) * (z - 2 * along_r + 2 * along_z)
    return rotated
