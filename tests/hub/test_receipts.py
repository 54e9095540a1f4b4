"""Hashes, receipts, locks and file names."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexue_core.errors import ChecksumMismatch, VerificationError
from kexue_core.hub import receipts
from kexue_core.hub.files import safe_name
from kexue_core.hub.locks import FileLock
from kexue_core.hub.receipts import check_file, checked_sha256, git_sha1, receipt_path
from kexue_core.registry import FileEntry


@pytest.fixture
def counted(world, tmp_path, monkeypatch):
    """A file that has been there for a while, and how often it is hashed."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    time.sleep(0.05)
    real, calls = receipts.hash_file, []

    def hash_file(path):
        calls.append(path)
        return real(path)

    monkeypatch.setattr(receipts, "hash_file", hash_file)
    return path, calls


def test_a_file_is_hashed_once(counted):
    path, calls = counted
    for _ in range(3):
        assert checked_sha256(path) == hashlib.sha256(b"content").hexdigest()
    assert len(calls) == 1
    checked_sha256(path, fresh=True)
    assert len(calls) == 2


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_change_is_noticed_even_if_the_times_are_set_back(counted, keep_time):
    path, _ = counted
    checked_sha256(path)
    before = path.stat()
    path.write_bytes(b"CONTENT")
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checked_sha256(path) == hashlib.sha256(b"CONTENT").hexdigest()


def test_a_replaced_file_is_noticed(counted, tmp_path):
    path, _ = counted
    checked_sha256(path)
    (tmp_path / "other").write_bytes(b"CONTENT")
    (tmp_path / "other").replace(path)
    assert checked_sha256(path) == hashlib.sha256(b"CONTENT").hexdigest()


def test_a_file_that_is_too_young_gets_no_credit(world, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    checked_sha256(path)
    path.write_bytes(b"two")  # perhaps within the same tick of the clock
    assert checked_sha256(path) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"size": 7}'])
def test_a_torn_receipt_costs_a_hash(counted, text):
    path, calls = counted
    checked_sha256(path)
    receipt_path(path).write_text(text)
    checked_sha256(path)
    assert len(calls) == 2


def test_a_home_that_cannot_be_written_costs_a_hash(counted, world, tmp_path):
    path, calls = counted
    (tmp_path / "blocked").write_text("a file where the folder should be")
    world.setenv("KEXUE_HOME", str(tmp_path / "blocked"))
    for _ in range(2):
        checked_sha256(path)
    assert len(calls) == 2


def test_a_mismatch_names_both_hashes_and_what_to_do(world, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    good, other = (hashlib.sha256(b).hexdigest() for b in (b"content", b"CONTENT"))
    check_file(path, FileEntry(good, 7), name="glow")
    with pytest.raises(ChecksumMismatch) as raised:
        check_file(path, FileEntry(other, 7), name="glow")
    for words in (good, other, str(path), "kexue verify glow --repair"):
        assert words in str(raised.value)
    with pytest.raises(ChecksumMismatch, match="7 bytes, glow says 8"):
        check_file(path, FileEntry(good, 8), name="glow")
    with pytest.raises(ChecksumMismatch, match="missing"):
        check_file(tmp_path / "none", FileEntry(good, 8), name="glow")


def test_git_names_content_as_git_does(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content\n")
    theirs = subprocess.run(
        ["git", "hash-object", str(path)], capture_output=True, text=True, check=True
    )
    assert git_sha1(path) == theirs.stdout.strip()


@given(
    st.lists(st.from_regex(r"[a-zé中0-9_-][a-zé中0-9._-]{0,8}[a-z0-9]", fullmatch=True), min_size=1)
)
def test_plain_names_are_safe(parts):
    name = "/".join(parts)
    if not any(p.split(".")[0] in ("con", "prn", "aux", "nul") for p in parts) and len(name) < 1024:
        assert safe_name(name, source="x") == name


@given(st.text(max_size=30))
def test_a_safe_name_stays_inside(name):
    try:
        safe = safe_name(name, source="x")
    except VerificationError:
        return
    assert os.path.normpath(f"/inside/{safe}").startswith("/inside/")
    assert os.path.normpath(f"/inside/{safe}") == f"/inside/{safe}"


def test_a_lock_is_held_by_one(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire(blocking=False)
    assert not second.acquire(blocking=False)
    first.release()
    with second:
        assert not first.acquire(blocking=False)


def test_a_lock_on_a_file_that_was_removed_does_not_count(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire()
    (tmp_path / "lock").unlink()
    assert second.acquire(blocking=False)  # a new file: nobody else will find the old one
    first.release()
    assert not FileLock(tmp_path / "lock").acquire(blocking=False)
    assert not FileLock(tmp_path / "none", create=False).path.exists()
