"""What weights find and miss: a table by predicate, and F1 over the epochs of their training.

    python -m kexue_dgcnn_ie.report WEIGHTS --data FILE [--split val] [--dtype bfloat16]
        [--log RUN] [--plot PNG]

WEIGHTS is a name, or ``file:`` with a folder. The table goes to stdout as Markdown. ``--log`` names
the folder of a run, whose ``log.jsonl`` holds the curve.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from kexue_core.training import SPLITS, Split
from kexue_dgcnn_ie.metric import Score, per_predicate
from kexue_dgcnn_ie.triples import Triple

__all__ = ["curve", "main", "table"]


def table(scores: dict[str, Score]) -> str:
    """Markdown of precision, recall and F1 by predicate, and of all together."""
    lines = ["| predicate | true | P | R | F1 |", "|---|---:|---:|---:|---:|"]
    total = sum(scores.values(), Score(0, 0, 0))
    for name, s in [*scores.items(), ("**all**", total)]:
        lines.append(f"| {name} | {s.true} | {s.precision:.3f} | {s.recall:.3f} | {s.f1:.3f} |")
    return "\n".join(lines)


def curve(run: Path) -> list[tuple[float, float]]:
    """Points (epoch, F1) of a run's evaluations while training; hidden characters are no epoch."""
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    config = about["config"]
    rows = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        ((row["step"] - config["pretrain_steps"]) * config["batch_size"] / about["data"]["samples"],
         row["val/f1"])
        for row in rows
        if "val/f1" in row and row["step"] > config["pretrain_steps"]
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(prog="python -m kexue_dgcnn_ie.report", description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=SPLITS, default="val")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--log", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args(arguments)

    import kexue_core as kexue
    from kexue_dgcnn_ie.data import open_triples
    from kexue_dgcnn_ie.extractor import TripleExtractor

    model = kexue.load(given.weights)
    assert isinstance(model, TripleExtractor), f"{given.weights} extracts no triples"
    samples = open_triples(given.data, cast(Split, given.split)).samples
    texts = [sample.text for sample in samples]
    found = [
        [Triple(f["subject"]["text"], f["predicate"], f["object"]["text"]) for f in facts]
        for facts in model.extract(texts, dtype=given.dtype)
    ]
    print(table(per_predicate(texts, found, [sample.triples for sample in samples])))
    if given.log and given.plot:
        from kexue_core.plots import figure, save

        drawn = figure()
        axes = drawn.subplots()
        axes.plot(*zip(*curve(given.log), strict=True), marker=".")
        axes.set(xlabel="epoch", ylabel="F1 on the validation split", ylim=(0, None))
        axes.grid(alpha=0.3)
        save(drawn, given.plot)


if __name__ == "__main__":
    main()
