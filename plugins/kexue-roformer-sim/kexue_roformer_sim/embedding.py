"""Texts to sentence vectors: sorted by length, each distinct text once, on the fastest path."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from kexue_roformer_sim.fast import vectors_of
from kexue_roformer_sim.tokenizer import pad

if TYPE_CHECKING:
    from kexue_roformer_sim.model import RoFormerSim

__all__ = ["BATCH", "embed", "token_rows"]

#: Texts at once. More is slower on a CPU: the states of 64 short texts still fit its caches.
BATCH = 64


def embed(
    model: RoFormerSim,
    sentences: str | Sequence[str],
    *,
    batch_size: int = BATCH,
    show_progress_bar: bool = False,
    convert_to_numpy: bool = True,
    convert_to_tensor: bool = False,
    normalize_embeddings: bool = True,
    truncate_dim: int | None = None,
    max_length: int | None = None,
    dtype: Literal["float32", "bfloat16", "auto"] | torch.dtype | None = None,
) -> Any:
    """See :meth:`kexue_roformer_sim.model.RoFormerSim.embed`."""
    width = model.config.hidden_size
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number from 1, not {batch_size!r}")
    if truncate_dim is not None and not 1 <= truncate_dim <= width:
        raise ValueError(f"truncate_dim must be from 1 to {width}, not {truncate_dim!r}")
    single = isinstance(sentences, str)
    texts = [sentences] if isinstance(sentences, str) else list(sentences)
    rows = token_rows(model, texts, max_length)
    # Sorted by content, so that batches do not depend on the order of the texts; and each once.
    distinct = sorted(set(map(tuple, rows)), key=lambda row: (len(row), row))
    encode = vectors_of(model, dtype)
    device = model.pooler.weight.device
    found = torch.empty(len(distinct), width, dtype=torch.float32, device=device)
    with torch.inference_mode(), _progress(len(distinct), shown=show_progress_bar) as advance:
        for i in range(0, len(distinct), batch_size):
            batch = distinct[i : i + batch_size]
            tokens = pad(batch).to(device)
            if model.config.positions == "learned":
                tokens = tokens[:, : model.config.max_positions]
            found[i : i + len(batch)] = encode(tokens).float()
            advance(len(batch))
    place = {row: i for i, row in enumerate(distinct)}
    vectors = found[torch.tensor([place[tuple(row)] for row in rows], dtype=torch.int64)]
    vectors = vectors[:, :truncate_dim].clone()  # an inference tensor would refuse to be trained on
    if normalize_embeddings:
        vectors = F.normalize(vectors, dim=-1)
    if convert_to_tensor:
        return vectors[0] if single else vectors
    if convert_to_numpy:
        array = vectors.cpu().numpy()
        return array[0] if single else array
    return vectors[0] if single else list(vectors)


def token_rows(model: RoFormerSim, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    """``[CLS] text [SEP]`` as numbers, cut to ``max_length`` tokens.

    Raises:
        ValueError: ``max_length`` is below 3, or more than positions were learned for.
        TypeError: Something is no text.
    """
    c = model.config
    length = c.max_length if max_length is None else max_length
    if type(length) is not int or length < 3:
        raise ValueError(f"max_length must be a whole number from 3, not {length!r}")
    if c.positions == "learned" and length > c.max_positions:
        raise ValueError(f"max_length must not exceed the {c.max_positions} learned positions")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{text!r:.60} is no text")
    rows = model.tokenizer.encode(texts, length)
    if length > c.max_length and max(map(len, rows), default=0) > c.max_length:
        warnings.warn(
            f"A text has more than the {c.max_length} tokens that the model was trained on",
            stacklevel=4,
        )
    return rows


class _progress:  # noqa: N801 - used as a function
    """A bar on stderr where it is wanted; rich is not imported where not."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._total = total
        self._bar: Any = None
        if shown and total:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(file=sys.stderr))
            self._task = self._bar.add_task("embedding", total=total)

    def __enter__(self) -> Callable[[int], None]:
        if self._bar is None:
            return lambda n: None
        self._bar.start()
        return lambda n: self._bar.advance(self._task, n)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
