"""`cmf import` and `cmf export`: records from what other tools recorded, and artifacts as they keep them."""

from __future__ import annotations

from pathlib import Path

import click

from cmf.cli import completion, opening
from cmf.cli.ask import JSON
from cmf.cli.fetch import shown
from cmf.cli.progress import counting

FOLDER = click.Path(path_type=Path)


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
@click.option("--data", is_flag=True, help="Copy the bytes that are in DVC's cache or remotes, too.")
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
    click.echo(
        f"  {render.count(done.found, 'file')} used whose bytes are here, {done.aliased} known by DVC's hash alone"
    )
    if done.unnamed:
        click.echo(f"  {done.unnamed} uses of files that DVC gives no hash are left out")
    for problem in done.problems:
        click.echo(f"  cannot be read: {problem}")
    click.echo(f"Next: cmf log --scope '{done.pipeline}/*'")


@click.group()
def export() -> None:
    """Write artifacts as other tools keep them. Nothing that is there already is changed."""


@export.command("dvc")
@click.argument("names", nargs=-1, required=True, metavar="PATH|ARTIFACT...", shell_complete=completion.names)
@click.option(
    "--to",
    type=FOLDER,
    metavar="FOLDER",
    help="Write the pointer files there; beside each PATH if left out, else here.",
)
@click.option(
    "--cache", type=FOLDER, metavar="FOLDER", help="Put the bytes into this cache; the repository's if left out."
)
@click.option(
    "--remote", default="", metavar="URL", help="Put the bytes to this remote instead: a folder, s3://, gs:// or az://."
)
@JSON
def export_dvc(names: tuple[str, ...], *, to: Path | None, cache: Path | None, remote: str, as_json: bool) -> None:
    """Write pointer files for DVC, and the bytes into its cache or a remote, in the layout of DVC 3.

    A PATH is what lies there now; an ARTIFACT is named as for 'cmf get', and fetched if it is not here. Then 'dvc pull'
    or 'dvc checkout' has the same bytes, in every clone.

    \b
      cmf export dvc model.bin images
      cmf export dvc detector@best --to models --remote s3://bucket/dvc
    """
    from cmf.cli import render

    with opening.here() as here, counting("Exporting") as progress:
        done = here.export_dvc(*names, to=to, cache=cache, remote=remote, progress=progress)
    if as_json:
        render.to_json(done)
        return
    for each in done:
        what = "Wrote" if each.changed else "Unchanged:"
        sent = render.count(each.sent, "file") + " sent" if each.sent else "all bytes were there already"
        click.echo(f"{what} {click.format_filename(shown(Path(each.pointer)))} ({render.size(each.size)}; {sent})")
        if each.executables:
            click.echo(f"  DVC keeps no executable bit in folders: {render.count(each.executables, 'file')} lose it")
    click.echo("Next: dvc pull, where that remote is DVC's" if remote else "Next: dvc checkout")
