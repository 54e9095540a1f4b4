"""Errors that resist being told of, and interrupts that are the user's or a plugin's own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from synthetic import environment, write_distribution

from kexue_core.accidents import UserInterrupts, diagnose, one_line
from kexue_core.distributions import EntryPoint
from kexue_core.isolation import load_plugin


class RaisingError(Exception):
    def __str__(self) -> str:
        raise self.args[0]


class WordlessError(Exception):
    __str__ = None  # type: ignore[assignment]


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("nameless")


class NamelessError(Exception, metaclass=Nameless):
    pass


class OddNameError(ModuleNotFoundError):
    @property
    def name(self) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class EmptyError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (EmptyError(), "EmptyError"),
        (RaisingError(ValueError("x")), "RaisingError: (its message cannot be read: ValueError)"),
        (RaisingError(SystemExit(3)), "RaisingError: (its message cannot be read: SystemExit)"),
        (WordlessError(), "WordlessError: (its message cannot be read: TypeError)"),
    ],
)
def test_every_error_is_one_line(error: BaseException, said: str) -> None:
    assert one_line(error) == said
    assert diagnose(error, "toy.plugin", "toy").cause == said


@pytest.mark.parametrize("error", [NamelessError(), OddNameError("x")])
def test_a_diagnosis_never_raises(error: BaseException) -> None:
    problem = diagnose(error, "toy.plugin", "toy")
    assert problem.cause == "raises an exception that cannot be described"
    assert "pip install --upgrade toy" in problem.fix


def test_a_missing_module_without_a_name_is_told_as_it_is() -> None:
    assert diagnose(ModuleNotFoundError("gone"), "toy", "toy").cause == "ModuleNotFoundError: gone"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as in a terminal, here and in children: background jobs of a shell ignore it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_is_the_users_only_where_a_signal_came() -> None:
    with UserInterrupts(), contextlib.suppress(KeyboardInterrupt):
        raise KeyboardInterrupt
    with (
        pytest.raises(KeyboardInterrupt),
        UserInterrupts(),
        contextlib.suppress(KeyboardInterrupt),
    ):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_a_handler_that_does_not_interrupt_is_asked_and_put_back() -> None:
    asked: list[int] = []

    def handler(number: int, frame: object) -> None:
        asked.append(number)

    signal.signal(signal.SIGINT, handler)
    with UserInterrupts():
        signal.raise_signal(signal.SIGINT)
    assert asked == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is handler


def test_plugins_load_in_a_thread_too() -> None:
    with ThreadPoolExecutor(1) as pool:
        entry = EntryPoint("core", "kexue_core.builtin", "kexue", "1.0", ())
        record, error = pool.submit(load_plugin, "kexue", [entry]).result()
    assert not record.problems
    assert error is None


SLEEPS = """
import sys, time
print("asleep", file=sys.stderr, flush=True)
try:
    time.sleep(60)
except BaseException:
    {reaction}
import click
command = click.Command("sleep")
"""


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("reaction", ["raise", "pass", "raise ImportError"])
@pytest.mark.parametrize("group", ["kexue", "kexue.commands"])
def test_ctrl_c_interrupts_whatever_a_plugin_makes_of_it(
    group: str, reaction: str, tmp_path: Path
) -> None:
    source = SLEEPS.format(reaction=reaction)
    write_distribution(tmp_path, "sleeper", source, group=group, entry="sleep")
    process = subprocess.Popen(
        [sys.executable, "-m", "kexue_core", *(["list"] if group == "kexue" else ["sleep"])],
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "kexue: interrupted\n")


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "type('E', (Exception,), {'__str__': 0})"])
def test_a_verb_is_contained_as_a_plugin_is(raised: str, tmp_path: Path) -> None:
    write_distribution(tmp_path, "odd", f"raise {raised}", group="kexue.commands", entry="greet")
    done = subprocess.run(
        [sys.executable, "-m", "kexue_core", "doctor", "--json", "-q", "verbs"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert '"greet"' in done.stdout
    assert "of odd cannot be loaded: " in done.stdout
