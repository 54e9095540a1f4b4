"""Entry points without importlib.metadata: the same answers."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata

import pytest

from kexue_core.distributions import entry_points
from kexue_core.isolation import _admits
from kexue_core.names import normalize

GROUPS = ("console_scripts", "pytest11", "kexue", "kexue.commands", "distutils.commands", "none")


def standard(group: str) -> set[tuple[str, str, str, str]]:
    return {
        (e.name, e.value.partition(" [")[0], normalize(e.dist.name), e.dist.version)
        for e in metadata.entry_points(group=group)
        if e.dist is not None
    }


@pytest.mark.parametrize("group", GROUPS)
def test_the_same_as_the_standard_library_here(group):
    ours = {(e.name, e.value, e.distribution, e.version) for e in entry_points(group)}
    assert ours == standard(group)


def test_the_first_on_the_path_hides_the_others(tmp_path, monkeypatch, site):
    site.install("their-plugin", "x = 1", version="2.0")
    second = type(site)(tmp_path / "later")
    second.install("Their.Plugin", "x = 1", version="1.0")
    for folder in (second.folder, site.folder):
        monkeypatch.syspath_prepend(folder)
    assert [e.version for e in entry_points("kexue") if e.distribution == "their-plugin"] == ["2.0"]
    assert {
        (e.name, e.value, e.distribution, e.version) for e in entry_points("kexue")
    } == standard("kexue")


def test_zip_files_are_left_to_the_standard_library(tmp_path, monkeypatch):
    archive = tmp_path / "plugin.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped-1.0.dist-info/METADATA", "Name: zipped\nVersion: 1.0\n\nText")
        file.writestr("zipped-1.0.dist-info/entry_points.txt", "[kexue]\nz = zipped.plugin\n")
    monkeypatch.setattr(sys, "path", [str(archive), *sys.path])
    assert ("z", "zipped.plugin", "zipped", "1.0") in {
        (e.name, e.value, e.distribution, e.version) for e in entry_points("kexue")
    }


def test_comments_extras_and_odd_lines(site, monkeypatch):
    site.install("odd-one", "x = 1")
    path = next(site.folder.glob("odd_one-*")) / "entry_points.txt"
    path.write_text(
        "# note\n[other]\na = b\n\n[kexue]\n; odd\n x = odd_one:y [extra]\n\n[kexue.more]\nq=r\n"
    )
    monkeypatch.syspath_prepend(site.folder)
    assert [(e.name, e.value) for e in entry_points("kexue") if e.distribution == "odd-one"] == [
        ("x", "odd_one:y")
    ]


@pytest.mark.parametrize(
    ("requirement", "admitted"),
    [
        ("kexue>=0.1,<0.2", True),
        ("kexue[torch]<0.2,>=0.1", True),
        ("kexue (>=0.1)", True),
        ("kexue<=0.1", True),
        ("kexue>0.1", False),
        ("kexue>=0.2", False),
        ("kexue<0.1.0", False),
        ("kexue~=0.1", True),
        ("kexue==0.1.*", True),
        ("kexue!=0.1.0", False),
        ("kexue>=0.1; python_version > '3'", True),
        ("kexue", True),
        ("nonsense >=", True),
    ],
)
def test_requirements_on_the_core_are_compared_as_packaging_does(requirement, admitted):
    from packaging.requirements import InvalidRequirement, Requirement

    assert (_admits(requirement, "0.1.0") is None) == admitted
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return
    assert parsed.specifier.contains("0.1.0", prereleases=True) == admitted
