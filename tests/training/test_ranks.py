"""What the ranks of ``torchrun`` print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch.distributed import TCPStore

from kexue_core.commands.train import command
from kexue_core.errors import NotFoundError


def test_an_error_of_all_ranks_is_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--standalone", "--nproc-per-node", "2"),
            *("-m", "kexue_core", "train", "toy-made", "--data", "nowhere"),
        ],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("nowhere does not exist") == 1


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The store of a launcher, as its ranks find it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def fail(recipe: str) -> int | BaseException:
    """The exit code of a rank that fails in silence, or the error that it prints."""
    result = CliRunner().invoke(command, [recipe])
    loud = isinstance(result.exception, NotFoundError)
    return result.exception if loud and result.exception else result.exit_code


@pytest.mark.usefixtures("launcher")
def test_a_rank_says_what_no_other_said() -> None:
    assert isinstance(fail("none"), NotFoundError)
    assert fail("none") == 1
    assert isinstance(fail("other"), NotFoundError)


@pytest.mark.usefixtures("launcher")
def test_after_a_restart_it_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(fail("none"), NotFoundError)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert isinstance(fail("none"), NotFoundError)


def test_without_the_launchers_store_everyone_speaks(
    launcher: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", "no port")
    for _ in range(2):
        assert isinstance(fail("none"), NotFoundError)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    monkeypatch.setenv("MASTER_PORT", str(launcher.port))
    for _ in range(2):
        assert isinstance(fail("none"), NotFoundError)
