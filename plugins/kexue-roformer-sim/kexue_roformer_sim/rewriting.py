"""Writing similar texts: one pass over the prompt, shared by all samples, then token by token.

The prompt ``[CLS] text [SEP]`` is the first segment; what is written is the second, which sees all
of the first and itself so far (UniLM). A token's keys and values are computed once and kept. Rows
that have written [SEP] leave the batch.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from kexue_roformer_sim.embedding import token_rows
from kexue_roformer_sim.fast import writer_of

if TYPE_CHECKING:
    from kexue_roformer_sim.encoder import KeyValues
    from kexue_roformer_sim.model import RoFormerSim
    from kexue_roformer_sim.tokenizer import Tokenizer

__all__ = ["Rewrite", "key_of", "rewrite", "write"]

#: Draws from all tokens before the nucleus is sorted out: nearly all rows need one.
DRAWS = 6

#: Samples for each rewrite that is wanted: some are the text itself, or one another.
SAMPLES = 4


class Rewrite(NamedTuple):
    """Another way to say a text, and the cosine of both sentence vectors, in [-1, 1]."""

    text: str
    score: float


def rewrite(
    model: RoFormerSim,
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
    """See :meth:`kexue_roformer_sim.model.RoFormerSim.rewrite`."""
    if type(n) is not int or n < 0:
        raise ValueError(f"n must be a whole number from 0, not {n!r}")
    if samples is None:
        samples = n + 4 if method == "beam" else SAMPLES * n
    if not text.strip() or not n or not samples:
        return []
    written = write(
        model,
        text,
        samples=samples,
        method=method,
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        mask=mask,
        max_length=max_length,
        seed=seed,
    )
    found: dict[str, str] = {}
    for candidate in written:
        found.setdefault(key_of(candidate), candidate)
    # What the net reads of a text that is too long, or has unknown characters, is a copy as well.
    (row,) = token_rows(model, [text], None)
    for copy in (key_of(text), key_of(model.tokenizer.decode(row)), ""):
        found.pop(copy, None)
    candidates = list(found.values())
    if not candidates:
        return []
    vectors = model.embed([text, *candidates])
    scores = (vectors[1:] @ vectors[0]).clip(-1, 1).tolist()
    ranked = sorted(zip(candidates, scores, strict=True), key=lambda pair: -pair[1])
    return [Rewrite(*pair) for pair in ranked[:n]]


def key_of(text: str) -> str:
    """What makes two texts one: their characters without blanks, case, accents and width."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in folded if not c.isspace() and not unicodedata.combining(c))


@torch.inference_mode()
def write(
    model: RoFormerSim,
    text: str,
    *,
    samples: int,
    method: Literal["sample", "beam"] = "sample",
    top_k: int | None = None,
    top_p: float = 0.95,
    temperature: float = 1.0,
    mask: Sequence[int] = (),
    max_length: int | None = None,
    seed: int = 0,
) -> list[str]:
    """What the net writes for a text: ``samples`` of them as they come, copies and all.

    Beams come best first, by the mean log-probability of their tokens.

    Raises:
        ValueError: See :meth:`kexue_roformer_sim.model.RoFormerSim.rewrite`.
    """
    if model.head is None:
        raise ValueError("These weights have no head that writes (rewrites=False)")
    if method not in ("sample", "beam"):
        raise ValueError(f"method must be 'sample' or 'beam', not {method!r}")
    if not 0 < top_p <= 1 or temperature <= 0 or (top_k is not None and top_k < 1):
        raise ValueError("top_p is in (0, 1], temperature above 0, top_k at least 1")
    if type(samples) is not int or samples < 1:
        raise ValueError(f"samples must be a whole number from 1, not {samples!r}")
    longest = model.config.max_length if max_length is None else max_length
    prompt = _prompt(model, text, mask, longest)
    if model.config.positions == "learned":
        longest = min(longest, model.config.max_positions - prompt.shape[1])
    run = _Run(model, prompt, longest)
    if method == "beam":
        rows = run.beams(samples)
    else:
        choose = functools.partial(
            sample, top_k=top_k, top_p=top_p, temperature=temperature, generator=_seeded(seed)
        )
        rows = run.samples(samples, choose)
    return [model.tokenizer.decode(row) for row in rows]


def sample(
    logits: Tensor,
    *,
    top_k: int | None,
    top_p: float,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw one token a row of logits (n, V): top-k, then the nucleus of probability ``top_p``.

    The token that crosses ``top_p`` stays, so there is always one; equals of it stay with it.

    Sorting a vocabulary costs more than the layers of a small net. So a token is drawn from all,
    and drawn again where those likelier than it already have ``top_p``: what is kept has the
    nucleus' distribution exactly.
    """
    scores = logits.float() / temperature
    tokens = None
    if top_k is not None:
        scores, tokens = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
    probabilities = scores.softmax(-1)
    steps = probabilities.cumsum(-1)
    chosen = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    rows = torch.arange(len(scores), device=scores.device)
    for _ in range(DRAWS):
        # By the inverse of the distribution function: one number a row, drawn on the CPU, so that
        # a seed says the same on every device.
        levels = torch.rand(len(rows), 1, generator=generator).to(scores.device)
        whole = len(rows) == len(scores)  # nearly always: no copy then
        p, sums = (probabilities, steps) if whole else (probabilities[rows], steps[rows])
        drawn = torch.searchsorted(sums, levels * sums[:, -1:], right=True)
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        own = p.gather(-1, drawn)
        # Ten times as fast as torch.where.
        likelier = torch.gt(p, own, out=torch.empty_like(p)).mul_(p).sum(-1)
        kept = (likelier < top_p) & (own.squeeze(-1) > 0)
        chosen[rows[kept]] = drawn.squeeze(-1)[kept]
        rows = rows[~kept]
        if not len(rows):
            break
    else:  # a nucleus much smaller than all
        levels = torch.rand(len(rows), 1, generator=generator).to(scores.device)
        chosen[rows] = _from_nucleus(probabilities[rows], top_p, levels)
    return chosen if tokens is None else tokens.gather(-1, chosen[:, None]).squeeze(-1)


def _from_nucleus(probabilities: Tensor, top_p: float, levels: Tensor) -> Tensor:
    """One token a row of (n, V) by sorting; ``levels`` (n, 1) in [0, 1) say which."""
    ordered, order = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    steps = ordered.masked_fill(before >= top_p, 0.0).cumsum(-1)
    place = torch.searchsorted(steps, levels * steps[:, -1:], right=True)
    last = (before < top_p).sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(place, last)).squeeze(-1)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _prompt(model: RoFormerSim, text: str, mask: Sequence[int], length: int) -> Tensor:
    """Tokens (1, L) of the text, the characters at ``mask`` hidden.

    Raises:
        ValueError: A position is outside the text.
    """
    for position in mask:
        if not 0 <= position < len(text):
            raise ValueError(f"mask names the character {position} of {len(text)}")
    tokenizer = model.tokenizer
    rows = token_rows(model, [text], min(length, model.config.max_length))
    if mask:
        # Between the hidden characters the text is tokenized as it would be without them.
        hidden = set(mask)
        tokens: list[int] = []
        piece = ""
        for i, character in enumerate(text):
            if i in hidden:
                tokens += [*_inside(tokenizer, piece), tokenizer.mask]
                piece = ""
            else:
                piece += character
        tokens += _inside(tokenizer, piece)
        rows = [[tokenizer.cls, *tokens[: len(rows[0]) - 2 + len(hidden)], tokenizer.sep]]
        rows = [[*rows[0][:-1][: length - 1], tokenizer.sep]]
    return torch.tensor(rows, device=model.pooler.weight.device)


def _inside(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode([text], len(text) + 2)[0][1:-1] if text else []


class _Run:
    """One prompt, and the tables of keys and values that all rows grow from."""

    def __init__(self, model: RoFormerSim, prompt: Tensor, longest: int) -> None:
        self.net = writer_of(model)
        self.sep = model.tokenizer.sep
        self.unwritable = model.tokenizer.unwritable
        self.longest = longest
        hidden, self.prompt = self.net.run(prompt)
        # [SEP] of the prompt is what the first token is predicted from.
        self.first = self.logits(hidden[:, -1])

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the next token, all that is no text but [SEP] impossible."""
        logits = self.net.predict(hidden)
        logits[:, self.unwritable] = -torch.inf
        return logits

    def step(self, tokens: Tensor, past: list[KeyValues]) -> tuple[Tensor, list[KeyValues]]:
        """Logits (n, V) after one more token a row, (n,)."""
        segments = torch.ones_like(tokens)[:, None]
        hidden, past = self.net.run(tokens[:, None], segments, past)
        return self.logits(hidden[:, -1]), past

    def samples(self, n: int, choose: functools.partial[Tensor]) -> list[list[int]]:
        """``n`` rows of tokens without [SEP]; ``choose`` draws one a row of logits."""
        rows: list[list[int]] = [[] for _ in range(n)]
        alive = list(range(n))
        logits = self.first.expand(n, -1)
        past = [(k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1)) for k, v in self.prompt]
        for _ in range(self.longest):
            tokens = choose(logits)
            going = (tokens != self.sep).nonzero().squeeze(-1)
            if len(going) < len(alive):
                alive = [alive[i] for i in going.tolist()]
                tokens = tokens[going]
                past = [(k[going], v[going]) for k, v in past]
            for row, token in zip(alive, tokens.tolist(), strict=True):
                rows[row].append(token)
            if not alive:
                break
            logits, past = self.step(tokens, past)
        return rows

    def beams(self, width: int) -> list[list[int]]:
        """The ``width`` rows with the largest mean log-probability, [SEP] counted, best first."""
        done: list[tuple[float, list[int]]] = []
        rows: list[list[int]] = [[]]
        totals = torch.zeros(1)
        logits, past = self.first, list(self.prompt)
        for length in range(1, self.longest + 1):
            scores = totals[:, None] + logits.float().log_softmax(-1).cpu()
            best, flat = scores.flatten().topk(min(2 * width, scores.numel()))
            parents, tokens = flat // scores.shape[1], flat % scores.shape[1]
            kept: list[tuple[float, int, int]] = []
            for score, parent, token in zip(
                best.tolist(), parents.tolist(), tokens.tolist(), strict=True
            ):
                if score == -torch.inf:
                    continue
                if token == self.sep:
                    done.append((score / length, rows[parent]))
                elif len(kept) < width:
                    kept.append((score, parent, token))
            done = sorted(done, key=lambda pair: -pair[0])[:width]
            # Log-probabilities only fall: no unfinished row can still enter once the best of them,
            # with all that is left at probability 1, is worse than the worst that is done.
            if not kept or (len(done) == width and kept[0][0] / self.longest < done[-1][0]):
                kept = []
                break
            rows = [[*rows[parent], token] for _, parent, token in kept]
            totals = torch.tensor([score for score, _, _ in kept])
            index = torch.tensor([parent for _, parent, _ in kept])
            past = [(k[index], v[index]) for k, v in past]
            logits, past = self.step(torch.tensor([t for *_, t in kept]).to(logits.device), past)
        unfinished = [(float(t) / self.longest, row) for t, row in zip(totals, rows, strict=True)]
        best_rows = done if len(done) == width or not kept else [*done, *unfinished]
        return [row for _, row in sorted(best_rows, key=lambda pair: -pair[0])[:width]]
