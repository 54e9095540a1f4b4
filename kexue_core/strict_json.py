"""JSON as files of weights need it: one meaning for every reader, or an error.

Python's parser keeps the last of two equal keys, admits ``NaN`` and raises ``RecursionError`` on
deep nesting. Other readers keep the first, refuse, or crash; a file must not depend on whose it is.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

__all__ = ["parse_json"]


def parse_json(raw: bytes) -> Any:
    """Parse UTF-8 JSON without duplicate keys, ``NaN`` or ``Infinity``.

    Raises:
        ValueError: What is wrong, in one line.
    """
    # Decoded here because json.loads would also take bytes for UTF-16 or UTF-32.
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
