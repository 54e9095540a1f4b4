"""How ``dgcnn-ie-duie`` is trained: hidden characters first, then triples."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from kexue_core.errors import ConfigError, DataError
from kexue_core.training import Batch, Card, Dataset, Recipe, RecipeConfig, Split, StepContext
from kexue_dgcnn_ie.data import LabelledTexts, open_triples
from kexue_dgcnn_ie.dgcnn import DGCNNConfig
from kexue_dgcnn_ie.distant import Dictionary
from kexue_dgcnn_ie.extractor import Piece, TripleExtractor
from kexue_dgcnn_ie.losses import pointer_loss
from kexue_dgcnn_ie.metric import micro_score
from kexue_dgcnn_ie.pretraining import CharacterHead, join_lines, mask, masked_loss
from kexue_dgcnn_ie.samples import Swap, assemble, draw_subjects, label
from kexue_dgcnn_ie.text import Vocabulary
from kexue_dgcnn_ie.triples import Sample, Schema, Triple, read_texts
from kexue_dgcnn_ie.words import Lexicon, word_vectors

__all__ = ["DGCNNDuIE", "DGCNNDuIEConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DGCNNDuIEConfig(RecipeConfig):
    """Settings of the training.

    Attributes:
        width, dilations, heads, dropout, gate_dropout, gate, attention, start_threshold,
            end_threshold: The model's, see :class:`~kexue_dgcnn_ie.dgcnn.DGCNNConfig`. Half of
            the post's layers by default: twice as fast.
        min_count: Characters that occur less often in the training texts are unknown.
        learning_rate: Adam's, after ``warm_up`` steps of a linear rise, in both phases; in the
            second it falls to zero as a cosine.
        warm_up: Steps; without it the author saw training diverge.
        clip: Largest norm of a gradient.
        pretrain_steps: Steps of the first phase, of ``steps`` in all: hidden characters are
            guessed, on training texts and those of ``unlabelled``.
        pretrain_share: Share of the characters that is hidden.
        unlabelled: Files of texts without labels, ``.jsonl`` or one text a line, ``.gz`` or not.
        words: Whether word vectors are trained on the same texts and added to the characters.
        word_width: Their length.
        distant: Whether triples of other training texts that occur in a text are features.
        swap: Probability that an entity pair of a text is replaced by another of its predicate.
        occurrences: Whether the first or all places of a subject or object are labelled.
        subjects: Most subjects of a text that a step trains the objects of. 1 is the author's way:
            start and end are drawn apart, so that some subjects are wrong and have no objects.
        wrong: With more subjects than one, the probability of such a wrong one beside them.
        forgive: Probability above which what is not labelled counts as unknown rather than false,
            for labels that are known to be incomplete; 1 for never.
        precision: Of matrix products.
    """

    steps: int = 20_500
    batch_size: int = 64
    ema: float = 0.999
    evaluate_every: int = 1_000
    preview_every: int = 0
    checkpoint_every: int = 500
    width: int = 128
    dilations: tuple[int, ...] = (1, 2, 5, 1, 2, 5)
    heads: int = 8
    dropout: float = 0.25
    gate_dropout: float = 0.1
    gate: bool = True
    attention: bool = True
    start_threshold: float = 0.4
    end_threshold: float = 0.3
    min_count: int = 2
    learning_rate: float = 1e-3
    warm_up: int = 400
    clip: float = 5.0
    pretrain_steps: int = 0
    pretrain_share: float = 0.15
    unlabelled: tuple[str, ...] = ()
    words: bool = False
    word_width: int = 64
    distant: bool = False
    swap: float = 0.5
    occurrences: Literal["first", "all"] = "all"
    subjects: int = 3
    wrong: float = 0.5
    forgive: float = 1.0
    precision: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        super(DGCNNDuIEConfig, self).__post_init__()
        if self.subjects < 1:
            raise ValueError("subjects must be at least 1")
        if not 0 <= self.pretrain_steps <= self.steps:
            raise ValueError("pretrain_steps must be between 0 and steps")
        if not 0 < self.pretrain_share < 1:
            raise ValueError("pretrain_share must be between 0 and 1")


class DGCNNDuIE(Recipe):
    """Triples of DuIE 2.0, or of any ``.jsonl`` of texts and triples."""

    Config: ClassVar[type[RecipeConfig]] = DGCNNDuIEConfig
    config: DGCNNDuIEConfig
    card: ClassVar[Card] = Card(
        summary="Extracts (subject, predicate, object) from Chinese text, 55 predicates: dilated "
        "gated convolutions over characters, half pointer and half tagging, no BERT.",
        data="DuIE 2.0 (Li et al., NLPCC 2019), a division of our own of a part of it",
        license="LicenseRef-DuIE-noncommercial",
        terms="DuIE 2.0 is for non-commercial research, and so are these weights.",
        limits="Encyclopaedia and news sentences about people, works, companies and places; many "
        "true triples are not found, for those of the training data are labelled incompletely.",
    )

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        self._samples: list[Sample] = []
        self._vocabulary: Vocabulary | None = None
        self._schema: Schema | None = None
        self._pools: list[list[str]] = []
        self._swap: Swap | None = None
        self._lexicon: Lexicon | None = None
        self._vectors: Tensor | None = None
        self._dictionary: Dictionary | None = None

    def data(self, source: str | None, split: Split) -> Dataset:
        """One split of a ``.jsonl`` (or ``.jsonl.gz``), see :func:`.data.open_triples`.

        The vocabulary and the schema are those of the training texts.
        """
        if source is None:
            raise DataError(
                "DuIE may not be redistributed, so this recipe has no default data",
                hint="Name a file of lines "
                '{"text": ..., "spo": [[subject, predicate, object], ...]} with --data FILE.jsonl',
            )
        opened = open_triples(Path(source), split)
        fingerprint = opened.fingerprint
        if split == "train":
            c = self.config
            self._samples = opened.samples
            labelled = [sample.text for sample in opened.samples]
            self._pools = [labelled, *(join_lines(read_texts(Path(p))) for p in c.unlabelled)]
            self._vocabulary = Vocabulary.of(
                (text for pool in self._pools for text in pool), c.min_count
            )
            self._schema = opened.schema or Schema.of(opened.samples)
            self._swap = Swap(opened.samples)
            if c.words:
                texts = (text for pool in self._pools for text in pool)
                self._lexicon, self._vectors = word_vectors(texts, c.word_width)
            for path in c.unlabelled:
                digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                fingerprint = hashlib.sha256((fingerprint + digest).encode()).hexdigest()
        if self.config.distant and (split == "train" or self._dictionary is None):
            known = opened if split == "train" else open_triples(Path(source), "train")
            self._dictionary = Dictionary(known.samples)
        return cast(Dataset, LabelledTexts(opened.name, opened.samples, fingerprint))

    def build(self) -> Mapping[str, nn.Module]:
        """A new extractor with the vocabulary and schema of the training data, and the head of the
        first phase.
        """
        vocabulary, schema = self._vocabulary, self._schema
        if vocabulary is None or schema is None:  # before any data is opened: a model to look at
            vocabulary, schema = Vocabulary("的"), Schema(("predicate",))
        c = self.config
        model = TripleExtractor(
            DGCNNConfig(
                characters=len(vocabulary),
                predicates=len(schema.predicates),
                width=c.width,
                dilations=c.dilations,
                heads=c.heads,
                dropout=c.dropout,
                gate_dropout=c.gate_dropout,
                gate=c.gate,
                attention=c.attention,
                words=0 if self._lexicon is None else len(self._lexicon),
                word_width=0 if self._lexicon is None else c.word_width,
                distant=c.distant,
                start_threshold=c.start_threshold,
                end_threshold=c.end_threshold,
            )
        )
        model.set_assets(vocabulary, schema, self._lexicon)
        model.dictionary = self._dictionary
        if self._vectors is not None:
            with torch.no_grad():
                model.word.weight.copy_(self._vectors)
        modules: dict[str, nn.Module] = {"model": model}
        if c.pretrain_steps:
            modules["head"] = CharacterHead(c.width, len(vocabulary))
        return modules

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """Adam over everything."""
        parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        return {"model": torch.optim.Adam(parameters, lr=self.config.learning_rate, fused=True)}

    def learning_rate_scale(self, step: int) -> float:
        """A linear rise in both phases; in the second a cosine down to zero."""
        c = self.config
        if step < c.pretrain_steps:
            return min(1.0, (step + 1) / c.warm_up)
        step -= c.pretrain_steps
        rise = min(1.0, (step + 1) / c.warm_up)
        return rise * 0.5 * (1 + math.cos(math.pi * step / (c.steps - c.pretrain_steps)))

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """One step of either phase."""
        c = self.config
        rows = batch["index"].tolist()
        # One number a sample, so that what is drawn for it does not depend on the processes.
        draws = context.noise(len(rows), "uniform", 1).flatten().tolist()
        sources = [random.Random(draw) for draw in draws]
        with torch.autocast(context.device.type, torch.bfloat16, enabled=c.precision == "bfloat16"):
            if context.step < c.pretrain_steps:
                return self._guess(modules, sources, context)
            return self._tag(modules, rows, sources, context)

    def _guess(
        self,
        modules: Mapping[str, nn.Module],
        sources: Sequence[random.Random],
        context: StepContext,
    ) -> Mapping[str, Tensor]:
        """A step on hidden characters; each sample draws its own text."""
        model, head = modules["model"], modules["head"]
        assert isinstance(model, TripleExtractor)
        assert isinstance(head, CharacterHead)
        texts = [source.choice(source.choice(self._pools)) for source in sources]
        tokens = [model.vocabulary.numbers(text[: model.config.positions]) for text in texts]
        masked = mask(tokens, sources[0], self.config.pretrain_share)
        loss = masked_loss(model, head, masked)
        return {"loss": loss, **context.minimize("model", loss, clip=self.config.clip)}

    def _tag(
        self,
        modules: Mapping[str, nn.Module],
        rows: Sequence[int],
        sources: Sequence[random.Random],
        context: StepContext,
    ) -> Mapping[str, Tensor]:
        """A step on triples."""
        c = self.config
        model = modules["model"]
        assert isinstance(model, TripleExtractor)
        assert self._swap is not None
        longest = model.config.positions
        numbers = {p: i for i, p in enumerate(model.schema.predicates)}
        pieces, labels, drawn = [], [], []
        for row, source in zip(rows, sources, strict=True):
            sample = own = self._samples[row]
            if source.random() < c.swap:
                sample = self._swap(sample, source)
            found = label(sample, numbers, which=c.occurrences, longest=longest)
            pieces.append(Piece(sample.text[:longest], own={*own.triples, *sample.triples}))
            labels.append(found)
            drawn.append(draw_subjects(found, source, most=c.subjects, wrong=c.wrong))
        targets = assemble([len(p.text) for p in pieces], labels, drawn, len(numbers))
        encoded = model.read(pieces)
        scores = model.objects(encoded, targets.texts, targets.spans)
        # A mean over characters; the object's is a sum over predicates.
        subject = pointer_loss(encoded.subject, targets.subject, forgive=c.forgive)
        subject = subject / max(1, len(encoded.subject))
        object_ = pointer_loss(scores, targets.object, forgive=c.forgive) / max(1, len(scores))
        loss = subject + object_
        return {
            "loss": loss,
            "subject": subject.detach(),
            "object": object_.detach(),
            **context.minimize("model", loss, clip=c.clip),
        }

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Micro F1, precision and recall of exact triples after repair, F1 without, in [0, 1].

        A model with distant supervision is told the triples of the training texts, which its
        weights do not hold.

        Raises:
            ConfigError: They are not known.
        """
        assert isinstance(model, TripleExtractor)
        assert isinstance(data, LabelledTexts)
        if model.config.distant and model.dictionary is None:
            if self._dictionary is None:
                raise ConfigError(
                    "These weights use distant supervision, and the training texts were not read",
                    hint="Evaluate with --set distant=true",
                )
            model.dictionary = self._dictionary
        samples = data.samples[:limit]
        texts = [sample.text for sample in samples]
        true = [sample.triples for sample in samples]
        found = [
            [Triple(f["subject"]["text"], f["predicate"], f["object"]["text"]) for f in facts]
            for facts in model.extract(texts)
        ]
        score = micro_score(texts, found, true)
        return {
            "f1": score.f1,
            "precision": score.precision,
            "recall": score.recall,
            "f1_unrepaired": micro_score(texts, found, true, repaired=False).f1,
        }

    def preprocess(self) -> Mapping[str, Any]:
        """Texts."""
        return {"modality": "text"}
