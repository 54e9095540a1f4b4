"""Whatever goes wrong: every byte right, or one typed error and nothing placed."""

from __future__ import annotations

import time

import pytest

from kexue_core import errors
from kexue_core.hub import locate
from kexue_core.hub.download import pull
from kexue_core.hub.removal import remove
from kexue_core.testing.loopback_scenarios import REPO, SCENARIOS, SIZE, Scenario, serve


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.name for s in SCENARIOS])
def test_recovers_or_says_why(world, scenario: Scenario):
    files = serve(world.hub, scenario)
    if scenario.token:
        world.setenv("HF_TOKEN", "hf_loopback")
    start = time.monotonic()
    if scenario.outcome == "recovered":
        [done] = pull([scenario.reference])
        for name, content in files.items():
            assert (done.folder / name).read_bytes() == content
        assert locate(scenario.reference, download=False).folder == done.folder
        if scenario.most:
            assert world.hub.sent("model.safetensors") <= scenario.most * SIZE
    else:
        with pytest.raises(errors.KexueError) as raised:
            pull([scenario.reference])
        assert type(raised.value).__name__ == scenario.outcome
        assert raised.value.hint
        assert "\n" not in str(raised.value)
        for placed in world.cache.rglob("snapshots/*/*"):  # its sibling may have been good
            assert placed.read_bytes() == files[placed.name]
            assert scenario.outcome != "ChecksumMismatch" or placed.name not in scenario.name
    assert time.monotonic() - start < 20
    remove(scenario.reference)
    assert not world.files()


def test_nothing_of_a_wrong_file_is_in_the_cache(world):
    serve(
        world.hub, next(s for s in SCENARIOS if s.name == "bit flip in model.safetensors, always")
    )
    with pytest.raises(errors.ChecksumMismatch, match="sha256"):
        pull([f"hf:{REPO}"])
    assert not list(world.cache.rglob("model.safetensors"))
    assert not [p for p in world.cache.rglob("blobs/*") if p.stat().st_size > 100]


@pytest.mark.parametrize(("attempts", "said"), [("3", "(3 tries in a row)"), ("1", "HTTP 503")])
def test_several_tries_are_counted_and_one_is_not(world, attempts: str, said: str):
    serve(world.hub, SCENARIOS[0])
    world.setenv("KEXUE_ATTEMPTS", attempts)
    world.setenv("KEXUE_RETRY_WAIT", "0.01")
    world.hub.faults.clear()
    world.hub.fault(method="API", file="*", status=503)
    with pytest.raises(errors.NetworkError) as raised:
        pull([f"hf:{REPO}"])
    assert raised.value.message.endswith(said)
    assert len(world.hub.seen) == int(attempts)
