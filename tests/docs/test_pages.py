"""The pages for authors name what the code reads."""

from __future__ import annotations

import re
import sys
import tomllib
from string import Template

import pytest
from synthetic import REPOSITORY

from kexue_core import registry_files

sys.path.insert(0, str(REPOSITORY / "docs"))
import make_reference

DOCS = REPOSITORY / "docs"
TEMPLATE = REPOSITORY / "kexue_core/testing/templates/common/pyproject.toml.tmpl"


def first_column(page: str) -> set[str]:
    """What stands in backquotes in the first column of any table of a page."""
    rows = re.findall(r"^\| (`[^|]*`) \|", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_key_of_a_registry_is_explained() -> None:
    assert first_column("weights-format.md") >= registry_files._KEYS


def test_every_key_of_preprocess_is_explained() -> None:
    used = set()
    for path in REPOSITORY.joinpath("kexue_core").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r"(?:preprocess|prepare)\.get\(\s*\"(\w+)\"", text))
    assert {"modality", "size", "crop"} <= used
    assert used <= first_column("weights-format.md")


def test_a_plugins_registry_is_in_its_wheel() -> None:
    written = Template(TEMPLATE.read_text(encoding="utf-8")).safe_substitute(package="kexue_toy")
    section = written[written.index("[tool.setuptools.package-data]") :]
    data = tomllib.loads(section.partition("\n\n")[0])["tool"]["setuptools"]["package-data"]
    assert "*.yaml" in data["kexue_toy"]
    assert 'kexue_toy = ["py.typed", "*.yaml"]' in (DOCS / "hooks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("base", ["experiments.Experiment", "metrics.Metric", "training.Recipe"])
def test_what_authors_subclass_is_in_the_reference_and_promised(base: str) -> None:
    module, _, name = f"kexue_core.{base}".rpartition(".")
    assert module in make_reference.MODULES
    reference = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert re.search(rf"^### `{name}`$", reference, re.MULTILINE)
    assert f"`{module}`" in (DOCS / "versioning.md").read_text(encoding="utf-8")
