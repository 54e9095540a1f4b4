"""The loopback Hub itself, met by the real client."""

from __future__ import annotations

import socket
from urllib.request import urlopen

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

DATA = bytes(range(256)) * 400


@pytest.fixture
def api(loopback_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return HfApi(endpoint=loopback_hub.url, token="hf_loopback")


@pytest.mark.filterwarnings("ignore:Use 'content=")
def test_create_upload_tag_and_download(api, loopback_hub, tmp_path):
    assert api.whoami()["name"] == "tester"
    api.create_repo("tester/model")
    with pytest.raises(HfHubHTTPError):
        api.create_repo("tester/model")
    api.create_repo("tester/model", exist_ok=True)
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "model.safetensors").write_bytes(DATA)
    (tmp_path / "up" / "README.md").write_text("---\nlicense: mit\n---\n")
    done = api.upload_folder(repo_id="tester/model", folder_path=tmp_path / "up")
    api.create_tag("tester/model", tag="v1")
    folder = snapshot_download(
        "tester/model", revision="v1", cache_dir=tmp_path / "cache", endpoint=loopback_hub.url
    )
    assert done.oid in folder
    path = hf_hub_download(
        "tester/model", "model.safetensors", cache_dir=tmp_path / "other", endpoint=loopback_hub.url
    )
    with open(path, "rb") as stream:  # noqa: PTH123 - as a stranger would
        assert stream.read() == DATA
    verified = api.verify_repo_checksums(
        "tester/model", cache_dir=tmp_path / "cache", revision="v1"
    )
    assert verified.checked_count == 3
    assert not verified.mismatches


def test_private_and_gated(loopback_hub, tmp_path):
    store = loopback_hub.store
    store.add("o/private", {"a.bin": DATA}, private=True)
    store.add("o/gated", {"a.bin": DATA}, gated=True)
    place = {"cache_dir": tmp_path, "endpoint": loopback_hub.url}
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("o/private", "a.bin", token=False, **place)
    hf_hub_download("o/private", "a.bin", token="hf_loopback", **place)
    with pytest.raises(GatedRepoError):
        hf_hub_download("o/gated", "a.bin", token="hf_loopback", **place)


def test_faults_come_and_go(loopback_hub):
    loopback_hub.store.add_mirror("m", {"a.bin": DATA})
    url = f"{loopback_hub.mirror_url}/m/a.bin"
    fault = loopback_hub.fault(file="m/a.bin", flip=7, times=1)
    with urlopen(url) as reply:
        flipped = reply.read()
    assert [i for i, (a, b) in enumerate(zip(DATA, flipped, strict=True)) if a != b] == [7]
    assert fault.seen == 1
    with urlopen(url) as reply:
        assert reply.read() == DATA
    assert loopback_hub.sent("m/a.bin") == 2 * len(DATA)
    loopback_hub.fault(file="m/a.bin", stall_after=10)
    with pytest.raises(TimeoutError), urlopen(url, timeout=0.2) as reply:
        reply.read()
    loopback_hub.faults.clear()
    with urlopen(url) as reply:
        assert reply.status == 200


def test_a_closed_hub_is_gone(loopback_hub):
    host, port = loopback_hub.url.removeprefix("http://").split(":")
    loopback_hub.__exit__(None, None, None)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=1)
