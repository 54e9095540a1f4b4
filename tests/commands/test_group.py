"""The group: exit codes, one-line errors, lazy verbs, verbs of other distributions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from kexue_core.commands._verbs import RESERVED, TABLE, load_verb


@pytest.mark.parametrize("verb", TABLE)
def test_every_verb_of_the_table_is_a_command_with_examples(verb):
    command = load_verb(verb)
    assert command.name == verb
    assert "Examples:" in command.help
    assert not any("--debug" in p.opts for p in command.params)


def test_help_names_every_verb_and_imports_none(kexue):
    code = (
        "import sys\nfrom kexue_core.commands import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith('kexue_core.commands.')], file=sys.stderr)"
    )
    done = kexue(code=code)
    assert done.returncode == 0
    for verb in TABLE:
        assert f"\n  {verb} " in done.stdout
    assert done.stderr.strip() == "['kexue_core.commands._verbs']"


def test_without_arguments_it_helps(kexue):
    done = kexue()
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: kexue ")
    assert kexue("--version").stdout == "kexue 0.1.0\n"


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["lst"], 2, "There is no verb 'lst'. Did you mean list?"),
        (["qqqq"], 2, "There is no verb 'qqqq'. `kexue --help` lists all"),
        (["--nope"], 2, "No such option"),
        (["list", "--nope"], 2, "`kexue list --help` shows how"),
        (["list", "--kind", "loss", "--capability", "sample"], 2, "for weights and models"),
        (["show"], 2, "Missing argument 'NAME'"),
        (["show", "no-such-thing"], 1, "Nothing is named 'no-such-thing'. `kexue list`"),
        (["show", "a/b"], 1, "For a folder write file:a/b, for a Hub repository hf:a/b"),
        (["sample", "no-such-thing"], 1, "No weights are named 'no-such-thing'"),
        (["sample", "x", "--out", "a.xyz"], 2, "must end in one of .png"),
        (["score", "x"], 2, "Name images"),
    ],
)
def test_errors_are_one_line_with_a_next_action(kexue, args, code, text):
    done = kexue(*args)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("kexue: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


@pytest.mark.parametrize("args", [["--debug", "show", "nope"], ["show", "nope", "--debug"]])
def test_debug_shows_the_traceback_before_and_after_the_verb(kexue, args):
    done = kexue(*args)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("kexue: Nothing is named")


VERB = "import click\n@click.command()\n@click.argument('what', default='')\ndef command(what):\n"


def test_verbs_of_other_distributions(kexue, site):
    site.install(
        "their-verbs",
        VERB
        + "    'Say it.'\n"
        + "    if what == 'bug': raise ZeroDivisionError('7 / 0')\n"
        + "    if what == 'mute': raise type('M', (Exception,), {'__str__': lambda _: 1 / 0})\n"
        + "    if what == 'disk': open('/no/such/file')\n"
        + "    if what == 'memory': bytearray(2**62)\n"
        + "    if what == 'tensor': import torch; torch.empty(2**58)\n"
        + "    if what == 'exit': click.get_current_context().exit(5)\n"
        + "    if what == 'interrupt': raise KeyboardInterrupt\n"
        + "    if what == 'network':\n"
        + "        from kexue_core.errors import NetworkError\n"
        + "        raise NetworkError('The Hub is away', hint='Try later')\n"
        + "    click.echo('said')\n    return 7\n",
        entry_points={
            "kexue.commands": {
                "say": "their_verbs:command",
                "list": "their_verbs:command",
                "gone": "no_such_module:command",
                "odd": "their_verbs:click",
            }
        },
    )
    assert "  say          From their-verbs\n" in kexue("--help").stdout
    assert kexue("say").stdout == "said\n"
    assert kexue("say").returncode == 0
    for what, code, text in [
        ("bug", 70, "this is a bug in kexue or a plugin: ZeroDivisionError: 7 / 0. --debug"),
        ("mute", 70, "a plugin: M: (its message cannot be read: ZeroDivisionError). --debug"),
        ("disk", 1, "/no/such/file: No such file or directory. Check the path"),
        ("memory", 1, "memory does not suffice. Take less at once"),
        ("tensor", 1, "memory does not suffice. Take less at once"),
        ("exit", 5, ""),
        ("interrupt", 130, "interrupted"),
        ("network", 3, "The Hub is away. Try later"),
    ]:
        done = kexue("say", what)
        assert (done.returncode, done.stdout) == (code, ""), what
        assert done.stderr.count("\n") == (1 if text else 0)
        assert text in done.stderr
    # Its `list` is ignored, its broken verbs fail alone.
    assert kexue("list").stdout.startswith("name\t")
    for verb in ("gone", "odd"):
        done = kexue(verb)
        assert done.returncode == 1
        assert f"The verb '{verb}' of their-verbs" in done.stderr
        assert done.stderr.count("\n") == 1
    checks = kexue("doctor", "-q", "verbs")
    assert checks.returncode == 1
    assert "their-verbs takes the verb 'list', which belongs to kexue itself" in checks.stdout
    assert "verbs\tgone\tbroken" in checks.stdout
    assert "verbs\tsay" not in checks.stdout


def test_a_verb_of_two_distributions_belongs_to_neither(kexue, site):
    for name in ("their-one", "their-two"):
        module = name.replace("-", "_")
        site.install(
            name,
            VERB + "    click.echo('said')\n",
            entry_points={"kexue.commands": {"say": f"{module}:command"}},
        )
    assert kexue("say").returncode == 2
    assert "brings the verb 'say', and so does their-two" in kexue("doctor", "-q", "verbs").stdout


def test_text_verbs_are_reserved_too():
    assert {"embed", "rewrite", "extract", "classify"} <= RESERVED


def test_a_closed_pipe_is_quiet(environment, toys, tmp_path):
    # The reader has gone before anything is written; buffered, that shows at the last flush only.
    line = f"{sys.executable} -m kexue_core list | (exec <&-; sleep 1); echo ${{PIPESTATUS[0]}}"
    for unbuffered in ("", "1"):
        done = subprocess.run(
            ["bash", "-c", line],
            env=environment | {"PYTHONUNBUFFERED": unbuffered},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        assert done.stdout.strip() == "141"


def test_ctrl_c_is_one_line(environment, site, tmp_path):
    site.install(
        "slow-verb",
        VERB + "    import time; print('ready', flush=True); time.sleep(60)\n",
        entry_points={"kexue.commands": {"wait": "slow_verb:command"}},
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "kexue_core", "wait"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "kexue: interrupted\n"


def test_completion_knows_verbs_options_and_weights(kexue, toys):
    def complete(words: str) -> list[str]:
        count = len(words.split(" ")) - 1
        done = kexue(_KEXUE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(count))
        assert done.stderr == ""
        return [line.partition(",")[2] for line in done.stdout.split()]

    assert complete("kexue s") == ["show", "sample", "score", "similar"]
    assert complete("kexue show toy-") == ["toy-bears", "toy-faces"]
    assert complete("kexue sample toy-f") == ["toy-faces"]
    assert "--temperature" in complete("kexue sample --te")
