"""Run the console blocks of Markdown pages and write their real output into them.

A block that follows a line ``<!-- run -->`` holds commands behind ``$``; everything else in it is
output, and is replaced. ``--check`` changes nothing and fails where a page differs from what its
commands print now, so that a page cannot go stale.

    python docs/console.py README.md README.zh-CN.md [--check]
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # bold headings
ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- run -->\n```console\n)(.*?)(```)", re.DOTALL)
COLUMNS = 100
PREFIX = f"{ROOT}{os.sep}"
RULE = re.compile(r"^─+$", re.MULTILINE)


def run(command: str, folder: Path) -> str:
    """What a shell prints for ``command``, both streams, as on a terminal of 100 columns.

    Where the checkout is on this machine is nobody's business: its path is left out, and tables
    are drawn as if it had never been in them, so that every checkout prints the same.
    """
    output = _printed(command, folder, COLUMNS + len(PREFIX))
    if PREFIX in output:
        return _without_prefix(output)
    if max(map(len, output.splitlines()), default=0) > COLUMNS:
        output = _printed(command, folder, COLUMNS)
    return output


def _without_prefix(output: str) -> str:
    """Each table (lines up to a blank one) with the path cut, and its rule by as much."""
    tables = output.split("\n\n")
    for i, table in enumerate(tables):
        if PREFIX in table:
            shorter = RULE.sub(lambda rule: rule[0][: -len(PREFIX)], table)
            tables[i] = shorter.replace(PREFIX, "")
    return "\n\n".join(tables)


def _printed(command: str, folder: Path, columns: int) -> str:
    env = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    env["KEXUE_HOME"] = str(folder / "home")
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    # `script` gives the command a terminal: people see tables, pipes get tab-separated values.
    shell = f"stty cols {columns}; {command}"
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", shell, "/dev/null"],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    text = STYLE.sub("", done.stdout).replace("\r\n", "\n")
    lines = text.rstrip("\n").split("\n")
    return "\n".join(line.rstrip() for line in lines)


def refresh(text: str) -> str:
    """``text`` with every marked block run, all in one folder that starts empty."""
    with tempfile.TemporaryDirectory() as folder:

        def block(match: re.Match[str]) -> str:
            commands = [line for line in match[2].splitlines() if line.startswith("$ ")]
            parts = []
            for line in commands:
                output = run(line[2:], Path(folder))
                parts.append(f"{line}\n{output}\n" if output else f"{line}\n")
            return match[1] + "".join(parts) + match[3]

        return BLOCK.sub(block, text)


def main() -> int:
    """Rewrite or check the pages named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    arguments = parser.parse_args()
    stale = False
    for page in arguments.pages:
        before = page.read_text(encoding="utf-8")
        after = refresh(before)
        if after == before:
            continue
        stale = True
        if arguments.check:
            sys.stdout.writelines(
                difflib.unified_diff(
                    before.splitlines(True), after.splitlines(True), str(page), "as it prints now"
                )
            )
        else:
            page.write_text(after, encoding="utf-8")
            print(f"{page} brought up to date")
    return int(stale and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
