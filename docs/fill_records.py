"""Write the figures of experiments into the pages, from their reports alone.

    python docs/fill_records.py [--from runs/reproduce] [--check]

``--from`` takes over report.json and plot.png of every experiment that was reproduced there (no
quick runs, nor fewer seeds than the experiment has) into ``results/`` and ``images/``. Then each
block

    <!-- record: NAME [METRIC ...] -->
    <!-- end record -->

of a page is filled with the verdict and figures of ``results/NAME.json``, those of the metrics that
it names or of all. ``--check`` changes nothing and fails where a page says anything else than its
records.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kexue_core.experiments import with_error

HERE = Path(__file__).parent

BLOCK = re.compile(r"<!-- record: ([a-z0-9-]+)((?: \w+)*) -->\n.*?<!-- end record -->", re.DOTALL)


def take_over(source: Path) -> None:
    """Copy reports and plots of experiments with all their seeds."""
    for path in sorted(source.glob("*/report.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if not report["complete"]:
            continue
        name = report["experiment"]
        for folder in ("results", "images"):
            (HERE / folder).mkdir(exist_ok=True)
        shutil.copyfile(path, HERE / "results" / f"{name}.json")
        shutil.copyfile(path.with_name("plot.png"), HERE / "images" / f"reproduce-{name}.png")


def block(name: str, shown: Sequence[str] = ()) -> str:
    """The Markdown of one experiment, with the ``shown`` metrics or all."""
    path = HERE / "results" / f"{name}.json"
    if not path.is_file():
        return f"No record yet; `kexue reproduce {name}` makes one.\n"
    report: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values: dict[tuple[str, str], list[float]] = {}
    for run in report["runs"]:
        for record in run["records"]:
            values.setdefault((run["variant"], record["metric"]), []).append(record["value"])
    metrics = list(dict.fromkeys(metric for _, metric in values))
    if unknown := set(shown) - set(metrics):
        raise SystemExit(f"{name} has no {', '.join(sorted(unknown))}, only {', '.join(metrics)}")
    metrics = list(shown) or metrics
    variants = list(dict.fromkeys(variant for variant, _ in values))
    record = report["runs"][0]["records"][0]
    seeds = report["seeds"]
    lines = [
        f"*{report['claim']}*: **{report['verdict']}**.",
        f"Criterion, fixed before the runs: {report['criterion']}.",
        "",
        f"| | {' | '.join(metrics)} |",
        f"|---|{'---:|' * len(metrics)}",
        *(f"| {v} | {' | '.join(_cell(values[v, m]) for m in metrics)} |" for v in variants),
        "",
        *(f"- {reason}" for reason in report["because"]),
        "",
        f"![{report['claim']}](images/reproduce-{name}.png)",
        "",
        f"{record['dataset']}, {record['n']:,} of {record['split']}, {seeds} "
        f"seed{'s (mean and deviation)' if seeds > 1 else ''}; `{report['command']}`; "
        f"[record](results/{name}.json).",
    ]
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    return with_error(fmean(values), stdev(values) if len(values) > 1 else None)


def filled(text: str) -> str:
    """A page with its blocks written anew."""

    def fill(found: re.Match[str]) -> str:
        body = block(found[1], found[2].split())
        return f"<!-- record: {found[1]}{found[2]} -->\n{body}<!-- end record -->"

    return BLOCK.sub(fill, text)


def main() -> int:
    """Fill every page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.source and not args.check:
        take_over(args.source)
    stale = []
    for page in sorted(HERE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) == text:
            continue
        stale.append(page.name)
        if not args.check:
            page.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'stale' if args.check else 'written'}: {', '.join(stale)}")
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
