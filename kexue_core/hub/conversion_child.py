"""The child process of ``kexue convert``: reads a task on stdin, answers with a line of JSON.

``python -m kexue_core.hub.conversion_child``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from kexue_core.adapters import read_checkpoint
from kexue_core.building import build
from kexue_core.errors import KexueError, PluginError, WeightsFormatError
from kexue_core.hub.conversion import vocabularies
from kexue_core.plugins import discover
from kexue_core.saving import save_folder
from kexue_core.specs import AdapterSpec, ModelSpec, import_object
from kexue_core.strict_json import parse_json

__all__ = ["main"]


def main() -> None:
    """Do the task; every error becomes an answer."""
    task = json.loads(sys.stdin.read())
    # What a plugin prints must not be taken for the answer.
    answer_to, sys.stdout = sys.stdout, sys.stderr
    try:
        answer: dict[str, Any] = {"tensors": _convert(task)}
    except KexueError as error:
        answer = {
            "error": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
        }
    answer_to.write(json.dumps(answer) + "\n")
    answer_to.flush()


def _convert(task: Mapping[str, str]) -> int:
    declared = discover().find("adapter", task["adapter"], task["plugin"])
    adapter = declared.spec
    assert isinstance(adapter, AdapterSpec)
    spec = discover().find("model", adapter.model, declared.distribution).spec
    assert isinstance(spec, ModelSpec)
    source = Path(task["source"])
    _, tensors = read_checkpoint(source)
    where = f"{source} by {declared.qualified}"
    try:
        state, config = import_object(adapter.factory)(tensors, _config(source.parent))
    except KexueError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(f"{where}: {reason}", hint="Report it to the adapter's author") from error
    if is_dataclass(config) and not isinstance(config, type):
        config = asdict(config)
    model = build(spec, config)
    own = model.state_dict()
    problems = [
        _some("missing", [k for k in own if k not in state]),
        _some("unexpected", [k for k in state if k not in own]),
        _some(
            "of another shape",
            [
                f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
                for k in own
                if k in state and state[k].shape != own[k].shape
            ],
        ),
    ]
    if found := [p for p in problems if p]:
        raise WeightsFormatError(
            f"{where}: {'; '.join(found)}",
            hint="Is this the checkpoint of that model, and has the adapter the right config?",
        )
    model.load_state_dict(state, strict=True, assign=True)
    beside = vocabularies(source.parent)

    def copy(folder: Path) -> None:
        for path in beside:
            (folder / path.name).write_bytes(path.read_bytes())

    save_folder(
        Path(task["to"]),
        model,
        distribution=declared.distribution,
        model_name=spec.name,
        extra_files=copy,
    )
    return len(state)


def _config(folder: Path) -> dict[str, Any]:
    """The JSON config beside a checkpoint, by its usual names; empty where there is none."""
    for name in ("config.json", "bert_config.json"):
        path = folder / name
        if path.is_file() and path.stat().st_size < 1_000_000:
            try:
                content = parse_json(path.read_bytes())
            except ValueError as error:
                raise WeightsFormatError(f"{path} is no JSON: {error}") from error
            return content if isinstance(content, dict) else {}
    return {}


def _some(kind: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{kind}: {', '.join(keys[:5])}{more}"


if __name__ == "__main__":
    main()
