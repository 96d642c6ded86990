"""`cmf get` and `cat`: the bytes that a name stands for."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cmf.cli import completion
from cmf.cli.progress import counting

FROM = click.option(
    "--remote",
    default="",
    metavar="NAME",
    shell_complete=completion.remotes,
    help="Ask this remote alone for what is not here; all of them if left out.",
)


@click.command()
@click.argument("artifact", metavar="ARTIFACT[/PATH]", shell_complete=completion.names)
@click.argument("target", required=False, type=click.Path(path_type=Path))
@FROM
def get(artifact: str, target: Path | None, remote: str) -> None:
    """Write an artifact, or some files of a folder, to TARGET; to its own name here, if that is left out.

    What is not in the store here is fetched from a remote that holds it. Nothing is ever overwritten: if other content
    is at the target, the command says so and ends.

    \b
      cmf get detector@best
      cmf get 'images/val/*.png' val
      cmf get tree:sha256:1f2e3d labels
    """
    from cmf import repo

    with repo.open_repo() as here, counting("Fetching") as progress:
        placed = here.get(artifact, target, remote=remote, progress=progress)
    click.echo(f"{artifact} is in {click.format_filename(shown(placed))}")


@click.command()
@click.argument("artifact", metavar="ARTIFACT[/FILE]", shell_complete=completion.names)
@FROM
def cat(artifact: str, remote: str) -> None:
    """Write the bytes of an artifact, or of one file of a folder, to standard output.

    \b
      cmf cat labels.csv | head
      cmf cat images/labels/train.csv
    """
    from cmf import repo

    with repo.open_repo() as here:
        here.cat(artifact, sys.stdout.buffer, remote=remote)
    sys.stdout.buffer.flush()


def shown(path: Path) -> Path:
    """Return a path as short as it can be said here."""
    absolute = path.absolute()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute
