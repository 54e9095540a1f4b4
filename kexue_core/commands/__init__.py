"""The command line: a lazy group of verbs, and ``main``, which turns errors into one line each.

How a verb is written, with ``listing.py`` as the example:

- One module a verb, named in the table of :mod:`._verbs` (never like a builtin: a submodule becomes
  a name of this package). It holds a ``click.Command`` called
  ``command``, thin over functions that a test can call. At module level it imports click,
  :mod:`._output` and :mod:`._options`; torch, safetensors, huggingface_hub, numpy and rich are
  imported inside functions.
- It raises :class:`~kexue_core.errors.KexueError` for what the user can mend, and never prints one:
  ``main`` does, as ``kexue: <message>. <hint>``, and exits with the error's code. An exit code
  without an error: ``click.get_current_context().exit(1)``. Values that it returns are ignored.
- Results go to stdout by ``_output.table`` or ``_output.json``; words about the work by
  ``_output.note`` to stderr. ``--json``, ``--quiet`` and the like come from :mod:`._options`.
- Its docstring is its help; examples stand in it under ``\\b`` and ``Examples:``.
- ``--debug`` belongs to ``main``, before or after the verb: do not declare it.

Exit codes: 0, 1 user, 2 usage, 3 network, 4 verification, 70 a bug, 130 Ctrl-C, 141 closed pipe.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from kexue_core import __version__
from kexue_core.commands._verbs import SECTIONS, TABLE, foreign_verbs, load_verb
from kexue_core.errors import KexueError
from kexue_core.names import did_you_mean

__all__ = ["cli", "main"]

EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_PIPE = 141  # 128 + SIGPIPE, which scripts with `pipefail` know to be harmless

_EPILOG = """\b
Examples:
  kexue list glow
  kexue show glow-celeba
  kexue pull glow-celeba
  kexue sample glow-celeba -n 16 --out faces.png

\b
Completion in the shell (bash, zsh or fish):
  eval "$(_KEXUE_COMPLETE=bash_source kexue)"

Exit codes: 0 done, 1 mistake to mend, 2 wrong usage, 3 network, 4 failed verification.

Not affiliated with the blog kexue.fm or its author."""


class _Interrupted(Exception):  # noqa: N818 - carries a signal past click
    """Ctrl-C, past click's own handling, which prints an empty line."""


class _PipeClosed(Exception):  # noqa: N818 - carries a signal past click
    """Nobody reads stdout any more."""


class LazyGroup(click.Group):
    """Verbs that are imported when they are called, and listed without an import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The core's verbs in the order of the table, then third parties'."""
        return [*TABLE, *(verb.name for verb in foreign_verbs() if verb.problem is None)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        return load_verb(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs of each section with their line of help, from the table."""
        foreign = [
            (verb.name, f"From {verb.distribution}")
            for verb in foreign_verbs()
            if verb.problem is None
        ]
        # One indentation for all sections: the dash of the longest name decides.
        width = max(len(name) for name in [*TABLE, *(name for name, _ in foreign)])
        for section in SECTIONS:
            rows = [(n.ljust(width), v.help) for n, v in TABLE.items() if v.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)
        if foreign:
            with formatter.section("Of other distributions"):
                formatter.write_dl([(name.ljust(width), help_) for name, help_ in foreign])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which was meant."""
        name = args[0]
        if not (name in TABLE or name.startswith("-") or ctx.resilient_parsing):
            known = self.list_commands(ctx)
            if name not in known:
                hint = did_you_mean(name, known) or "`kexue --help` lists all"
                raise click.UsageError(f"There is no verb {name!r}. {hint}", ctx=None)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete verbs from the table, and the group's options."""
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(name, help=TABLE[name].help if name in TABLE else None)
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> None:
        """Run the verb; carry Ctrl-C and a closed pipe past click's own handling."""
        try:
            super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error
        except BrokenPipeError as error:
            # Sockets that break are the hub's business, which makes NetworkErrors of them.
            raise _PipeClosed from error


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-V", "--version", message="kexue %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of errors; also after the verb.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """The techniques of the blog kexue.fm as PyTorch models with verified weights."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. ``argv`` without the program's name."""
    args = list(sys.argv[1:] if argv is None else argv)
    own = args[: args.index("--")] if "--" in args else args
    debug = "--debug" in own
    args = [a for a in own if a != "--debug"] + args[len(own) :]
    if hasattr(sys.stdout, "reconfigure"):
        # A terminal that cannot show Chinese shows question marks, not a traceback.
        sys.stdout.reconfigure(errors="replace")
    try:
        code = cli.main(args=args, prog_name="kexue", standalone_mode=False) or 0
        if _stdout_is_closed():
            code = EXIT_PIPE
    except BaseException as error:
        code = _report(error, debug=debug)
    sys.exit(code)


def _report(error: BaseException, *, debug: bool) -> int:
    """Print an error as one line, after its traceback where that is wanted; give its exit code."""
    if isinstance(error, SystemExit):
        raise error  # completion, and verbs that exit by themselves
    if isinstance(error, _PipeClosed):
        _stdout_is_closed()
        return EXIT_PIPE
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, (KeyboardInterrupt, _Interrupted)):
        _say("interrupted")
        return EXIT_INTERRUPTED
    if isinstance(error, KexueError):
        _say(str(error))
        return error.exit_code
    if isinstance(error, click.Abort):
        _say("nothing done")
        return 1
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "kexue"
        message = error.format_message().rstrip(".")
        _say(f"{message}. `{path} --help` shows how" if error.ctx else message)
        return error.exit_code
    if isinstance(error, click.ClickException):
        _say(error.format_message())
        return error.exit_code
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        _say(f"{error.filename}: {error.strerror}. Check the path and who may use it")
        return 1
    from kexue_core.accidents import one_line, out_of_memory

    if out_of_memory(error):
        _say("memory does not suffice. Take less at once: a smaller -n, batch_size or size")
        return 1
    reason = one_line(error)
    _say(f"this is a bug in kexue or a plugin: {reason}. --debug shows the traceback to report")
    return EXIT_BUG


def _say(text: str) -> None:
    print(f"kexue: {' '.join(text.split())}", file=sys.stderr)


def _stdout_is_closed() -> bool:
    """Flush stdout; if its reader has gone, let the interpreter's own last flush go nowhere."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
