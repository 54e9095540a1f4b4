"""Without a network, and with huggingface_hub reading what kexue placed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir

from kexue_core.errors import NotFoundError, OfflineError
from kexue_core.hub import locate
from kexue_core.hub.download import pull
from kexue_core.hub.home import hf_cache
from kexue_core.testing.loopback_scenarios import REPO, content

BIG = "model.safetensors"


@pytest.fixture
def served(world):
    world.commit = world.hub.store.add(REPO, {"config.json": b"{}", BIG: content()})
    return world


def test_offline_cold_is_one_typed_error(served):
    served.setenv("HF_HUB_OFFLINE", "1")
    for call in (lambda: pull([f"hf:{REPO}"]), lambda: locate(f"hf:{REPO}")):
        with pytest.raises(OfflineError, match="HF_HUB_OFFLINE"):
            call()
    assert not served.hub.seen


def test_offline_warm_works(served):
    pull([f"hf:{REPO}"])
    served.setenv("HF_HUB_OFFLINE", "1")
    served.hub.seen.clear()
    assert (locate(f"hf:{REPO}").folder / BIG).read_bytes() == content()
    assert pull([f"hf:{REPO}"])[0].source == "cache"
    assert not served.hub.seen


def test_without_download_the_network_is_not_touched(served):
    with pytest.raises(OfflineError, match="kexue pull"):
        locate(f"hf:{REPO}", download=False)
    assert not served.hub.seen


@pytest.mark.parametrize("revision", ["main", "commit", "tag"])
def test_huggingface_hub_finds_what_kexue_placed(served, revision):
    served.hub.store.repos[REPO].refs["v1"] = served.commit
    revision = {"main": "main", "commit": served.commit, "tag": "v1"}[revision]
    pull([f"hf:{REPO}@{revision}"])
    for name, data in (("config.json", b"{}"), (BIG, content())):
        path = hf_hub_download(
            REPO, name, revision=revision, cache_dir=served.cache, local_files_only=True
        )
        with open(path, "rb") as stream:  # noqa: PTH123 - as a stranger would
            assert stream.read() == data


def test_huggingface_hub_verifies_what_kexue_placed(served):
    pull([f"hf:{REPO}"])
    verified = HfApi(endpoint=served.hub.url).verify_repo_checksums(REPO, cache_dir=served.cache)
    assert verified.checked_count == 2
    assert not verified.mismatches
    assert not verified.missing_paths
    [repo] = scan_cache_dir(served.cache).repos
    assert repo.repo_id == REPO
    assert repo.nb_files == 2
    assert repo.refs.keys() == {"main"}


def test_kexue_uses_what_huggingface_hub_placed(served):
    for name in ("config.json", BIG):
        hf_hub_download(REPO, name, cache_dir=served.cache, endpoint=served.hub.url)
    sent = served.hub.sent(BIG)
    [done] = pull([f"hf:{REPO}"])
    assert served.hub.sent(BIG) == sent
    assert (done.folder / BIG).read_bytes() == content()


def test_the_cache_is_where_huggingface_hub_has_it(world):
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for name, value in (("HF_HUB_CACHE", ""), ("HF_HOME", "$HOME/x"), ("XDG_CACHE_HOME", "/x/y")):
        world.delenv("HF_HUB_CACHE") if name == "HF_HUB_CACHE" else world.setenv(name, value)
        run = [sys.executable, "-c", code]
        theirs = subprocess.run(
            run, env=world.environment(), capture_output=True, text=True, check=True
        )
        assert str(hf_cache()) == theirs.stdout.strip()
        if name == "HF_HOME":
            world.delenv("HF_HOME")


def test_files_of_their_own_need_no_network(world, tmp_path):
    folder = tmp_path / "mine"
    with pytest.raises(NotFoundError, match="no folder"):
        locate(f"file:{folder}")
    folder.mkdir()
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        locate(f"file:{folder}")
    (folder / "config.json").write_text("{}")
    found = locate(f"file:{folder}")
    assert (found.folder, found.entry, found.source) == (folder, None, "folder")
