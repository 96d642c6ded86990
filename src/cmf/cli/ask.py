"""`cmf log`, `show`, `lineage`, `status`: questions to the store here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cmf.cli import completion
from cmf.errors import CmfError, NotFoundError, UsageError
from cmf.graph import views
from cmf.graph.index import Direction
from cmf.model import alias

if TYPE_CHECKING:
    from cmf.repo import Repo

JSON = click.option("--json", "as_json", is_flag=True, help="Write the answer as JSON.")
REMOTE = click.option(
    "--remote",
    default="",
    metavar="NAME",
    shell_complete=completion.remotes,
    help="Ask this hub instead of the store here.",
)
SCOPES = click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="GLOB",
    shell_complete=completion.scopes,
    help="Only these scopes, such as 'detector/*'.",
)


@click.command()
@click.argument("filter", default="", metavar="[FILTER]")
@click.option("-n", "--limit", default=20, show_default=True, help="How many executions at most.")
@SCOPES
@click.option("--cursor", default="", help="Go on where the page before ended (its last line names it).")
@REMOTE
@JSON
def log(filter: str, limit: int, scopes: tuple[str, ...], cursor: str, remote: str, as_json: bool) -> None:
    """List executions, newest first.

    FILTER is comparisons joined by 'and', over the fields id, name, scope, pipeline, stage, status, site, author,
    parent, started, duration, and over params.NAME and metrics.NAME:

    \b
      cmf log 'metrics.f1 > 0.9 and params.lr < 1e-3 and stage = "train"'
      cmf log 'status = failed and started > 2026-11-01'
      cmf log 'parent = my-sweep'
    """
    from cmf import repo
    from cmf.cli import render

    with repo.open_repo() as here:
        page = here.page(filter, scopes=scopes, limit=limit, cursor=cursor, remote=remote)
    if as_json:
        render.to_json({"executions": [brief(view) for view in page.executions], "cursor": page.cursor})
        return
    out = render.console()
    if page.executions:
        out.print(render.executions(page.executions))
    else:
        out.print("No execution matches." if filter or scopes else "Nothing is recorded here yet.", style="dim")
    if page.cursor:
        why = "more" if page.complete else "the search was cut short"
        out.print(f"({why}: --cursor {page.cursor})", style="dim")


@click.command()
@click.argument("name", shell_complete=completion.names)
@click.option("--history", is_flag=True, help="Every value that each property ever had, newest first.")
@click.option("--diff", is_flag=True, help="The uncommitted changes that the code ran with.")
@click.option("--output", is_flag=True, help="What its command wrote to standard output and error.")
@click.option("--cells", is_flag=True, help="The cells of the notebook that were executed.")
@click.option("--series", metavar="METRIC", default="", help="A chart of one step metric; with --json, its points.")
@click.option("--rank", type=click.IntRange(min=0), help="With --series: of this rank, not of the lowest.")
@click.option("--merge", is_flag=True, help="With --series: of all ranks, by time.")
@click.option("--points", type=click.IntRange(min=4), default=2000, help="How many points --json gives at most [2000].")
@click.option(
    "--remote",
    default="",
    metavar="NAME",
    shell_complete=completion.remotes,
    help="With --series: as this hub holds it.",
)
@JSON
def show(
    name: str,
    *,
    history: bool,
    diff: bool,
    output: bool,
    cells: bool,
    series: str,
    rank: int | None,
    merge: bool,
    points: int,
    remote: str,
    as_json: bool,
) -> None:
    """Show one execution or artifact: what it is, who made it, from what code, data and parameters.

    NAME is an id or its first digits, an artifact's name, NAME@LABEL, PIPELINE:NAME, a path or a digest.
    """
    from cmf import repo
    from cmf.cli import render, showing, space

    if not series and (remote or merge or rank is not None):
        raise UsageError("--rank, --merge and --remote say of which series: give --series METRIC.")
    with repo.open_repo() as here:
        if series:
            found = here.series(name, series, points=points, rank=rank, merge=merge, remote=remote)
            render.to_json(showing.columns(found)) if as_json else showing.chart(series, found)
            return
        target = here.resolve(name)
        if history:
            writes = here.history(name)
            render.to_json(writes) if as_json else showing.history(writes)
        elif diff:
            view = here.execution(name)
            digest = view.code.get("diff")
            if not isinstance(digest, dict):
                raise NotFoundError(f"{view.name or name} ran with no uncommitted changes, or they were not kept.")
            showing.patch(here.read(digest["$object"]))
        elif output or cells:
            view = here.execution(name)
            kept = view.terminal.get("cells" if cells else "object")
            if not isinstance(kept, dict):
                what = "executed in a notebook" if cells else "wrote to a terminal"
                raise NotFoundError(f"Nothing that {view.name or name} {what} was kept.")
            showing.raw(here.read(kept["$object"]))
        elif target.node.startswith("artifact:"):
            artifact = here.artifact(target.node.removeprefix("artifact:"))
            maker = here.execution(target.execution) if target.execution else None
            places = here.space.whereabouts(artifact.digest)
            if as_json:
                execution = brief(maker) if maker else None
                render.to_json({"artifact": artifact, "execution": execution, "whereabouts": places})
            else:
                showing.artifact(artifact, maker, _alias(here, artifact) or space.places(places))
        else:
            view = here.execution(name)
            names = here.series_names(view)
            parts = f'parent = "{view.id}" and pipeline = "{view.pipeline}"'  # whoever else says so only claims it
            children, ranks = here.page(parts, limit=showing.CHILDREN_MAX), here.ranks(view)
            if as_json:
                nodes = [child.node for child in children.executions]
                render.to_json({**brief(view), "series": names, "children": nodes, "ranks": ranks})
            else:
                showing.execution(view, names, _machine(here, view), _parent(here, view))
                showing.ranks(ranks)
                showing.children(children)


def _alias(here: Repo, found: views.Artifact) -> str:
    """Return what an alias says of bytes that are not known here; "" for every other artifact."""
    if not any(use.attributes.get(alias.ATTRIBUTE) for use in found.uses):
        return ""
    try:
        return f"not known here: an alias of {alias.decode(here.read(found.digest))}"
    except NotFoundError:
        return "not known here: an alias"


@click.command()
@click.argument("first", shell_complete=completion.names)
@click.argument("second", shell_complete=completion.names)
@JSON
def diff(first: str, second: str, as_json: bool) -> None:
    """Show what two executions differ in: code, parameters, metrics, environment, machine, inputs and outputs.

    FIRST and SECOND are named as for 'cmf show'. Of the code, the commits are compared, and line by line the
    uncommitted changes that each ran with; 'git diff' tells what lies between two commits. If both name folders, such
    as 'images@v1' or a digest 'tree:sha256:…', the files that differ are listed.
    """
    from cmf import repo
    from cmf.cli import render, showing

    with repo.open_repo() as here:
        if all(here.resolve(each).node.startswith("artifact:tree:") for each in (first, second)):
            changes = here.diff_folders(first, second)
            render.to_json(changes) if as_json else showing.changes(changes)
            return
        found = here.diff(first, second)
    render.to_json(found) if as_json else showing.difference(found)


@click.command()
@click.argument("name", shell_complete=completion.names)
@click.option("--down", is_flag=True, help="What came of it, instead of where it came from.")
@click.option("--all-producers", is_flag=True, help="Follow possible and claimed producers of the same bytes too.")
@click.option("--depth", type=click.IntRange(min=1), default=None, help="How many executions deep at most.")
@REMOTE
@JSON
def lineage(name: str, down: bool, all_producers: bool, depth: int | None, remote: str, as_json: bool) -> None:
    """Show where something came from: a tree of executions and the artifacts that passed between them.

    NAME is an execution or an artifact, as for 'cmf show'. Steps marked [same bytes] were joined by content, across
    sites that never met. [possibly] marks bytes that several executions of the pipeline made, [claimed] those that
    others say they made: neither is followed unless asked.
    """
    from cmf import repo
    from cmf.cli import render

    with repo.open_repo() as here:
        way: Direction = "down" if down else "up"
        found = here.lineage(name, direction=way, all_producers=all_producers, depth_max=depth, remote=remote)
    if as_json:
        render.to_json(
            {
                "target": found.target,
                "roots": found.roots,
                "executions": {node: brief(view) for node, view in found.executions.items()},
                "artifacts": found.artifacts,
                "steps": found.steps,
                "truncated": found.truncated,
            }
        )
        return
    out = render.console()
    for part in render.lineage(found):
        out.print(part)


@click.command()
@JSON
def status(as_json: bool) -> None:
    """Show this store: its site, what it holds, what is running, what waits to be pushed, what went wrong."""
    from cmf import repo
    from cmf.cli import render, showing

    with repo.open_repo() as here:
        found = here.status()
    render.to_json(found) if as_json else showing.status(found)


def _parent(here: Repo, view: views.Execution) -> views.Execution | None:
    """Return what an execution is a part of, if that is known here."""
    try:
        return here.execution(view.parent) if view.parent else None
    except NotFoundError:
        return None


def _machine(here: Repo, view: views.Execution) -> dict[str, Any]:
    """Return what is known of the machine that an execution ran on."""
    import json

    named = view.process.get("machine")
    try:
        found = json.loads(here.read(named["$object"])) if isinstance(named, dict) else {}
    except (CmfError, KeyError, TypeError, ValueError):  # not pulled yet, or of another form
        return {}
    return found if isinstance(found, dict) else {}


def brief(view: views.Execution) -> dict[str, Any]:
    """Return an execution for JSON, without what only `show` tells."""
    import msgspec

    value: dict[str, Any] = msgspec.to_builtins(view)
    value |= {"pipeline": view.pipeline, "stage": view.stage, "duration": view.duration, "short": view.id[24:31]}
    return value
