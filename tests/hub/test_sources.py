"""Names, mirrors, pins and hostile listings."""

from __future__ import annotations

import hashlib
import json
import time

import pytest

from kexue_core.errors import (
    ChecksumMismatch,
    InvalidReferenceError,
    NetworkError,
    NotFoundError,
    VerificationError,
)
from kexue_core.hub import locate
from kexue_core.hub.download import PullOptions, pull
from kexue_core.hub.mirrors import split_mirrors
from kexue_core.hub.pins import read_pin
from kexue_core.hub.removal import plan_removal, remove
from kexue_core.hub.verification import references_here, verify
from kexue_core.testing.loopback_scenarios import REPO, content

BIG = "model.safetensors"
FILES = {"config.json": b'{"format": 1}', BIG: content(300_000)}


def entry(files=FILES, **more):
    hashes = {
        n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in files.items()
    }
    return {"license": "MIT", "files": hashes, **more}


def make_mirror(folder, name="glow", files=FILES, marker=True):
    for file, data in files.items():
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_bytes(data)
    if marker:
        (folder / "kexue-mirror.json").write_text('{"format": 1}')
    return folder


@pytest.fixture
def published(world):
    commit = world.hub.store.add(REPO, FILES)
    world.register(glow=entry(repo=REPO, revision=commit))
    return world


# --- the Hub, with hashes in the registry ---------------------------------------------------------


def test_a_name_needs_no_listing(published):
    [done] = pull(["glow"])
    assert (done.folder / BIG).read_bytes() == FILES[BIG]
    assert not [s for s in published.hub.seen if s.path.startswith("/api/")]
    assert locate("kexue-x::glow", download=False).entry.name == "glow"
    assert [str(r) for r in references_here()] == ["glow"]


def test_a_hub_that_lies_consistently_does_not_fool_the_registry(published):
    evil = {**FILES, BIG: FILES[BIG][:-1] + b"!"}
    commit = published.hub.store.add(REPO, evil)
    published.register(glow=entry(repo=REPO, revision=commit))
    with pytest.raises(ChecksumMismatch) as raised:
        pull(["glow"])
    for data in (FILES[BIG], evil[BIG]):
        assert hashlib.sha256(data).hexdigest() in str(raised.value)
    assert published.hub.sent(BIG) == 0


def test_a_small_file_that_differs_is_refused(published):
    commit = published.hub.store.add(REPO, {**FILES, "config.json": b'{"format": 2}'})
    published.register(glow=entry(repo=REPO, revision=commit))
    with pytest.raises(ChecksumMismatch):
        pull(["glow"])
    assert not list(published.cache.rglob("config.json"))


def test_misspelt_name_gets_a_suggestion(published):
    with pytest.raises(NotFoundError, match="Did you mean glow"):
        pull(["glwo"])


def test_unpublished_weights_say_which_mirror_would_have_them(world):
    world.register(glow=entry())
    for call in (lambda: pull(["glow"]), lambda: locate("glow")):
        with pytest.raises(NotFoundError, match=r"not published.*KEXUE_MIRROR"):
            call()


def test_pull_follows_requires_and_parts(world):
    commits = {n: world.hub.store.add(f"o/{n}", FILES) for n in ("codec", "prior", "critic")}
    world.register(
        prior=entry(repo="o/prior", revision=commits["prior"], requires=["codec"]),
        codec=entry(repo="o/codec", revision=commits["codec"], parts=["critic"]),
        critic=entry(repo="o/critic", revision=commits["critic"], parts=["prior"]),
    )
    assert [d.name for d in pull(["prior"])] == ["prior", "codec", "critic"]


def test_dry_run_tells_sizes_and_licence_and_fetches_nothing(published):
    [seen] = pull(["glow"], PullOptions(dry_run=True))
    assert (seen.license, seen.source, seen.folder) == ("MIT", "hub", None)
    assert seen.files == {n: len(d) for n, d in FILES.items()}
    assert not published.files()


def test_local_dir_holds_plain_files_and_nothing_else(published, tmp_path):
    for _ in range(2):
        [done] = pull(["glow"], PullOptions(local_dir=tmp_path / "out"))
        found = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
        assert found == FILES
        assert done.folder == tmp_path / "out"
    assert published.hub.count(BIG) == 1


def test_a_token_is_not_sent_to_another_host(published):
    published.setenv("HF_TOKEN", "hf_loopback")
    pull(["glow"])
    to_hub = [s for s in published.hub.seen if s.host == "hub"]
    to_storage = [s for s in published.hub.seen if s.host == "storage"]
    assert to_storage
    assert all(s.headers.get("authorization") == "Bearer hf_loopback" for s in to_hub)
    assert not any("authorization" in s.headers for s in to_storage)


def test_an_expired_signed_address_is_renewed(published):
    published.hub.fault(file=BIG, close_after=100_000, times=1)
    published.hub.fault(file=BIG, status=403, times=2)
    published.hub.faults._faults[1].seen = 1  # the second answer only
    pull(["glow"])
    assert published.hub.count(BIG, "HEAD") == 2


# --- mirrors --------------------------------------------------------------------------------------


def test_a_folder_mirror_is_read_in_place(world, tmp_path):
    make_mirror(tmp_path / "mirror")
    world.register(glow=entry())
    found = locate("glow")
    assert (found.folder, found.source) == (tmp_path / "mirror" / "glow", "mirror")
    assert pull(["glow"])[0].source == "mirror"
    assert not world.hub.seen
    assert "mirror" in plan_removal("glow").kept[0]
    remove("glow")
    assert (tmp_path / "mirror" / "glow" / BIG).exists()
    assert not world.files()


def test_a_mirror_needs_its_marker(world, tmp_path):
    make_mirror(tmp_path / "mirror", marker=False)
    world.register(glow=entry())
    with pytest.raises(NotFoundError, match="not published"):
        locate("glow")  # the registry's own is passed over
    world.setenv("KEXUE_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(NotFoundError, match="no mirror"):
        locate("glow")  # the user's is not
    world.setenv("KEXUE_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(NotFoundError, match="no folder"):
        locate("glow")


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("{", "has format None, this kexue reads 1. Copy the mirror again"),
        ("[]", "has format None"),
        ('{"format": 2}', "has format 2, this kexue reads 1. Run `pip install --upgrade kexue`"),
    ],
)
def test_a_marker_is_of_a_format_that_is_known(world, tmp_path, marker, said):
    folder = make_mirror(tmp_path / "mirror")
    (folder / "kexue-mirror.json").write_text(marker)
    world.register(glow=entry())
    world.setenv("KEXUE_MIRROR", str(folder))
    with pytest.raises(NotFoundError, match=said):
        locate("glow")


def test_the_users_mirror_comes_first(world, tmp_path):
    make_mirror(tmp_path / "mirror")
    make_mirror(tmp_path / "own")
    world.setenv("KEXUE_MIRROR", str(tmp_path / "own"))
    world.register(glow=entry())
    assert locate("glow").folder == tmp_path / "own" / "glow"


def test_a_rotten_mirror_is_refused_and_left_alone(world, tmp_path):
    make_mirror(tmp_path / "mirror")
    world.register(glow=entry())
    locate("glow")
    bad = tmp_path / "mirror" / "glow" / BIG
    bad.write_bytes(bytes(300_000))
    for call in (lambda: locate("glow"), lambda: pull(["glow"])):
        with pytest.raises(ChecksumMismatch, match="restore that file"):
            call()
    assert {r.file: r.state for r in verify("glow", repair=True)}[BIG] == "bad"
    assert bad.exists()


def test_a_mirror_by_url(world):
    world.hub.store.add_mirror("glow", FILES)
    world.setenv("KEXUE_MIRROR", world.hub.mirror_url)
    world.register(glow=entry())
    world.hub.fault(file=f"glow/{BIG}", close_after=100_000, times=1)
    [done] = pull(["glow"])
    assert done.source == f"{world.hub.mirror_url}/glow"
    assert done.fetched == sum(map(len, FILES.values()))
    assert locate("glow", download=False).source == "cache"
    remove("glow")
    assert not world.files()


def test_a_bad_mirror_by_url_gives_way_to_the_hub(published):
    published.hub.store.add_mirror("glow", {**FILES, BIG: bytes(300_000)})
    published.setenv("KEXUE_MIRROR", published.hub.mirror_url)
    [done] = pull(["glow"])
    assert done.source == "hub"
    assert (done.folder / BIG).read_bytes() == FILES[BIG]
    remove("glow")
    assert not published.files()


@pytest.mark.parametrize("size", [300_000, 299_999, 300_001, 0])
def test_a_bad_mirror_by_url_alone_is_an_error(world, size):
    world.hub.store.add_mirror("glow", {**FILES, BIG: bytes(size)})
    world.setenv("KEXUE_MIRROR", world.hub.mirror_url)
    world.register(glow=entry())
    with pytest.raises(ChecksumMismatch):
        pull(["glow"])
    remove("glow")
    assert not world.files()


def test_lists_of_mirrors():
    text = "/a:http://h:80/x:b,https://u:8/,C"
    assert split_mirrors(text) == ("/a", "http://h:80/x", "b", "https://u:8/", "C")


# --- sources without known hashes -----------------------------------------------------------------


def test_a_first_pull_pins_and_a_change_is_an_error_with_both_hashes(world):
    world.hub.store.add(REPO, FILES)
    pull([f"hf:{REPO}"])
    before = hashlib.sha256(FILES[BIG]).hexdigest()
    assert read_pin(REPO, "main").files[BIG].sha256 == before
    changed = bytes(300_000)
    world.hub.store.add(REPO, {BIG: changed})
    pull([f"hf:{REPO}"])  # what is here is what was pinned: nothing is asked
    for file in world.cache.rglob(BIG):
        file.resolve().unlink()
    with pytest.raises(ChecksumMismatch) as raised:
        pull([f"hf:{REPO}"])
    assert before in str(raised.value)
    assert hashlib.sha256(changed).hexdigest() in str(raised.value)
    assert f"kexue rm hf:{REPO}@main" in str(raised.value)
    remove(f"hf:{REPO}")
    [done] = pull([f"hf:{REPO}"])
    assert (done.folder / BIG).read_bytes() == changed
    remove(f"hf:{REPO}@main")
    assert not world.files()


@pytest.mark.parametrize("changed", [b"[]", b'{"format": 2}'])
def test_a_small_file_that_changed_is_noticed_too(world, changed):
    world.hub.store.add(REPO, FILES)
    [done] = pull([f"hf:{REPO}"])
    world.hub.store.add(REPO, {"config.json": changed})
    (done.folder / "config.json").unlink()
    with pytest.raises(ChecksumMismatch, match=r"config\.json.*kexue rm hf:owner"):
        pull([f"hf:{REPO}"])


def test_a_registry_entry_without_hashes_is_pinned(world):
    world.hub.store.add(REPO, FILES)
    world.register(sim={"repo": REPO, "status": "unverified"})
    [done] = pull(["sim"])
    assert locate("sim", download=False).folder == done.folder
    assert {r.state for r in verify("sim")} == {"ok"}
    assert len(list(references_here())) == 1
    remove("sim")
    assert not world.files()


def test_files_of_other_frameworks_stay_away(world):
    world.hub.store.add(REPO, {**FILES, "tf_model.h5": b"x", "onnx/model.onnx": b"x"})
    assert set(pull([f"hf:{REPO}"])[0].files) == set(FILES)
    world.hub.store.add("o/two", {**FILES, "tf_model.h5": b"x"})
    [done] = pull(["hf:o/two"], PullOptions(include=("*.h5",)))
    assert set(done.files) == {"tf_model.h5"}
    assert set(pull(["hf:o/two"])[0].files) >= set(FILES)  # a part is not taken for the whole
    assert locate("hf:o/two", download=False).source == "cache"


# --- hostile sources ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:evil", "a//b", "nul", "x\ny", "."],
)
def test_file_names_that_lead_out_are_refused(world, tmp_path, name):
    world.hub.store.add(REPO, {**FILES, name: b"evil"})
    with pytest.raises(VerificationError, match="leads out"):
        pull([f"hf:{REPO}"])
    assert not world.files()
    assert not list(tmp_path.rglob("*evil*"))


def test_a_revision_does_not_lead_out(world):
    world.hub.store.add(REPO, FILES)
    world.hub.store.repos[REPO].refs["a/../../../x"] = world.hub.store.repos[REPO].refs["main"]
    with pytest.raises((InvalidReferenceError, VerificationError)):
        pull([f"hf:{REPO}@a/../../../x"])
    assert not list(world.cache.parent.rglob("x"))


def test_a_server_that_lists_100_000_files(world):
    blob = world.hub.store.blob("file.bin", b"")
    world.hub.store.add(REPO, {})
    world.hub.store.repos[REPO].commit({f"file-{n}.bin": blob for n in range(100_000)})
    start = time.monotonic()
    world.setenv("KEXUE_REPLY_TIMEOUT", "60")
    world.setenv("KEXUE_STALL_TIMEOUT", "60")
    with pytest.raises(VerificationError, match=r"100000 files.*--include"):
        pull([f"hf:{REPO}"])
    assert time.monotonic() - start < 60
    assert len(world.hub.seen) == 1
    assert not world.files()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"id": "x", "sha": "main", "siblings": []},
        {"id": "x", "sha": "0" * 40, "siblings": [{"rfilename": "a", "size": 1}]},
        {"id": "x", "sha": "0" * 40, "siblings": [{"size": 1}]},
    ],
)
def test_an_answer_that_is_not_the_hubs(world, monkeypatch, answer):
    from kexue_core.testing import loopback_hub

    def api(question):
        return 200, json.loads(json.dumps(answer)), {}

    monkeypatch.setattr(loopback_hub, "api_answer", api)
    with pytest.raises((VerificationError, NetworkError, NotFoundError)):
        pull([f"hf:{REPO}"])
    assert not world.files()
