"""BERT's tokenizer on the ``tokenizers`` library: characters of Chinese, pieces of other words."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

__all__ = ["SPECIAL", "VOCABULARY_FILE", "Tokenizer", "pad", "shipped_vocabulary"]

VOCABULARY_FILE = "vocab.txt"

#: Marks that a vocabulary must have; the first has number 0.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_MARK = re.compile(r"\[[A-Za-z]+\d*\]|<[A-Z]>")

#: Pieces of a word begin with this, but for its first.
_INSIDE = "##"

#: Longer words are [UNK], as in BERT.
_LONGEST_WORD = 100


class Tokenizer:
    """Text to token numbers and back: lower case, no accents, every CJK character alone.

    Attributes:
        vocabulary: The tokens in the order of their numbers.
        pad, unk, cls, sep, mask: Numbers of the marks; ``pad`` is 0.
        unwritable: Numbers of all that is no text: marks but [SEP], ``[unused1]`` and the like.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """Build it from the tokens in the order of their numbers.

        Raises:
            ValueError: A mark is missing, padding is not number 0, or a token stands twice.
        """
        self.vocabulary = tuple(vocabulary)
        numbers = {token: i for i, token in enumerate(self.vocabulary)}
        if missing := [mark for mark in SPECIAL if mark not in numbers]:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}")
        if numbers["[PAD]"] != 0:
            raise ValueError("[PAD] must be the first token of the vocabulary")
        if len(numbers) != len(self.vocabulary):
            seen: set[str] = set()
            twice = next(t for t in self.vocabulary if t in seen or seen.add(t))  # type: ignore[func-returns-value]  # adds on the way
            raise ValueError(f"the vocabulary has {twice!r} twice")
        self.pad, self.unk, self.cls, self.sep, self.mask = (numbers[mark] for mark in SPECIAL)
        self.unwritable = [
            i for i, t in enumerate(self.vocabulary) if _MARK.fullmatch(t) and i != self.sep
        ]
        self._backend = Backend(
            WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD)
        )
        self._backend.normalizer = BertNormalizer(lowercase=True, strip_accents=True)
        self._backend.pre_tokenizer = BertPreTokenizer()

    def __len__(self) -> int:
        return len(self.vocabulary)

    @classmethod
    def read(cls, path: Path) -> Tokenizer:
        """Read a ``vocab.txt``, one token a line.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is no UTF-8, or no vocabulary.
        """
        text = path.read_text(encoding="utf-8")
        # Not splitlines(): a vocabulary may hold U+2028 and its like as tokens.
        return cls([line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")])

    def write(self, path: Path) -> None:
        """Write a ``vocab.txt``; always the same bytes for the same vocabulary."""
        path.write_text("\n".join(self.vocabulary) + "\n", encoding="utf-8", newline="\n")

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """``[CLS] text [SEP]`` of each text, what is over ``max_length`` tokens cut off before the
        [SEP]. What the vocabulary does not have, such as most emoji, is [UNK].
        """
        # A lone surrogate, which a JSON file may hold, is no text; it would stop the library.
        clean = [t.encode("utf-8", "replace").decode() for t in texts]
        found = self._backend.encode_batch_fast(clean, add_special_tokens=False)
        return [[self.cls, *e.ids[: max_length - 2], self.sep] for e in found]

    def __deepcopy__(self, memo: object) -> Tokenizer:
        return self  # it never changes

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token numbers, marks left out; blanks stand between words of letters only."""
        text = ""
        for number in tokens:
            token = self.vocabulary[number]
            if token in SPECIAL:
                continue
            if token.startswith(_INSIDE) and len(token) > len(_INSIDE):
                text += token.removeprefix(_INSIDE)
            elif text and _is_word(text[-1]) and _is_word(token[0]):
                text += f" {token}"
            else:
                text += token
        return text


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of tokens as (n, L) int64, filled up with 0."""
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows]).reshape(
        len(rows), longest
    )


@functools.cache
def shipped_vocabulary() -> tuple[str, ...]:
    """The 12,000 tokens of RoFormer-Sim, in their order (Apache-2.0)."""
    text = resources.files(__package__).joinpath(VOCABULARY_FILE).read_text(encoding="utf-8")
    return tuple(text.removesuffix("\n").split("\n"))


def _is_word(character: str) -> bool:
    """Whether a character belongs to words that blanks part: letters and digits, not CJK."""
    if not character.isalnum():
        return False
    return not unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL"))
