"""Where kexue and the Hugging Face cache keep their files. Standard library only.

The rules of ``huggingface_hub.constants`` are repeated here because ``kexue verify`` and
``kexue list`` must not pay for importing it (a test compares the two).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["hf_cache", "kexue_home", "read_json", "write_json"]


def kexue_home() -> Path:
    """Folder of receipts, pins and conversions: ``KEXUE_HOME``, else in the user's cache."""
    named = os.environ.get("KEXUE_HOME")
    return Path(named).expanduser() if named else _user_cache() / "kexue"


def hf_cache() -> Path:
    """Root of the Hugging Face cache, as huggingface_hub itself would choose it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if named := os.environ.get(variable):
            return _expand(named)
    home = os.environ.get("HF_HOME")
    return (_expand(home) if home else _user_cache() / "huggingface") / "hub"


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    return _expand(named) if named else Path.home() / ".cache"


def _expand(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def read_json(path: Path) -> Any:
    """The content of a JSON file of kexue's own; ``None`` where it is missing or torn."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: object) -> None:
    """Replace a JSON file in one step, so that a reader sees the old or the new one whole.

    Raises:
        OSError: The folder cannot be written.
    """
    import secrets  # 4 ms that reading need not pay

    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fresh.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
