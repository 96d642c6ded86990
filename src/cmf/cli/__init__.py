"""The local face: parse the command line, call one method, render the answer.

Commands are imported when they are called, so that `cmf --version` and `--help` stay quick.
"""

from __future__ import annotations

import importlib
import keyword
import os
import subprocess
import sys
from typing import Any, NoReturn

import click

from cmf.cli import paging
from cmf.errors import CmfError, exit_code

COMMANDS = {
    "init": ("cmf.cli.record", "make a store here, or name its site"),
    "run": ("cmf.cli.record", "run a command and record it: no code change"),
    "log": ("cmf.cli.ask", "executions, newest first"),
    "show": ("cmf.cli.ask", "one execution or artifact in full"),
    "diff": ("cmf.cli.ask", "what two executions differ in"),
    "lineage": ("cmf.cli.ask", "where something came from, or what came of it"),
    "status": ("cmf.cli.ask", "this store: what is running, waiting, or could not be recorded"),
    "remote": ("cmf.cli.share", "the hubs that this store knows"),
    "push": ("cmf.cli.share", "send this site's records to a hub"),
    "pull": ("cmf.cli.share", "bring others' records from a hub"),
    "sync": ("cmf.cli.share", "pull, then push; --watch goes on"),
    "clone": ("cmf.cli.share", "a store of your own from a hub"),
    "add": ("cmf.cli.beside", "keep data, and a pointer file for git beside it"),
    "checkout": ("cmf.cli.beside", "make the data be what the pointer files say"),
    "get": ("cmf.cli.fetch", "an artifact's bytes, written to a path"),
    "cat": ("cmf.cli.fetch", "an artifact's bytes, written to standard output"),
    "bundle": ("cmf.cli.share", "records and data in a file, for sites without a network"),
    "import": ("cmf.cli.bridge", "the history of a DVC repository, as records"),
    "export": ("cmf.cli.bridge", "artifacts as another tool's files: DVC's"),
    "du": ("cmf.cli.space", "what takes space here, and for whom"),
    "gc": ("cmf.cli.space", "free what nothing refers to, or what remotes hold"),
    "verify": ("cmf.cli.verifying", "check every hash and signature that is here"),
    "retract": ("cmf.cli.withdraw", "hide an execution or a record from everybody, reversibly"),
    "redact": ("cmf.cli.withdraw", "drop records' bytes for ever, here and everywhere"),
    "event": ("cmf.cli.tell", "say from inside a run: a file was used or made"),
    "metric": ("cmf.cli.tell", "say from inside a run: numbers"),
    "param": ("cmf.cli.tell", "say from inside a run: parameters"),
    "key": ("cmf.cli.key", "the key that signs your records: show it, or make another"),
    "doctor": ("cmf.cli.health", "what is wrong here, and how to mend it"),
    "completion": ("cmf.cli.completion", "make your shell complete commands and names"),
    "hub": ("cmf.cli.hub", "the shared hub: serve, invite"),
    "demo": ("cmf.cli.record", "two sites, one hub, one true story, in under a minute"),
}


class _Commands(click.Group):
    """Subcommands that are imported when they are needed; the listing needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean 'cmf {near[0]}'?" if near else "'cmf --help' lists the commands."
            raise click.UsageError(f"There is no command '{args[0]}'. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from cmf import __version__

        click.echo(f"cmf {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("--debug", is_flag=True, help="Show where in the code an error came from.")
def cli(debug: bool) -> None:
    """Git for the story of data and models.

    Record what your pipelines do (code, data, parameters, metrics), merge it with other sites, and ask where anything
    came from. No server, account or set-up is needed to begin:

    \b
      cmf run -- python train.py      record a command
      cmf log                         see what was recorded
      cmf lineage model.bin           see where a file came from
      cmf demo                        watch the whole story, two sites and a hub
    """


def main() -> NoReturn:
    """Run the command line, and end the process with the right exit code."""
    debug = "--debug" in sys.argv[1:3]
    code = 1
    # What we start shares our terminal. Ctrl-Z that stops it between vfork and exec would leave us waiting where no
    # signal stops us, and the shell waiting for us; after a fork both stop. This is Python's documented switch.
    subprocess._USE_VFORK = False  # type: ignore[misc]  # noqa: SLF001
    try:
        with paging.paged(sys.argv):
            outcome: Any = cli.main(prog_name="cmf", standalone_mode=False)
        code = outcome if isinstance(outcome, int) else 0
    except CmfError as error:
        if debug:
            raise
        complain(error.message, error.hint)
        code = exit_code(error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.UsageError as error:
        where = f" See '{error.ctx.command_path} --help'." if error.ctx else ""
        complain(error.format_message(), where.strip())
        code = 2
    except click.Abort:
        click.echo("", err=True)
        code = 130
    except click.ClickException as error:
        complain(error.format_message(), "")
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        if debug:
            raise
        complain(f"{error.filename or 'The system'}: {error.strerror or error}.", "Nothing recorded is lost.")
        code = 7
    sys.exit(code)


def complain(message: str, hint: str) -> None:
    """Say on standard error what went wrong, and what to try."""
    click.echo(f"{click.style('cmf:', fg='red', bold=True)} {message}", err=True)
    if hint:
        click.echo(f"     {hint}", err=True)
