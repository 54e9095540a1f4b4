"""What people call: texts in, vectors and rewrites out, on top of the net of :mod:`.encoder`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from kexue_roformer_sim import embedding, rewriting, searching
from kexue_roformer_sim.encoder import Encoder, EncoderConfig
from kexue_roformer_sim.rewriting import Rewrite
from kexue_roformer_sim.searching import Hit
from kexue_roformer_sim.tokenizer import VOCABULARY_FILE, Tokenizer, shipped_vocabulary

if TYPE_CHECKING:
    import numpy as np

__all__ = ["RoFormerSim", "example_input"]


class RoFormerSim(Encoder):
    """RoFormer-Sim, and SimBERT where ``positions="learned"``: one net finds and rewrites.

    >>> model = kexue.load("roformer-sim-tiny")                              # doctest: +SKIP
    >>> model.similarity(["今天天气不错"], ["今天天气很好"])                      # doctest: +SKIP
    >>> model.rewrite("怎么开通信用卡", 5)                                      # doctest: +SKIP
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes tokens of texts.

        Raises:
            ValueError: The vocabulary is a file's that was not read, or has another size.
        """
        if self._tokenizer is None:
            size = self.config.vocab_size
            if self.config.vocabulary == "own" or size > len(shipped_vocabulary()):
                raise ValueError(f"This model has no vocabulary: load a {VOCABULARY_FILE}")
            self.tokenizer = Tokenizer(shipped_vocabulary()[:size])
        assert self._tokenizer is not None
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        if len(tokenizer) != self.config.vocab_size:
            raise ValueError(
                f"the vocabulary has {len(tokenizer)} tokens, the model {self.config.vocab_size}"
            )
        self._tokenizer = tokenizer

    def load_assets(self, folder: Path) -> None:
        """Read ``vocab.txt``; ``ValueError`` where it does not fit."""
        if self.config.vocabulary == "own":
            self.tokenizer = Tokenizer.read(folder / VOCABULARY_FILE)

    def save_assets(self, folder: Path) -> None:
        """Write ``vocab.txt``; nothing where ``kexue convert`` puts it there."""
        if self._tokenizer is not None or self.config.vocabulary == "shipped":
            self.tokenizer.write(folder / VOCABULARY_FILE)

    def embed(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = embedding.BATCH,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        dtype: Literal["float32", "bfloat16", "auto"] | torch.dtype | None = None,
    ) -> Any:
        """Sentence vectors, as sentence-transformers' ``encode`` gives them.

        A text has the same vector whatever stands beside it (to 1e-6 in float32), and permuting
        the texts permutes the vectors bit for bit. An empty text has one too; what the vocabulary
        does not have (most emoji) counts as one unknown token each.

        Args:
            sentences: Texts, or one text.
            batch_size: Texts at once. Results hardly depend on it, speed does: on a CPU 64 beats
                256.
            show_progress_bar: On stderr.
            convert_to_numpy: Give a float32 numpy array.
            convert_to_tensor: Give a float32 tensor on the model's device; wins over the former.
            normalize_embeddings: Divide by the length, so that a dot product is the cosine. This
                is what the model was trained for, hence the default.
            truncate_dim: Keep that many first components (normalised after).
            max_length: Tokens of a text that count; the trained length by default. More is possible
                with ``positions="rope"``, and warned about.
            dtype: What to compute in: that of the weights by default, or ``"float32"``,
                ``"bfloat16"``, or ``"auto"`` for the fastest that keeps the cosine with float32
                above .9999 (see :mod:`kexue_roformer_sim.fast`).

        Returns:
            (n, d), or (d,) for one text; a list of tensors with ``convert_to_numpy=False``.

        Raises:
            ValueError: A setting is out of range.
        """
        return embedding.embed(
            self,
            sentences,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            max_length=max_length,
            dtype=dtype,
        )

    #: The name that sentence-transformers has for it.
    encode = embed

    def similarity(
        self, left: Sequence[str], right: Sequence[str], **settings: Any
    ) -> np.ndarray[Any, Any]:
        """Cosines (len(left), len(right)) in [-1, 1], float32; ``settings`` as for embed."""
        return searching.similarity(self, left, right, **settings)

    def search(
        self,
        queries: Sequence[str],
        corpus: Sequence[str] | np.ndarray[Any, Any],
        k: int = 10,
        **settings: Any,
    ) -> list[list[Hit]]:
        """The ``k`` texts of ``corpus`` that are nearest to each query, by cosine, best first.

        Exact. Memory beyond the corpus' vectors is bounded whatever its size.

        Args:
            queries: Texts.
            corpus: Texts, or their vectors (n, d) from :meth:`embed` (a ``numpy.memmap`` too).
            k: How many; fewer where the corpus is smaller.
            **settings: As for :meth:`embed`.

        Returns:
            For each query hits (place in ``corpus``, cosine), equal ones by their place.

        Raises:
            ValueError: ``k`` is negative, or the vectors have another width.
        """
        return searching.search(self, queries, corpus, k, **settings)

    def rewrite(
        self,
        text: str,
        n: int = 10,
        *,
        method: Literal["sample", "beam"] = "sample",
        samples: int | None = None,
        top_k: int | None = None,
        top_p: float = 0.95,
        temperature: float = 1.0,
        mask: Sequence[int] = (),
        max_length: int | None = None,
        seed: int = 0,
    ) -> list[Rewrite]:
        """Other ways to say ``text``, best first by the cosine of sentence vectors.

        Neither the text itself nor a duplicate is among them, compared without case and blanks. An
        empty text has no rewrites. What the vocabulary does not have cannot be written.

        Args:
            text: What to say in other words; beyond ``max_length`` tokens it is cut off.
            n: At most so many.
            method: ``"sample"`` draws from the nucleus, ``"beam"`` keeps the likeliest.
            samples: How many to write before duplicates go and the best ``n`` are taken; by default
                ``4 n`` samples, ``n`` beams and some.
            top_k: Draw from so many likeliest tokens only.
            top_p: Draw from the likeliest tokens that together have this probability; the one that
                crosses it stays.
            temperature: Above 1 more diverse, below 1 less.
            mask: Positions of characters of ``text`` (from 0) to hide, so that others come there.
            max_length: Tokens of a rewrite; the trained length by default.
            seed: Of what is drawn. The same seed gives the same rewrites.

        Raises:
            ValueError: These weights have no head, or a setting is out of range.
        """
        return rewriting.rewrite(
            self,
            text,
            n,
            method=method,
            samples=samples,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            mask=mask,
            max_length=max_length,
            seed=seed,
        )


def example_input(model: RoFormerSim, n: int, generator: torch.Generator) -> dict[str, Any]:
    """``n`` texts of 5 tokens with 4 written after; the same row whatever ``n``."""
    rows = [torch.randint(1, model.config.vocab_size, (10,), generator=generator) for _ in range(n)]
    tokens = torch.stack(rows) if n else torch.empty(0, 10, dtype=torch.int64)
    tokens[:, -1] = 0
    segments = torch.zeros_like(tokens)
    segments[:, 5:9] = 1
    return {"tokens": tokens, "segments": segments, "predict": True}
