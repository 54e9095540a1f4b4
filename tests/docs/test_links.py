"""Links between the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic import REPOSITORY

PAGES = [
    *(REPOSITORY / "docs" / f"{name}.md" for name in ("first-plugin", "hooks", "weights-format")),
    *(REPOSITORY / "docs" / f"{name}.md" for name in ("conformance", "versioning", "reference")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
