"""How weights are trained: small ones from nothing, large ones in the stages of the posts.

All read pairs from a file or a folder, see :mod:`kexue_roformer_sim.texts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

import kexue_core
from kexue_core.errors import ConfigError, DataError
from kexue_core.training import Batch, Dataset, Recipe, RecipeConfig, Split, StepContext
from kexue_roformer_sim.data import HeldOut, TokenPairs
from kexue_roformer_sim.encoder import Encoded, EncoderConfig
from kexue_roformer_sim.measures import measure_rewrites, spearman, spearmans, tfidf_cosines
from kexue_roformer_sim.model import RoFormerSim
from kexue_roformer_sim.sequences import corrupt, join, targets_of
from kexue_roformer_sim.texts import Corpus, read_corpus
from kexue_roformer_sim.tokenizer import Tokenizer, shipped_vocabulary
from kexue_roformer_sim.vocabulary import choose_vocabulary

__all__ = [
    "SimConfig",
    "SimRecipe",
    "encode_texts",
    "holes_in",
    "questions_of",
    "write_loss",
    "write_synonyms",
]

#: Texts that go through the net at once, sorted by length: little padding, and still in cache.
CHUNK = 64

#: Chunks are as wide as a multiple of this, so that there are few shapes: oneDNN prepares for each
#: new one, and memory of like sizes is used again.
LENGTHS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig(RecipeConfig):
    """Settings that all recipes here share.

    Attributes:
        block: Pairs of one source that go together; ``batch_size`` counts such blocks.
        favoured: Beginnings of the names of sources that come more often.
        favour: How many times as often.
        initial: Reference of weights to start from; empty for new ones of the sizes below.
        vocab_size: Tokens of new weights, the most used of RoFormer-Sim's.
        hidden_size, layers, heads, intermediate_size, pooling, token_weights, max_length, dropout:
            Of new weights, see :class:`~kexue_roformer_sim.encoder.EncoderConfig`.
        learning_rate, weight_decay, eps: AdamW's; biases, norms and token weights do not decay.
        warmup: Steps in which the learning rate rises from 0.
        bfloat16: Compute the linear maps of a step in bfloat16.
        write_pairs: Synonyms of a batch whose rewriting is trained; 0 for none.
        write_weight: Weight of that loss.
        corrupted: Share of the texts to rewrite that get holes.
        holes: Share of a text's tokens that are chosen then.
        questions: Held-out questions that are rewritten when weights are measured whole.
    """

    block: int = 1
    favoured: tuple[str, ...] = ()
    favour: float = 1.0
    initial: str = ""
    vocab_size: int = 12_000
    hidden_size: int = 384
    layers: int = 6
    heads: int = 6
    intermediate_size: int = 1536
    pooling: Literal["cls", "mean"] = "cls"
    token_weights: bool = False
    max_length: int = 64
    dropout: float = 0.1
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    eps: float = 1e-8
    warmup: int = 100
    bfloat16: bool = True
    write_pairs: int = 32
    write_weight: float = 1.0
    corrupted: float = 0.5
    holes: float = 0.15
    questions: int = 200


class SimRecipe(Recipe):
    """Data, modules, optimiser and measuring; a subclass adds :meth:`step` and its card."""

    Config: ClassVar[type[RecipeConfig]] = SimConfig
    config: SimConfig
    _corpus: Corpus | None = None
    _train: TokenPairs | None = None
    _tokenizer: Tokenizer | None = None
    _source: str | None = None

    def data(self, source: str | None, split: Split) -> Dataset:
        """Pairs of a file or folder: ``train`` as tokens, ``val`` and ``test`` by their source."""
        corpus = self._read(source)
        if split == "train":
            if not corpus.train:
                raise DataError(
                    f"{corpus.name} is held out by its name", hint="Name other pairs to train on"
                )
            self._train = TokenPairs(
                corpus.name,
                corpus.train,
                self._make_tokenizer(corpus),
                self.config.max_length,
                block=self.config.block,
                favoured=dict.fromkeys(self.config.favoured, self.config.favour),
            )
            return cast(Dataset, self._train)
        groups = corpus.val if split == "val" else corpus.test
        if not groups:
            raise DataError(f"{corpus.name} holds nothing to hold out", hint="Give more pairs")
        return cast(Dataset, HeldOut(corpus.name, groups))

    def build(self) -> Mapping[str, nn.Module]:
        """The weights to start from, or new ones of the vocabulary of the data."""
        return {"model": self._model()}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """AdamW that decays matrices only."""
        c = self.config
        named = [
            (n, p) for k, m in modules.items() if k != "teacher" for n, p in m.named_parameters()
        ]
        flat = [p for n, p in named if p.ndim < 2]
        deep = [p for n, p in named if p.ndim > 1]
        groups = [
            {"params": deep, "weight_decay": c.weight_decay},
            {"params": flat, "weight_decay": 0.0},
        ]
        return {"model": torch.optim.AdamW(groups, lr=c.learning_rate, eps=c.eps)}

    def learning_rate_scale(self, step: int) -> float:
        """A short rise, then a linear fall to zero."""
        c = self.config
        return min(1.0, (step + 1) / max(1, c.warmup)) * (1 - step / c.steps)

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Spearman x 100 of each source and their mean; measured whole, also the floor of
        character tf-idf and what rewriting of held-out questions is worth.
        """
        assert isinstance(model, RoFormerSim)
        assert isinstance(data, HeldOut)
        groups = data.groups(limit)
        found = spearmans(model, groups)
        values = {f"spearman_{_metric(name)}": value for name, value in found.items()}
        values["spearman_mean"] = sum(found.values()) / len(found)
        if limit is None:
            for name, pairs in groups.items():
                labels = [p.label for p in pairs]
                floor = 100 * spearman(tfidf_cosines(pairs), labels)
                values[f"tfidf_spearman_{_metric(name)}"] = floor
            if model.head is not None and self.config.questions:
                values |= measure_rewrites(model, questions_of(data, self.config.questions))
        return values

    def preprocess(self) -> Mapping[str, Any]:
        """Texts."""
        return {"modality": "text"}

    def _read(self, source: str | None) -> Corpus:
        if source is None:
            raise DataError(
                "There is no default data for this recipe",
                hint="Name a file of pairs, or a folder of them, with --data",
            )
        if self._corpus is None or self._source != source:
            self._corpus, self._source = read_corpus(Path(source)), source
        return self._corpus

    def _make_tokenizer(self, corpus: Corpus) -> Tokenizer:
        if self.config.initial:
            self._tokenizer = self._initial(self.config.initial).tokenizer
        else:
            texts = sorted({t for p in corpus.train for t in (p.a, p.b)} | set(corpus.texts))
            self._tokenizer = Tokenizer(
                choose_vocabulary(texts, shipped_vocabulary(), self.config.vocab_size)
            )
        return self._tokenizer

    def _model(self) -> RoFormerSim:
        c = self.config
        if c.initial:
            model = self._initial(c.initial)
            fresh = RoFormerSim(replace(model.config, dropout=c.dropout))
            fresh.load_state_dict(model.state_dict())
            fresh.tokenizer = model.tokenizer
            return fresh
        tokenizer = self._tokenizer
        if tokenizer is None:  # before any data is opened: a model to look at
            tokenizer = Tokenizer(shipped_vocabulary()[: c.vocab_size])
        names = EncoderConfig.__dataclass_fields__
        settings = {k: v for k, v in asdict(c).items() if k in names}
        model = RoFormerSim(
            EncoderConfig(
                **{
                    **settings,
                    "vocab_size": len(tokenizer),
                    "embedding_size": c.hidden_size,
                    "vocabulary": "own",
                    "rewrites": c.write_pairs > 0,
                }
            )
        )
        model.tokenizer = tokenizer
        return model

    def _initial(self, reference: str) -> RoFormerSim:
        model = kexue_core.load(reference, mmap=False)
        if not isinstance(model, RoFormerSim):
            raise ConfigError(f"{reference} are weights of {type(model).__name__}")
        return model

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the training data; opening these comes first."""
        assert self._tokenizer is not None
        return self._tokenizer


def encode_texts(
    model: nn.Module, rows: Sequence[Tensor], *, depth: int | None = None
) -> list[Tensor]:
    """Vectors of several stacks of token rows, (n, d) each, in chunks of like length."""
    width = max(r.shape[1] for r in rows)
    tokens = torch.cat([nn.functional.pad(r, (0, width - r.shape[1])) for r in rows])
    lengths = (tokens != 0).sum(-1)
    order = lengths.argsort()
    parts = []
    for chunk in torch.split(order, CHUNK):
        longest = -(-int(lengths[chunk[-1]]) // LENGTHS) * LENGTHS
        encoded: Encoded = model(tokens[chunk, :longest], depth=depth)
        parts.append(encoded.vector)
    vectors = torch.cat(parts)[order.argsort()]
    return list(torch.split(vectors, [len(r) for r in rows]))


def write_synonyms(
    model: nn.Module,
    batch: Batch,
    context: StepContext,
    config: SimConfig,
    tokenizer: Tokenizer,
) -> Tensor:
    """:func:`write_loss` of synonyms of the batch, turned and given holes at random; 0 without."""
    turned, chosen = context.noise(len(batch["a"]), "uniform", 2).unbind(-1)
    rows = batch["synonym"].nonzero().squeeze(-1)[: config.write_pairs]
    if not len(rows):
        return next(model.parameters()).sum() * 0.0
    a, b = batch["a"], batch["b"]
    width = max(a.shape[1], b.shape[1])
    a, b = (nn.functional.pad(x[rows], (0, width - x.shape[1])) for x in (a, b))
    swap = (turned[rows] < 0.5)[:, None]
    first, second = torch.where(swap, b, a), torch.where(swap, a, b)
    holed = chosen[rows] < config.corrupted
    return write_loss(
        model, first, second, holed, context=context, share=config.holes, tokenizer=tokenizer
    )


def write_loss(
    model: nn.Module,
    first: Tensor,
    second: Tensor,
    holed: Tensor,
    *,
    context: StepContext,
    share: float,
    tokenizer: Tokenizer,
) -> Tensor:
    """Cross-entropy in nats a token of writing ``second`` (n, L2) after ``first`` (n, L1), of which
    the rows ``holed`` (n,) have a ``share`` of holes.
    """
    tokens, segments = join(first, second)
    predict, targets = targets_of(tokens, segments)
    tokens = holes_in(tokens, segments, holed, context=context, share=share, tokenizer=tokenizer)
    encoded: Encoded = model(tokens, segments, predict)
    assert encoded.logits is not None
    return nn.functional.cross_entropy(encoded.logits.float(), targets)


def holes_in(
    tokens: Tensor,
    segments: Tensor,
    chosen: Tensor,
    *,
    context: StepContext,
    share: float,
    tokenizer: Tokenizer,
) -> Tensor:
    """The ``chosen`` rows (n,) with holes in their first segment; marks stay."""
    source = context.generator
    noise = torch.rand((*tokens.shape, 3), generator=source, device=source.device)
    keep = (tokens == 0) | (tokens == tokenizer.cls) | (tokens == tokenizer.sep) | (segments == 1)
    return corrupt(
        tokens,
        noise.to(tokens.device),
        share=share,
        mask=tokenizer.mask,
        vocab_size=len(tokenizer),
        keep=keep | ~chosen[:, None],
    )


def questions_of(data: HeldOut, count: int) -> list[str]:
    """Held-out texts spread over the sets of questions, or over all where there are none."""
    groups = data.groups()
    asked = {n: g for n, g in groups.items() if n.startswith(("lcqmc", "bq", "afqmc", "atec"))}
    texts = dict.fromkeys(p.a for pairs in (asked or groups).values() for p in pairs)
    return sorted(texts)[:: max(1, len(texts) // count)][:count]


def _metric(name: str) -> str:
    return name.replace(".", "_").replace("-", "_")
