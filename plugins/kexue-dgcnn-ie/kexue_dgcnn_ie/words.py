"""Word vectors, trained here: what a character-word mixed embedding adds to the characters.

A word's vector is that of its company: the positive pointwise mutual information of words within a
window, reduced by a singular value decomposition. On a corpus of this size that is as good as
word2vec, takes seconds, and has no random start.

References:
    Levy, Goldberg, Dagan, Improving Distributional Similarity with Lessons Learned from Word
    Embeddings (TACL 2015)
    kexue.fm 6671
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kexue_core.errors import ConfigError
from kexue_dgcnn_ie.text import normalize

__all__ = ["Lexicon", "segment", "word_vectors"]


def segment(text: str) -> list[str]:
    """The words of a text after :func:`.text.normalize`, together as long as it.

    Raises:
        ConfigError: jieba is not installed.
    """
    try:
        import jieba  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise ConfigError(
            "Word vectors need jieba to find words", hint='pip install "kexue-dgcnn-ie[words]"'
        ) from error
    jieba.setLogLevel("WARNING")
    words: list[str] = jieba.lcut(normalize(text))
    return words


class Lexicon:
    """Numbers of words, from 1 on; 0 is any other."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._numbers = {w: i for i, w in enumerate(self.words, 1)}
        if len(self._numbers) != len(self.words):
            raise ValueError("a word occurs twice in the lexicon")

    def __len__(self) -> int:
        return len(self.words) + 1

    def numbers(self, words: Iterable[str]) -> list[int]:
        """One number a word."""
        return [self._numbers.get(w, 0) for w in words]

    def of_characters(self, text: str) -> list[int]:
        """For each character of ``text`` the number of the word that it is part of."""
        words = segment(text)
        numbers = self.numbers(words)
        return [n for word, n in zip(words, numbers, strict=True) for _ in word]


def word_vectors(
    texts: Iterable[str], width: int, *, minimum: int = 5, window: int = 5, smooth: float = 0.75
) -> tuple[Lexicon, Tensor]:
    """The words that occur at least ``minimum`` times, and their vectors.

    Args:
        texts: Any texts; the more the better.
        width: Length of a vector.
        minimum: Rarer words have none.
        window: Words on either side that are company.
        smooth: Power of the frequency of company, which tames that of rare words.

    Returns:
        The lexicon, and (words + 1, width) of which row 0 is 0; the mean norm of a word is 1.
    """
    cut = [segment(text) for text in texts]
    counts = Counter(word for words in cut for word in words if word.strip())
    kept = sorted((w for w, n in counts.items() if n >= minimum), key=lambda w: (-counts[w], w))
    lexicon = Lexicon(kept)
    if len(lexicon) <= width:
        raise ConfigError(
            f"{len(kept)} words are too few for vectors of length {width}",
            hint="Give more text (unlabelled=FILE), or a smaller word_width",
        )
    # One line of numbers, with nothing for a window's length between texts.
    line = torch.tensor([n for words in cut for n in (*lexicon.numbers(words), *[0] * window)])
    pairs = torch.cat([line[:-k] * len(lexicon) + line[k:] for k in range(1, window + 1)])
    together = torch.cat([(line[:-k] > 0) & (line[k:] > 0) for k in range(1, window + 1)])
    code, number = torch.unique(pairs[together], return_counts=True)
    a, b = code // len(lexicon), code % len(lexicon)
    row, column, count = torch.cat([a, b]), torch.cat([b, a]), torch.cat([number, number]).double()
    total = torch.zeros(len(lexicon), dtype=torch.float64).index_add(0, row, count)
    context = total**smooth
    pmi = (count * context.sum() / (total[row] * context[column])).log()
    positive = pmi > 0
    matrix = torch.sparse_coo_tensor(
        torch.stack([row, column])[:, positive], pmi[positive].float(), (len(lexicon),) * 2
    ).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the decomposition starts from a random subspace
        u, s, _ = torch.svd_lowrank(matrix, q=width, niter=4)
    vectors = u * s.sqrt()
    vectors[0] = 0
    return lexicon, vectors / vectors[1:].norm(dim=-1).mean()
