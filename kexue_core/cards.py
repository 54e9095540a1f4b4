"""Model cards: what a person wrote about a recipe, and what a machine measured.

No number in a card is typed in by hand: each comes from a :class:`ResultRecord` or the config.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from kexue_core.specs import ModelSpec
from kexue_core.training.records import conditions

if TYPE_CHECKING:
    from kexue_core.training.recipe import Card
    from kexue_core.training.records import ResultRecord

__all__ = ["build_card", "model_index", "with_results"]

_PAGE = """\
---
{metadata}---

# {name}

{summary}

Weights for kexue, a PyTorch model zoo of the techniques of the blog
[kexue.fm](https://kexue.fm){post}. Not affiliated with the blog or its author.

## Use

```
pip install {distribution}
kexue show {name}
```

```python
import kexue_core as kexue

model = kexue.load("file:path/to/this/folder")
```

## Data and terms

{data}

{terms}

## Training

| | |
|---|---|
| model | `{model}` of `{distribution}` |
| data | {trained_on} |
| steps | {steps} |
| seed | {seed} |
| settings | `{config}` |
| command | `{command}` |

## Results

{results}

## Limits

{limits}
{papers}"""


def build_card(
    card: Card,
    *,
    name: str,
    spec: ModelSpec,
    distribution: str,
    config: Mapping[str, Any],
    seed: int,
    steps: int,
    command: str,
    trained_on: str,
    records: Sequence[ResultRecord],
) -> str:
    """The ``README.md`` of a folder of weights, with the Hub's metadata on top.

    Args:
        card: What the recipe's author wrote.
        name: Name of the weights.
        spec: The model.
        distribution: Package that declares it.
        config: Settings of the recipe.
        seed: Seed of the run.
        steps: Steps that were done; may be fewer than ``config["steps"]``.
        command: Command line of the run.
        trained_on: Name, split, size and fingerprint of the training data.
        records: Every figure that the card shows.
    """
    planned = config["steps"]
    papers = "\n".join(f"- [arXiv:{p}](https://arxiv.org/abs/{p})" for p in spec.papers)
    return _PAGE.format(
        metadata=_metadata(card, name, spec, records),
        name=name,
        summary=card.summary,
        post=f" (post [{spec.post}](https://kexue.fm/archives/{spec.post}))" if spec.post else "",
        distribution=distribution,
        data=card.data,
        terms=card.terms,
        model=spec.name,
        trained_on=trained_on,
        steps=f"{steps:,}" + (f" of {planned:,} planned" if steps < planned else ""),
        seed=seed,
        config=json.dumps(dict(config), ensure_ascii=False),
        command=command.replace("|", "\\|"),
        results=_results(records),
        limits=card.limits,
        papers=f"\n## Papers\n\n{papers}\n" if papers else "",
    )


def _metadata(card: Card, name: str, spec: ModelSpec, records: Sequence[ResultRecord]) -> str:
    """Hub metadata (model-index as of huggingface.co/docs/hub/model-cards#evaluation-results)."""
    own_terms = card.license.startswith("LicenseRef-")
    metadata: dict[str, Any] = {
        "library_name": "kexue",
        "license": "other" if own_terms else card.license.lower(),
    }
    if own_terms:
        metadata["license_name"] = card.license.removeprefix("LicenseRef-").lower()
    metadata["tags"] = ["kexue", spec.name]
    if records:
        metadata["model-index"] = model_index(name, spec, records)
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)


def model_index(
    name: str, spec: ModelSpec, records: Sequence[ResultRecord]
) -> list[dict[str, Any]]:
    """Results as the Hub shows them beside a model.

    Args:
        name: Name of the weights.
        spec: The model; its first capability is the task.
        records: What was measured.
    """
    results = [
        {
            "task": {"type": spec.capabilities[0] if spec.capabilities else spec.name},
            "dataset": {"type": _slug(r.dataset), "name": r.dataset, "split": r.split},
            "metrics": [{"type": r.metric, "value": r.value}],
        }
        for r in records
    ]
    return [{"name": name, "results": results}]


def with_results(body: str, records: Sequence[ResultRecord]) -> str:
    """``body`` of a card with the table of its results made anew; unchanged where it has none."""
    before, heading, rest = body.partition("\n## Results\n")
    if not heading:
        return body
    _, following, after = rest.partition("\n## ")
    return f"{before}{heading}\n{_results(records)}\n{following}{after}"


def _results(records: Sequence[ResultRecord]) -> str:
    if not records:
        return "None were measured."
    floors = any(r.floor is not None for r in records)
    given = [conditions(r.settings) for r in records]
    notes = {c: f"({i})" for i, c in enumerate((c for c in dict.fromkeys(given) if c), 1)}
    head = ["metric", "value", "data", "split", "n", "seed"]
    rows = [
        [r.metric, f"{r.value:.6g}", r.dataset, r.split, f"{r.n:,}", str(r.seed)] for r in records
    ]
    if floors:
        head.insert(2, "floor")
        for row, r in zip(rows, records, strict=True):
            row.insert(2, "" if r.floor is None else f"{r.floor:.6g}")
    if notes:
        head.append("how")
        for row, c in zip(rows, given, strict=True):
            row.append(notes.get(c, ""))
    first = records[0]
    measured = ", ".join(f"{k} {v}" for k, v in first.versions.items())
    return "\n".join(
        [
            _row(head),
            _row(["---"] * len(head), space=""),
            *map(_row, rows),
            "",
            *(line for c, mark in notes.items() for line in (f"{mark} {c}", "")),
            *(["Floor: what as many real samples get in place of generated ones.", ""] * floors),
            f"Measured on this very file (sha256 `{first.weights}`) with {measured} "
            f"on {first.device}.",
        ]
    )


def _row(cells: Sequence[str], space: str = " ") -> str:
    return "|".join(["", *(f"{space}{cell}{space}" for cell in cells), ""])


def _slug(text: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return "-".join(words) or "unknown"
