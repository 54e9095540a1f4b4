"""What the pages print as the output of commands is what the commands print."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("script") is None, reason="needs script(1) for a terminal")
@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_commands_of_a_page_print_what_it_says(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import console

    text = (ROOT / page).read_text(encoding="utf-8")
    # What imports torch is left to `python docs/console.py --check`.
    drawn = re.compile(r"\$ (kexue sample .*)\n((?:[^$\n].*\n)*)")
    found = console.BLOCK.findall(text)
    blocks = "".join(f"{start}{drawn.sub('', body)}{end}" for start, body, end in found)
    assert "$ kexue list" in blocks
    assert "$ kexue sample" not in blocks
    assert console.refresh(blocks) == blocks


def test_a_page_that_went_stale_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import console

    page = "<!-- run -->\n```console\n$ echo now\nthen\n```\n"
    monkeypatch.setattr(console, "run", lambda command, folder: command.partition(" ")[2])
    assert console.refresh(page) == page.replace("then", "now")


def test_a_table_does_not_tell_where_the_checkout_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import console

    def table(prefix: str) -> str:
        row = f"faces  {prefix}hub/faces"
        return f"name   path\n{'─' * len(row)}\n{row}"

    def printed(command: str, folder: Path, columns: int) -> str:
        return f"{'─' * 9}\n\n{table(console.PREFIX)}"

    monkeypatch.setattr(console, "_printed", printed)
    for prefix in ("/a/", f"/{'deep/' * 30}"):
        monkeypatch.setattr(console, "PREFIX", prefix)
        assert console.run("kexue pull faces", ROOT) == f"{'─' * 9}\n\n{table('')}"
