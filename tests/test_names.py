"""The grammar of references: what it admits, what it refuses and what it says then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexue_core.errors import InvalidReferenceError
from kexue_core.names import NAME, Reference, check_name, did_you_mean, normalize, parse_reference

names = st.from_regex(NAME, fullmatch=True)
revisions = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(
    lambda revision: ".." not in revision  # refused: it would lead out of the cache
)


@given(names, st.none() | names, st.none() | revisions)
def test_a_name_is_taken_apart_and_put_together(
    name: str, distribution: str | None, revision: str | None
) -> None:
    reference = Reference("name", name, distribution, revision)
    assert parse_reference(str(reference)) == reference


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_an_error_with_a_hint(text: str) -> None:
    hint: str | None = None
    try:
        reference = parse_reference(text)
    except InvalidReferenceError as error:
        hint = error.hint
    else:
        hint = "none needed"
        assert parse_reference(str(reference)) == reference
    assert hint


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("glow-celeba", Reference("name", "glow-celeba")),
        ("glow-celeba@v1", Reference("name", "glow-celeba", revision="v1")),
        ("Kexue_Flow::glow", Reference("name", "glow", distribution="kexue-flow")),
        ("hf:owner/repo", Reference("hf", "owner/repo")),
        ("hf:owner/repo@main", Reference("hf", "owner/repo", revision="main")),
        ("hf:owner/repo@refs/pr/1", Reference("hf", "owner/repo", revision="refs/pr/1")),
        ("file:some/folder", Reference("file", "some/folder")),
        ("file:/at@sign", Reference("file", "/at@sign")),
    ],
)
def test_forms(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("./folder", "file:./folder"),
        ("owner/repo", "hf:owner/repo"),
        ("owner/repo", "file:owner/repo"),
        (r"C:\weights", "file:"),
        ("file:", "file:path/to/folder"),
        ("hf:repo", "hf:owner/repo"),
        ("hf:owner/repo@", "hf:owner/repo@revision"),
        ("Glow", "lower-case"),
        ("glow--celeba", "lower-case"),
        ("-glow", "lower-case"),
        ("glow@", "@revision"),
        ("glow@1..2", "@revision"),
        ("::glow", "kexue-flow::"),
        ("a::b::c", "lower-case"),
        ("", "lower-case"),
        ("glow\n", "lower-case"),
    ],
)
def test_what_is_refused_says_what_works(text: str, hint: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        parse_reference(text)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", [None, 7, "", "A", "a_b", "a b", "ä", "a\n", "-", "a-"])
def test_bad_names(name: object) -> None:
    with pytest.raises(InvalidReferenceError):
        check_name(name)


def test_normal_form_of_distributions() -> None:
    assert normalize("Kexue__Flow.X") == "kexue-flow-x"


def test_suggestions() -> None:
    assert did_you_mean("glow-celebb", ["glow-celeba", "vae"]) == "Did you mean glow-celeba?"
    assert did_you_mean("zzz", ["glow-celeba"]) is None
