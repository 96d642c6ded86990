"""`cmf import`: records from what other tools recorded."""

from __future__ import annotations

from pathlib import Path

import click

from cmf.cli import opening
from cmf.cli.ask import JSON
from cmf.cli.progress import counting


@click.group()
def import_() -> None:
    """Take in what other tools recorded. Importing twice changes nothing."""


@import_.command("dvc")
@click.argument("path", default=".", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--rev", "revisions", multiple=True, metavar="RANGE", help="Only these commits, as git names them: v1..v2."
)
@click.option(
    "--pipeline", default="", metavar="NAME", help="What to call the pipeline; the folder's name if left out."
)
@click.option("--data", is_flag=True, help="Copy the bytes that are in DVC's cache, too.")
@JSON
def import_dvc(path: Path, *, revisions: tuple[str, ...], pipeline: str, data: bool, as_json: bool) -> None:
    """Make records of the history of the DVC repository in PATH: of all its branches and tags, or some commits.

    Each stage run that a commit of dvc.lock tells of becomes an execution, with its command, parameters, metrics, files
    and git commit; each version of data that 'dvc add' tracked becomes one, too. Nothing in the repository is changed.

    \b
      cmf import dvc
      cmf import dvc ../detector --rev v1..main --data
    """
    from cmf import repo
    from cmf.cli import render

    with opening.here(or_make=repo.init) as here, counting("Importing") as progress:
        done = here.import_dvc(path, revisions=revisions, pipeline=pipeline, data=data, progress=progress)
    if as_json:
        render.to_json(done)
        return
    what = f"{render.count(done.executions, 'execution')} of {render.count(done.commits, 'commit')}"
    click.echo(f"Imported {what} into {done.pipeline}: {render.count(done.records, 'new record')}.")
    click.echo(f"  {done.found} uses of files whose bytes are here, {done.aliased} known by DVC's hash alone")
    if done.unnamed:
        click.echo(f"  {done.unnamed} uses of files that DVC gives no hash are left out")
    for problem in done.problems:
        click.echo(f"  cannot be read: {problem}")
    click.echo(f"Next: cmf log --scope '{done.pipeline}/*'")
