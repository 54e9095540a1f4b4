"""The stages of the posts: write and contrast, learn from a teacher, learn from labels.

References:
    [1] Su Jianlin, SimBERTv2: RoFormer-Sim, https://kexue.fm/archives/8454
    [2] Su Jianlin, RoFormer-Sim with supervision, https://kexue.fm/archives/8541
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from kexue_core.errors import ConfigError
from kexue_core.training import Batch, Card, Dataset, RecipeConfig, Split, StepContext
from kexue_roformer_sim.data import TokenPairs
from kexue_roformer_sim.encoder import Encoded
from kexue_roformer_sim.losses import distillation_loss, pair_logits_loss, simbert_loss
from kexue_roformer_sim.model import RoFormerSim
from kexue_roformer_sim.recipes import SimConfig, SimRecipe, encode_texts, holes_in, write_synonyms
from kexue_roformer_sim.sequences import join, targets_of
from kexue_roformer_sim.tokenizer import pad

__all__ = ["Stage1", "Stage1Config", "Stage2", "Stage2Config", "Supervised", "SupervisedConfig"]

_YOURS = Card(
    summary="Sentence vectors and similar-question generation by RoFormer-Sim.",
    data="pairs of texts given by whoever trained it",
    license="LicenseRef-data",
    terms="The terms of the texts that it was trained on hold.",
    limits="Those of its training texts.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage1Config(SimConfig):
    """Settings of :class:`Stage1`, the defaults those of [1]; the others: :class:`SimConfig`.

    Attributes:
        batch_size: Pairs; each is read in both orders.
        scale: Times the cosine: 20 [1], 30 in SimBERT.
        contrast: Weight of the contrastive loss; 0 for none.
    """

    steps: int = 200_000
    batch_size: int = 48
    ema: float = 0.0
    evaluate_every: int = 5_000
    preview_every: int = 0
    checkpoint_every: int = 5_000
    dropout: float = 0.2
    warmup: int = 1_000
    scale: float = 20.0
    contrast: float = 1.0


class Stage1(SimRecipe):
    """UniLM + contrast + corruption [1]: ``[CLS] a [SEP] b [SEP]``, in both orders, one pass.

    [CLS] sees the first segment only, so the pass that learns to write b gives the vector of a.
    """

    Config: ClassVar[type[RecipeConfig]] = Stage1Config
    config: Stage1Config
    card: ClassVar[Card] = _YOURS

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """``write`` in nats a token, ``contrast`` in nats."""
        c, model = self.config, modules["model"]
        rows = batch["synonym"]
        a, b = batch["a"], batch["b"]
        width = max(a.shape[1], b.shape[1])
        a, b = (nn.functional.pad(x, (0, width - x.shape[1])) for x in (a, b))
        # Rows 2 i and 2 i + 1 are the two orders of a pair.
        first = torch.stack([a, b], 1).flatten(0, 1)
        second = torch.stack([b, a], 1).flatten(0, 1)
        tokens, segments = join(first, second)
        predict, targets = targets_of(tokens, segments)
        chosen = context.noise(len(a), "uniform", 2).flatten() < c.corrupted
        tokens = holes_in(
            tokens, segments, chosen, context=context, share=c.holes, tokenizer=self.tokenizer
        )
        both = rows.repeat_interleave(2)
        if not rows.any():  # a batch of pairs that say different things
            zero = next(model.parameters()).sum() * 0.0
            return {"loss": zero, **context.minimize("model", zero)}
        predict = predict & both[:, None]
        targets = targets[both.repeat_interleave((segments == 1).sum(-1))]
        with torch.autocast(context.device.type, torch.bfloat16, enabled=c.bfloat16):
            encoded: Encoded = model(tokens, segments, predict)
        assert encoded.logits is not None
        written = nn.functional.cross_entropy(encoded.logits.float(), targets)
        contrast = simbert_loss(encoded.vector[both], c.scale)
        loss = c.write_weight * written + c.contrast * contrast
        logged = {"write": written, "contrast": contrast}
        return {"loss": loss, **logged, **context.minimize("model", loss, clip=1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage2Config(SimConfig):
    """Settings of :class:`Stage2`; the others: :class:`SimConfig`.

    Attributes:
        teacher: Reference of the weights to learn from, of any sizes and vocabulary.
        batch_size: Pairs.
    """

    teacher: str = ""
    steps: int = 50_000
    batch_size: int = 48
    ema: float = 0.0
    evaluate_every: int = 5_000
    preview_every: int = 0
    checkpoint_every: int = 5_000
    dropout: float = 0.2
    warmup: int = 1_000


class Stage2(SimRecipe):
    """Distillation [1]: the student's cosines within a batch become the teacher's.

    100 * mean((cos_student - cos_teacher)^2) plus the cross-entropy of writing, so that a net that
    learns to compare does not forget to write.
    """

    Config: ClassVar[type[RecipeConfig]] = Stage2Config
    config: Stage2Config
    card: ClassVar[Card] = _YOURS
    _teacher: RoFormerSim | None = None

    def data(self, source: str | None, split: Split) -> Dataset:
        """As every recipe's here; training texts are also tokens of the teacher.

        Raises:
            ConfigError: No teacher is named.
        """
        data = super().data(source, split)
        if split != "train":
            return data
        if not self.config.teacher:
            raise ConfigError("No teacher is named", hint="Add --set teacher=NAME")
        self._teacher = self._initial(self.config.teacher).requires_grad_(False)
        return cast(Dataset, _TaughtPairs(cast(TokenPairs, data), self._teacher))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """``distil`` is 100 times a squared difference of cosines, ``write`` nats a token."""
        c, model = self.config, modules["model"]
        assert self._teacher is not None
        teacher = self._teacher.to(context.device).eval()
        with torch.autocast(context.device.type, torch.bfloat16, enabled=c.bfloat16):
            a, b = encode_texts(model, [batch["a"], batch["b"]])
            with torch.no_grad():
                theirs = encode_texts(teacher, [batch["teacher_a"], batch["teacher_b"]])
            written = write_synonyms(model, batch, context, c, self.tokenizer)
        distil = distillation_loss(torch.cat([a, b]), torch.cat(theirs))
        loss = distil + c.write_weight * written
        logged = {"distil": distil, "write": written}
        return {"loss": loss, **logged, **context.minimize("model", loss, clip=1.0)}


class _TaughtPairs:
    """Pairs whose batches also hold the teacher's tokens."""

    def __init__(self, pairs: TokenPairs, teacher: RoFormerSim) -> None:
        self.name = pairs.name
        self.fingerprint = pairs.fingerprint
        self._pairs = pairs
        self._rows = teacher.tokenizer.encode(pairs.texts, teacher.config.max_length)

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, indices: Sequence[int]) -> Batch:
        batch = self._pairs.batch(indices)
        more = {
            f"teacher_{side}": pad([self._rows[i] for i in batch[f"text_{side}"].tolist()])
            for side in ("a", "b")
        }
        return {**batch, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedConfig(SimConfig):
    """Settings of :class:`Supervised`, the defaults those of [2]; the others: :class:`SimConfig`.

    Attributes:
        batch_size: Pairs.
    """

    steps: int = 20_000
    batch_size: int = 96
    ema: float = 0.0
    evaluate_every: int = 2_000
    preview_every: int = 0
    checkpoint_every: int = 2_000
    learning_rate: float = 2e-5
    dropout: float = 0.2
    warmup: int = 500


class Supervised(SimRecipe):
    """Labelled pairs by a linear map of [u; v; |u - v|] without bias [2].

    Sets that say whether two texts mean the same use two of its five logits, inference sets the
    other three; neither competes with the other. The map is thrown away. With ``write_weight`` the
    net goes on writing meanwhile; the post has it learn that again afterwards (:class:`Stage2`).
    """

    Config: ClassVar[type[RecipeConfig]] = SupervisedConfig
    config: SupervisedConfig
    card: ClassVar[Card] = _YOURS

    def build(self) -> Mapping[str, nn.Module]:
        """The net, and the map to five logits."""
        model = self._model()
        return {"model": model, "classes": nn.Linear(3 * model.config.hidden_size, 5, bias=False)}

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """``labels`` in nats, ``write`` in nats a token."""
        c, model = self.config, modules["model"]
        with torch.autocast(context.device.type, torch.bfloat16, enabled=c.bfloat16):
            a, b = encode_texts(model, [batch["a"], batch["b"]])
            writing = c.write_pairs > 0 and c.write_weight > 0
            written = (
                write_synonyms(model, batch, context, c, self.tokenizer)
                if writing
                else a.new_zeros(())
            )
        u, v = a.float(), b.float()
        labelled = batch["kind"] >= 0
        logits = modules["classes"](torch.cat([u, v, (u - v).abs()], -1)[labelled])
        labels = (
            pair_logits_loss(logits, batch["kind"][labelled]) if labelled.any() else logits.sum()
        )
        loss = labels + c.write_weight * written
        logged = {"labels": labels, "write": written}
        return {"loss": loss, **logged, **context.minimize("model", loss, clip=1.0)}
