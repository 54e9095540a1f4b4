"""Draw codes from a prior, decode them with the codec that it requires."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kexue_core.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

    from kexue_core.interfaces import CodePrior

__all__ = ["code_prior", "code_prior_example"]


@torch.no_grad()
def code_prior(
    model: CodePrior,
    n: int,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    batch_size: int = 16,
) -> Tensor:
    """Draw `n` samples: codes from the prior, data from the codes.

    Args:
        model: A code prior with its codec attached, as `kexue.load` gives it.
        n: Number of samples, >= 0.
        generator: Source of all randomness, on the CPU; used one sample after the other.
        temperature: Divides the prior's logits. Below 1 trades variety for fidelity; 0 takes the
            likeliest code each time.
        top_k: Draw from the k likeliest codes only; 0 for all.
        batch_size: Samples drawn and decoded at once; it changes none of them.

    Returns:
        Data in [0, 1], (n, *data_shape).

    Raises:
        ConfigError: `n`, `temperature` or `top_k` is negative, or `batch_size` below 1.
        UnsupportedError: The prior has no codec.
    """
    if n < 0 or batch_size < 1 or not temperature >= 0 or top_k < 0:
        raise ConfigError(
            f"Cannot draw n={n} in batches of {batch_size} at temperature {temperature}, "
            f"top_k {top_k}",
            hint="n, temperature and top_k must be >= 0, batch_size >= 1",
        )
    batches = []
    for start in range(0, max(n, 1), batch_size):
        count = min(batch_size, n - start)
        codes = model.sample_codes(count, temperature=temperature, top_k=top_k, generator=generator)
        # A batch of one takes other kernels, whose last bits differ: it gets company.
        company = torch.cat([codes, codes]) if count == 1 else codes
        try:
            batches.append(model.from_codes(company)[:count])
        except ValueError as error:
            raise UnsupportedError(f"The codes cannot be decoded: {error}") from error
    return torch.cat(batches)


def code_prior_example() -> torch.nn.Module:
    """A tiny prior and codec for the conformance kit, moved away from their start."""
    from kexue_vqlinear.autoencoder import VQAutoencoder, VQAutoencoderConfig
    from kexue_vqlinear.prior import CodePrior, CodePriorConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = VQAutoencoder(
            VQAutoencoderConfig(size=8, num_embeddings=16, dim=8, hidden=(8, 8), blocks=1)
        )
        prior = CodePrior(
            CodePriorConfig(shape=(2, 2), num_embeddings=16, width=16, depth=2, heads=2)
        )
        with torch.no_grad():
            for module in (codec, prior):
                for parameter in module.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    prior.attach([codec])
    return prior.eval()
