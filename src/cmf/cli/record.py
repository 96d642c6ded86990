"""`cmf init`, `run` and `demo`: what makes records."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from cmf.errors import UsageError


@click.command()
@click.argument("folder", default=None, required=False, type=click.Path(path_type=Path))
@click.option("--site", default="", metavar="NAME", help="What this site is called; the host's name if left out.")
def init(folder: Path | None, site: str) -> None:
    """Make a store here (or in FOLDER), or name the site of the one that is here.

    This is optional: a store appears by itself the first time something is recorded.
    """
    from cmf import repo

    with repo.init(folder, site=site) as here:
        click.echo(f"Store of site {here.site} in {here.folder}")
        click.echo("Next: cmf run -- python train.py")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--scope", default="", metavar="PIPELINE/STAGE", help="Where it belongs; made from folder and command if left out."
)
@click.option("--name", default="", help="What to call the run; two words are made up if left out.")
@click.option("--param", "params", multiple=True, metavar="K=V", help="A parameter to record; may be given often.")
@click.option(
    "--trace",
    "way",
    type=click.Choice(("auto", "strace", "python", "off")),
    default="auto",
    show_default=True,
    help="How files are found: 'auto' takes strace if it is there, else 'python' sees what Python programs read.",
)
@click.option("--output/--no-output", default=True, help="Keep what the command writes to the terminal, too.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD [ARG]...")
def run(scope: str, name: str, params: tuple[str, ...], way: str, output: bool, command: tuple[str, ...]) -> int:
    """Run a command and record it: command line, code, environment, exit code, and the files it read and wrote.

    The command's own exit code is passed on; it is 127 if there is no such command, 126 if it cannot be run.
    """
    from cmf import command as commands

    values = dict(_parameter(text) for text in params)
    program = shutil.which(command[0]) or ""
    done = commands.run(list(command), program=program, scope=scope, name=name, params=values, way=way, output=output)
    for problem in done.problems:
        click.echo(f"cmf: {problem}", err=True)
    short = done.run.id[24:31]
    files = f"{len(done.inputs)} read, {len(done.outputs)} written"
    if done.declared:
        files += f", and {done.declared} declared by the program"
    if done.way == "python":
        files += " (without strace: reads of Python programs only)"
    elif done.way == "off":
        files = "files not looked for"
    click.echo(f"cmf: recorded {done.run.scope} {done.run.name} · {files} · cmf show {short}", err=True)
    return done.code


def _parameter(text: str) -> tuple[str, Any]:
    import json

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"'{text}' is not a parameter.", hint="Write NAME=VALUE, such as --param lr=0.1.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """Run a real pipeline at two sites with one hub between them, and check every claim on the way.

    Leaves nothing behind, unless --keep [FOLDER] is given.
    """
    return subprocess.run([sys.executable, "-m", "cmf.demo", *arguments], check=False).returncode
