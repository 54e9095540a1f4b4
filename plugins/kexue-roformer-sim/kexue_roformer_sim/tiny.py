"""How ``roformer-sim-tiny`` is trained, from nothing, on one core.

1. Token vectors from the statistics of the texts, beside random ones that keep tokens apart.
2. A static stage: no layer runs. The mean of the token vectors, weighted by a learned weight of
   each that begins at its idf, through one linear map.
3. The layers, whose last maps begin at 0: they change nothing until they are better. Ranking
   within a source (CoSENT) and finding the partner in the batch (InfoNCE) make the vectors,
   cross-entropy the rewriting.
4. A part of their mean is added to all vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_core.training import Batch, Card, RecipeConfig, StepContext
from kexue_roformer_sim.losses import cosent_loss, info_nce
from kexue_roformer_sim.model import RoFormerSim
from kexue_roformer_sim.recipes import SimConfig, SimRecipe, encode_texts, write_loss
from kexue_roformer_sim.vocabulary import inverse_frequencies, token_vectors
from kexue_roformer_sim.writing import WritingStream

__all__ = ["RoFormerSimTiny", "TinyConfig"]

#: Texts of the data whose statistics make token vectors, at most.
STATISTICS = 400_000

#: Of so many texts of the training, at most twice as many, the mean vector moves all.
MEAN_OF = 20_000

#: Share of the static stage in which its learning rate falls.
FALL = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyConfig(SimConfig):
    """Settings of the training; the others are those of :class:`SimConfig`.

    Attributes:
        batch_size: Blocks of a static step.
        layer_pairs: Pairs of a step with layers, the first of the batch: each costs ten times a
            static one.
        write_pairs: Synonyms that a step writes, drawn from all sources.
        write_texts: Texts that it restores from what holes leave of them.
        write_weight: Weight of either loss.
        static_steps: Steps of the static stage.
        static_learning_rate: Its learning rate; the other stage begins at ``learning_rate``.
        scale: Times the cosine in both contrastive losses.
        ranked: Beginnings of the names of sources whose labels are worth ranking by.
        ranking: Weight of CoSENT within these; that of InfoNCE is 1 less it.
        ranking_elsewhere: The same within all others.
        statistics: Share of the length of a token's first vector that comes from PMI; 0 for none.
        shift: How many times the mean of the training texts' vectors every vector is moved by when
            the training has ended; 0 for none.
    """

    steps: int = 1_400
    batch_size: int = 1
    block: int = 512
    favoured: tuple[str, ...] = ("lcqmc", "stsb", "csnli")
    favour: float = 8.0
    ema: float = 0.999
    evaluate_every: int = 200
    preview_every: int = 0
    checkpoint_every: int = 100
    vocab_size: int = 5_300
    hidden_size: int = 384
    layers: int = 2
    heads: int = 6
    intermediate_size: int = 1536
    pooling: Literal["cls", "mean"] = "mean"
    token_weights: bool = True
    dropout: float = 0.1
    learning_rate: float = 5e-4
    # With a smaller one a token that is met once moves as far as one that is met always, away from
    # where the statistics put it.
    eps: float = 1e-5
    warmup: int = 100
    write_pairs: int = 64
    write_texts: int = 64
    write_weight: float = 0.25
    holes: float = 0.2
    layer_pairs: int = 128
    static_steps: int = 400
    static_learning_rate: float = 5e-3
    scale: float = 20.0
    ranked: tuple[str, ...] = ("lcqmc", "stsb")
    ranking: float = 0.8
    ranking_elsewhere: float = 0.05
    statistics: float = 0.4
    shift: float = 0.25


class RoFormerSimTiny(SimRecipe):
    """Sentence vectors and rewriting in 11 MiB, from pairs alone."""

    Config: ClassVar[type[RecipeConfig]] = TinyConfig
    config: TinyConfig
    _stream: WritingStream | None = None
    card: ClassVar[Card] = Card(
        summary="Chinese sentence vectors and similar-question generation in 11 MiB: RoFormer with "
        "2 layers of width 384, characters as tokens, trained from nothing on one CPU core.",
        data="a pool of public Chinese pair sets (AFQMC, ATEC, BQ, LCQMC, OPPO, PAWS-X, CCKS, "
        "STS-B zh, CSNLI, CMNLI, OCNLI, similar sentences), of ATEC, BQ, LCQMC and PAWS-X the "
        "validation splits; held out by sentence, and no sentence of the test sets among them",
        license="LicenseRef-research-only",
        terms="Several of the sets (LCQMC, BQ among them) are for non-commercial research only and "
        "may not be redistributed, and so these weights are for research only.",
        limits="Short everyday questions and captions. It knows no facts and little negation; far "
        "below RoFormer-Sim base. It has barely learned to write: few rewrites are sentences, and "
        "rewrite_cosine says how near they are to what they were to rewrite.",
    )

    def build(self) -> Mapping[str, nn.Module]:
        """A new model; its tokens begin at what the texts say of them."""
        model = self._model()
        if self._train is not None and not self.config.initial:
            self._begin(model)
        return {"model": model}

    @torch.no_grad()
    def _begin(self, model: RoFormerSim) -> None:
        assert self._train is not None
        assert self._corpus is not None
        c = model.config
        rows = self._train.rows + self._other_rows()
        if self.config.statistics:
            # Statistics alone confuse tokens that stand in like places.
            learned = token_vectors(rows, c.vocab_size, c.hidden_size)
            random = F.normalize(torch.randn(c.vocab_size, c.hidden_size), dim=-1)
            share = self.config.statistics
            mixed = share * learned + math.sqrt(1 - share**2) * random
            # LN brings them to deviation 1; begun there, AdamW's steps are of the right size.
            model.embeddings.tokens.weight.copy_(mixed * math.sqrt(c.hidden_size))
        model.embeddings.segments.weight.zero_()
        if model.head is not None:
            # A product of two vectors of length sqrt(width) otherwise: logits of deviation 16.
            model.head.norm.weight.fill_(c.hidden_size**-0.5)
        if model.token_weight is not None:
            idf = inverse_frequencies(rows, c.vocab_size).clamp(min=0.02)
            model.token_weight.copy_(idf.log())
        if c.pooling == "mean":
            model.pooler.weight.copy_(torch.eye(c.hidden_size))
        for layer in model.layers:
            for last in (layer.attention, layer.outer):
                nn.init.zeros_(last.weight)  # type: ignore[arg-type,union-attr]  # ModuleList forgets its kind

    def finish(self, model: nn.Module) -> None:
        """Add ``shift`` times their mean to all vectors, before these are normalised.

        A text of which the net knows little has a short vector; with the mean added it is nearer to
        everything, and its cosines decide less. The training itself cannot find this out: it knows
        all of its texts well.
        """
        if not self.config.shift:
            return
        assert self._train is not None
        assert isinstance(model, RoFormerSim)
        texts = self._train.texts[:: max(1, len(self._train.texts) // MEAN_OF)]
        vectors = model.embed(texts, normalize_embeddings=False, convert_to_tensor=True)
        model.pooler.bias.add_(self.config.shift * vectors.double().mean(0))

    def learning_rate_scale(self, step: int) -> float:
        """Constant in the static stage, then a line to 0; of the layers a short rise and half a
        cosine.
        """
        c = self.config
        if step < c.static_steps:
            left = (c.static_steps - step) / c.static_steps
            return min(1.0, left / FALL) * c.static_learning_rate / c.learning_rate
        step, steps = step - c.static_steps, max(1, c.steps - c.static_steps)
        return min(1.0, (step + 1) / max(1, c.warmup)) * (1 + math.cos(math.pi * step / steps)) / 2

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """One step; CoSENT and InfoNCE in nats, ``write`` and ``restore`` in nats a token."""
        c, model = self.config, modules["model"]
        static = context.step < c.static_steps
        if not static:
            batch = {name: rows[: c.layer_pairs] for name, rows in batch.items()}
        with torch.autocast(context.device.type, torch.bfloat16, enabled=c.bfloat16 and not static):
            a, b = encode_texts(model, [batch["a"], batch["b"]], depth=0 if static else None)
            writing = c.write_pairs > 0 and c.write_weight > 0 and not static
            written = self._write(model, context) if writing else {}
        cosines = F.cosine_similarity(a.float(), b.float(), dim=-1)
        ranked = cosent_loss(cosines, batch["label"], batch["source"], c.scale)
        found = info_nce(a, b, batch["positive"], (batch["text_a"], batch["text_b"]), c.scale)
        weight = self._ranking(batch["source"])
        loss = weight * ranked + (1 - weight) * found
        logged = {"cosent": ranked, "nce": found}
        for part in written.values():
            loss = loss + c.write_weight * part
        return {"loss": loss, **logged, **written, **context.minimize("model", loss, clip=1.0)}

    def _write(self, model: nn.Module, context: StepContext) -> dict[str, Tensor]:
        c = self.config
        assert self._train is not None
        if self._stream is None:
            self._stream = WritingStream(self._train, self._other_rows())

        def loss(first: Tensor, second: Tensor, holed: Tensor) -> Tensor:
            if not len(first):
                return next(model.parameters()).sum() * 0.0
            first, second = first.to(context.device), second.to(context.device)
            return write_loss(
                model,
                first,
                second,
                holed,
                context=context,
                share=c.holes,
                tokenizer=self.tokenizer,
            )

        noise = context.noise(c.write_pairs, "uniform", 4)
        first, second = self._stream.synonyms(noise[:, :3].cpu())
        losses = {"write": loss(first, second, noise[: len(first), 3] < c.corrupted)}
        if c.write_texts:
            noise = context.noise(c.write_texts, "uniform")
            texts = self._stream.texts(noise.cpu())
            losses["restore"] = loss(texts, texts, torch.ones_like(noise, dtype=torch.bool))
        return losses

    def _other_rows(self) -> list[list[int]]:
        assert self._train is not None
        assert self._corpus is not None
        more = self._corpus.texts[: max(0, STATISTICS - len(self._train.rows))]
        return self.tokenizer.encode(more, self.config.max_length)

    def _ranking(self, source: Tensor) -> Tensor:
        # Its mean over the pairs; they are of one source, but where blocks are small.
        assert self._train is not None
        c = self.config
        weights = [
            c.ranking if name.startswith(tuple(c.ranked)) else c.ranking_elsewhere
            for name in self._train.sources
        ]
        return torch.tensor(weights, device=source.device)[source].mean()
