"""How ``zlpr-reuters`` is trained: hashed n-grams, ZLPR, AdamW with a linear fall to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from kexue_core.errors import DataError
from kexue_core.training import Batch, Card, Dataset, Recipe, RecipeConfig, Split, StepContext
from kexue_zlpr.text_classifier import TextClassifier, TextClassifierConfig
from kexue_zlpr.texts import Texts, f1_scores, multi_hot, read_texts, split_of
from kexue_zlpr.zlpr import zlpr_loss, zlpr_predict

__all__ = ["FeaturizedTexts", "ZLPRReuters", "ZLPRReutersConfig"]

EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ZLPRReutersConfig(RecipeConfig):
    """Settings of the training.

    Attributes:
        level, ngrams, buckets, max_features, width, hidden, dropout: The classifier's, see
            :class:`~kexue_zlpr.text_classifier.TextClassifierConfig`.
        learning_rate: AdamW's at the start; it falls linearly to zero.
        weight_decay: AdamW's.
    """

    steps: int = 2_000
    batch_size: int = 64
    ema: float = 0.99
    evaluate_every: int = 250
    preview_every: int = 0
    checkpoint_every: int = 500
    level: Literal["word", "char"] = "word"
    ngrams: int = 2
    buckets: int = 30_000
    max_features: int = 512
    width: int = 48
    hidden: int = 128
    dropout: float = 0.2
    learning_rate: float = 5e-3
    weight_decay: float = 1e-4


class FeaturizedTexts:
    """Texts as feature numbers with multi-hot targets."""

    def __init__(self, texts: Texts, model: TextClassifier) -> None:
        self.name = texts.name
        self.fingerprint = texts.fingerprint
        self.features = model.featurize(texts.texts)
        self.targets = multi_hot(texts.labels, model.config.labels)

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, indices: Sequence[int]) -> Batch:
        """``features`` (n, L) and ``targets`` (n, labels), without columns of mere padding."""
        features = self.features[list(indices)]
        longest = max(1, int((features > 0).sum(-1).max())) if len(features) else 1
        return {"features": features[:, :longest], "targets": self.targets[list(indices)]}


class ZLPRReuters(Recipe):
    """The classifier on Reuters-21578, or on any .jsonl of texts and labels."""

    Config: ClassVar[type[RecipeConfig]] = ZLPRReutersConfig
    config: ZLPRReutersConfig
    card: ClassVar[Card] = Card(
        summary="A small multi-label classifier of English business news into the 90 topics of "
        "Reuters-21578, trained with ZLPR: a topic is predicted where its logit is above 0.",
        data="Reuters-21578 (Lewis, 1997), training documents of the ModApte split; our own "
        "division of them: every tenth is test, the one before it validation",
        license="LicenseRef-Reuters-research",
        terms="Reuters-21578 is for research purposes only, and so are these weights.",
        limits="News of 1987 from one agency; rare topics have a handful of examples and are "
        "seldom found. Scores order labels and are no calibrated probabilities.",
    )
    _labels: tuple[str, ...] = ()

    def data(self, source: str | None, split: Split) -> Dataset:
        """One split of a .jsonl (or .jsonl.gz) file, see :func:`kexue_zlpr.texts.read_texts`."""
        if source is None:
            raise DataError(
                "Reuters-21578 may not be redistributed, so this recipe has no default data",
                hint='Name a file of lines {"text": ..., "labels": [...]} with --data FILE.jsonl',
            )
        texts = read_texts(Path(source))
        self._labels = texts.vocabulary
        model = TextClassifier(self._classifier())
        return cast(
            Dataset, FeaturizedTexts(texts.select(split_of(len(texts.texts), split)), model)
        )

    def build(self) -> Mapping[str, nn.Module]:
        """A new classifier of the labels in the data that was opened."""
        return {"model": TextClassifier(self._classifier())}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """AdamW over everything."""
        c = self.config
        parameters = modules["model"].parameters()
        return {
            "model": torch.optim.AdamW(parameters, lr=c.learning_rate, weight_decay=c.weight_decay)
        }

    def learning_rate_scale(self, step: int) -> float:
        """A linear fall to zero."""
        return 1 - step / self.config.steps

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """One step on the mean ZLPR of a batch, in nats."""
        loss = zlpr_loss(modules["model"](batch["features"]), batch["targets"])
        return {"loss": loss, **context.minimize("model", loss, clip=5.0)}

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Micro and macro F1 at threshold 0, in [0, 1], and the loss in nats."""
        n = len(data) if limit is None else min(limit, len(data))
        device = next(model.parameters()).device
        logits, targets = [], []
        for i in range(0, n, EVALUATION_BATCH):
            batch = data.batch(range(i, min(n, i + EVALUATION_BATCH)))
            logits.append(model(batch["features"].to(device)).float().cpu())
            targets.append(batch["targets"])
        scores, truth = torch.cat(logits), torch.cat(targets)
        micro, macro = f1_scores(zlpr_predict(scores), truth)
        return {"micro_f1": micro, "macro_f1": macro, "zlpr": float(zlpr_loss(scores, truth))}

    def preprocess(self) -> Mapping[str, Any]:
        """Texts."""
        return {"modality": "text"}

    def _classifier(self) -> TextClassifierConfig:
        c = self.config
        return TextClassifierConfig(
            labels=self._labels or ("label",),  # before any data is opened: a model to look at
            level=c.level,
            ngrams=c.ngrams,
            buckets=c.buckets,
            max_features=c.max_features,
            width=c.width,
            hidden=c.hidden,
            dropout=c.dropout,
        )
