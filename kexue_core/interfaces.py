"""What the verbs call: the interfaces of models, losses and samplers.

They are Protocols. A model is a plain ``nn.Module`` that happens to have the methods; it inherits
nothing from kexue and does not import it. A spec declares the capabilities by name, the verbs
dispatch on that declaration, and the conformance kit checks that the methods keep their word.

This module imports torch for type checkers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor, nn

__all__ = [
    "Assets",
    "Classifier",
    "CodeModel",
    "CodePrior",
    "DensityModel",
    "EnergyModel",
    "Extractor",
    "Generator",
    "Latent",
    "LatentModel",
    "Loss",
    "Model",
    "Requires",
    "Rewriter",
    "Sampler",
    "TextEncoder",
]

#: A tensor, or a tuple of tensors such as Glow's split levels, whose first dimension is the sample.
Latent: TypeAlias = "Tensor | tuple[Tensor, ...]"


@runtime_checkable
class Model(Protocol):
    """A ``torch.nn.Module`` that keeps the frozen dataclass it was built from."""

    config: Any


@runtime_checkable
class Assets(Protocol):
    """A model that needs files beside its tensors: a vocabulary, a list of labels.

    Its config cannot name them, since a config must not know where it is kept. Loading calls
    ``load_assets`` last, with the verified folder; saving calls ``save_assets``.
    """

    def load_assets(self, folder: Path) -> None:
        """Read the files; ``ValueError`` where they are malformed."""
        ...

    def save_assets(self, folder: Path) -> None:
        """Write the files, always the same bytes for the same model."""
        ...


@runtime_checkable
class Requires(Protocol):
    """A model that works with others: a prior over codes needs the codec that decodes them.

    Its weights name theirs under ``requires`` in ``config.json``. :func:`kexue_core.api.load` loads
    those too and calls ``attach`` last. What is attached is no part of the model: neither its
    ``parameters()`` nor its ``state_dict()`` know of it, so that it is neither trained nor saved.
    """

    def attach(self, required: Sequence[nn.Module]) -> None:
        """Take the models that ``requires`` names, in its order; ``ValueError`` if they do not fit.

        They come in eval mode, on the model's device and in its number type.
        """
        ...


@runtime_checkable
class Loss(Protocol):
    """A callable whose result is a scalar, or one value a sample where its reduction says so."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of the arguments that the spec's ``example`` shows."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """A function that draws from a model."""

    def __call__(self, model: Any, n: int, *, generator: torch.Generator, **options: Any) -> Tensor:
        """Draw ``n`` samples, (n, *data_shape) in [0, 1] for images.

        All randomness comes from ``generator`` (on the CPU), drawn sample by sample, so that
        sample *i* of a seed is the same however many are drawn and in whatever batches.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """Latents in, data out, and no way back (a GAN): ``sample``, ``interpolate``."""

    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Latent:
        """Draw ``n`` latents from the prior, its standard deviation times ``temperature``.

        ``generator`` lives on the CPU and is used one sample after the other.
        """
        ...

    def decode(self, latent: Latent) -> Tensor:
        """Map latents to data, (n, *data_shape) in [0, 1]."""
        ...


@runtime_checkable
class LatentModel(Generator, Protocol):
    """A generator that also encodes: ``sample``, ``reconstruct``, ``interpolate``."""

    def to_latent(self, x: Tensor) -> Latent:
        """Map data in [0, 1], (n, *data_shape), to latents."""
        ...


@runtime_checkable
class DensityModel(Protocol):
    """A model of p(x), exact or a stated bound: ``score``."""

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum, without the batch dimension."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (n,), for data in [0, 1], (n, *data_shape)."""
        ...

    def bits_per_dim(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Bits per dimension of quantised data, (n,); ``generator`` draws the dequantisation."""
        ...


@runtime_checkable
class EnergyModel(Protocol):
    """An unnormalised model exp(-energy(x)): ``sample``, ``score``."""

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum, without the batch dimension."""
        ...

    def energy(self, x: Tensor) -> Tensor:
        """Energy in nats up to a constant, (n,), for data (n, *data_shape)."""
        ...


@runtime_checkable
class CodeModel(Protocol):
    """An autoencoder with discrete codes: ``reconstruct``. To sample it takes a code prior."""

    def to_codes(self, x: Tensor) -> Tensor:
        """Integer codes, (n, *code_shape), of data in [0, 1], (n, *data_shape)."""
        ...

    def from_codes(self, codes: Tensor) -> Tensor:
        """Data in [0, 1], (n, *data_shape), of integer codes (n, *code_shape)."""
        ...


@runtime_checkable
class CodePrior(Requires, Protocol):
    """p(codes) of a :class:`CodeModel`, which it requires: ``sample``."""

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of the codes of one datum."""
        ...

    def log_prob(self, codes: Tensor) -> Tensor:
        """log p in nats, (n,), of integer codes (n, *code_shape)."""
        ...

    def sample_codes(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw integer codes (n, *code_shape).

        ``temperature`` divides the logits, and ``top_k`` > 0 admits the k likeliest codes only.
        ``generator`` lives on the CPU and is used one sample after the other.
        """
        ...

    def from_codes(self, codes: Tensor) -> Tensor:
        """Data in [0, 1] of integer codes, by the model required; ``ValueError`` without one."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Sentence vectors: ``embed``, ``similar``."""

    def embed(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Vectors (n, d), float32, one a text, independent of order and batch."""
        ...


@runtime_checkable
class Rewriter(Protocol):
    """Paraphrases: ``rewrite``."""

    def rewrite(self, text: str, n: int, *, method: str = "sample") -> Sequence[Any]:
        """Up to ``n`` distinct rewrites of ``text`` with their scores, best first."""
        ...


@runtime_checkable
class Extractor(Protocol):
    """Structured facts of texts: ``extract``.

    A piece of the text is a mapping ``{"text", "start", "end"}``, alone or inside a fact, and
    ``texts[i][start:end]`` is its ``text``.
    """

    def extract(self, texts: Sequence[str]) -> Sequence[Sequence[Mapping[str, Any]]]:
        """For each text its facts, such as ``{"subject": piece, "predicate": ..., ...}``."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """Labels of data: ``classify``."""

    def classify(self, x: Any) -> Sequence[Sequence[tuple[str, float]]]:
        """For each input its labels with scores in [0, 1], best first."""
        ...
