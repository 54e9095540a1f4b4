"""Measure the rows of ``benchmarks/rows`` and write the table.

    make bench                      every row
    make bench ARGS="glow_train"    one row; the others stay as they were in results.json
    make bench ARGS="--list"

Writes ``results/results.json`` and ``results/table.md``. A bar that is missed is shown, and is no
error; ``--strict`` makes it one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "results.json"
TABLE = HERE / "results" / "table.md"

#: One thread in every library that might start some.
PINNED = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "RAYON")}


def names() -> list[str]:
    """The rows that there are."""
    return sorted(path.stem for path in (HERE / "rows").glob("*.py"))


def measure(name: str) -> dict[str, Any]:
    """Measure one row file in this process."""
    module = importlib.import_module(f"rows.{name}")
    rows = [{**asdict(row), "met": row.met} for row in module.measure()]
    measured = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"measured": measured, "machine": machine(getattr(module, "THREADS", 1)), "rows": rows}


def machine(threads: int = 1) -> str:
    """The machine in words: processor, cores, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((x.partition(":")[2].strip() for x in lines if "model name" in x), model)
    python, torch = platform.python_version(), metadata.version("torch")
    pinned = f"{os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}"
    return f"{model}, {pinned}; Python {python}, torch {torch}"


def measure_apart(name: str) -> dict[str, Any]:
    """Measure one row file in a process of its own, with pinned threads."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), "--measure", name],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **PINNED},
    )
    # What a peer prints stands before our line.
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Times are medians: CPU time of one thread, or, where a row says",
        "two threads, time on the clock. Contenders take turns in one process. The ratio says how",
        "many times less ours takes, in brackets its quartiles over the rounds. Bars came first.",
        "",
        "| | ours | peer | ratio | bar | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    lines += [_line(row) for name in sorted(results) for row in results[name]["rows"]]
    lines.append("")
    for text in sorted({f"{r['machine']}, {r['measured']}" for r in results.values()}):
        which = [n for n, r in results.items() if f"{r['machine']}, {r['measured']}" == text]
        lines.append(f"- {', '.join(sorted(which))}: {text}")
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    theirs = f"{_number(row['theirs'])} ({row['peer']})" if row["theirs"] is not None else ""
    ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else ""
    if row["spread"]:
        low, high = row["spread"]
        ratio += f" [{low:.2f}, {high:.2f}]"
    bar = f"{row['kind']} {row['bar']:g}" if row["bar"] is not None else ""
    met = {True: "met", False: "**missed**", None: ""}[row["met"]]
    cells = (row["what"], f"{_number(row['ours'])} {row['unit']}", theirs, ratio, bar, met)
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def main() -> int:
    """Measure what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="ROW", help="default: all")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--strict", action="store_true", help="a missed bar is an error")
    parser.add_argument("--measure", metavar="ROW", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        print("\n".join(names()))
        return 0
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return 0
    if unknown := sorted(set(args.names) - set(names())):
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(names())}")
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results = {name: found for name, found in results.items() if name in names()}
    failed = []
    for name in args.names or names():
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            results[name] = measure_apart(name)
        except subprocess.CalledProcessError:
            failed.append(name)
            continue
        # After every row: a long benchmark that is stopped keeps what it has.
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        TABLE.write_text(table(results))
        print("\n".join(_line(row) for row in results[name]["rows"]), flush=True)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    missed = any(row["met"] is False for found in results.values() for row in found["rows"])
    return 1 if failed or (args.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
