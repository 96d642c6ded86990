"""`cmf add` and `checkout`: data that follows the code in git."""

from __future__ import annotations

from pathlib import Path

import click

from cmf.cli.ask import JSON
from cmf.cli.fetch import FROM
from cmf.cli.progress import counting
from cmf.errors import ConflictError, NotFoundError

PATHS = click.Path(path_type=Path)
NAMED_MAX = 20
"""So many changed files are named; of more only how many."""


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PATHS, metavar="PATH...")
@click.option("--ignore", is_flag=True, help="Also write the line into the .gitignore beside the data.")
@JSON
def add(paths: tuple[Path, ...], ignore: bool, as_json: bool) -> None:
    """Keep files and folders here, and write for each a small pointer file, PATH.cmf, for git to keep.

    Git itself is never changed: commit the pointer file yourself. Whoever checks that commit out, and has a remote that
    holds the bytes, gets the data with 'cmf checkout'.
    """
    from cmf import repo
    from cmf.cli import render

    try:
        here = repo.open_repo()
    except NotFoundError as error:
        if error.kind != "no-store":
            raise
        here = repo.init()
    with here:
        added = here.add(*paths, ignore=ignore)
    if as_json:
        render.to_json(added)
        return
    for found in added:
        what = "Added" if found.changed else "Unchanged:"
        click.echo(f"{what} {found.path} ({render.size(found.size)}) as {found.pointer}")
        if found.tracked:
            click.echo(f"  git keeps {found.path} itself, too. To end that: git rm -r --cached {found.path}")
        if found.to_ignore and not ignore:
            click.echo(f"  For the .gitignore beside it: {found.to_ignore}   (--ignore writes it)")


@click.command()
@click.argument("paths", nargs=-1, type=PATHS, metavar="[PATH]...")
@click.option("--force", is_flag=True, help="Replace data even if it was changed and is kept nowhere: that is lost.")
@click.option("--quiet", is_flag=True, help="Say only what went wrong.")
@click.option(
    "--install-hook", is_flag=True, help="Instead: let git do this whenever it checks out or merges. Replaces no hook."
)
@FROM
def checkout(paths: tuple[Path, ...], *, force: bool, quiet: bool, install_hook: bool, remote: str) -> None:
    """Make data be what its pointer files say: of all pointer files in the project, or of these paths.

    Bytes that are not here are fetched from a remote that holds them. Data that was changed, and whose bytes are kept
    nowhere, stays as it is and is named: 'cmf add' keeps it, --force gives it up.
    """
    from cmf import beside, repo
    from cmf.cli import render

    if install_hook:
        with repo.open_repo() as here:
            for place in beside.install_hooks(here.root):
                click.echo(f"Wrote {place}")
        return
    with repo.open_repo() as here, counting("Checking out") as progress:
        done = here.checkout(*paths, force=force, remote=remote, progress=progress)
    if not quiet:
        for path in done.written:
            click.echo(f"Restored {path}")
        if not done.written and not done.failed and not done.unsaved:
            counted = render.count(len(done.same), "pointer file")
            click.echo(f"All is as {counted} say." if done.same else "There is no pointer file here.")
    for path, why in done.failed.items():
        click.echo(f"{path}: {why.message}", err=True)
    for path in done.unsaved[:NAMED_MAX]:
        click.echo(f"{path}: changed, and kept nowhere", err=True)
    if len(done.unsaved) > NAMED_MAX:
        click.echo(f"and {len(done.unsaved) - NAMED_MAX} more", err=True)
    if done.unsaved:
        left = render.count(len(done.unsaved), "path")
        raise ConflictError(
            f"{left} not restored: what was changed there would be lost.",
            hint="Keep it with 'cmf add', or give it up with 'cmf checkout --force PATH'.",
        )
    for first in done.failed.values():
        message = f"{render.count(len(done.failed), 'path')} could not be restored; see above."
        raise type(first)(message, hint=first.hint, kind=first.kind)
