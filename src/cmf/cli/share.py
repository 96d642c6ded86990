"""`cmf remote`, `push`, `pull`, `sync`, `clone` and `bundle`: exchange with hubs and places for data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmf.cli import completion
from cmf.cli.ask import JSON, SCOPES
from cmf.cli.choosing import SITES, choosing
from cmf.cli.opening import here as _here
from cmf.cli.progress import counting
from cmf.errors import UsageError

if TYPE_CHECKING:
    from cmf.graph.index import Direction
    from cmf.model.exchange import View
    from cmf.moving import Moved
    from cmf.repo import Repo


DRY_RUN = click.option("--dry-run", is_flag=True, help="Say which records would move, and move nothing.")


@click.group()
def remote() -> None:
    """Name the hubs that this store pushes to and pulls from."""


@remote.command("add")
@click.argument("name")
@click.argument("url")
@click.option("--invite", default="", metavar="CODE", help="The one-time code that 'cmf hub invite' printed.")
@click.option("--token", is_flag=True, help="Ask for a token that 'cmf hub token add' printed, and speak with it.")
def remote_add(name: str, url: str, invite: str, *, token: bool) -> None:
    """Add a hub by its URL, such as http://127.0.0.1:8899, and join it if a code is given.

    A hub on this machine that you started yourself needs no code. A folder, by its path or as ssh://HOST/PATH, or a
    bucket (s3://NAME/PREFIX) is a remote that holds only data: 'cmf push NAME' copies it there.
    """
    from cmf.remote.data import TESTED

    with _here() as here:
        _join(here, name, url, invite)
        if token:
            here.remotes.hub(name).keep(_asked_for("Token"))
        for kind, tested in TESTED.items():
            if url.startswith(kind):
                click.echo(f"{kind} is offered, but {tested}: keep another copy.", err=True)
        click.echo(f"Remote {name} is {url}. Next: cmf push {name}")


def _asked_for(what: str) -> str:
    """Return a secret: typed unseen on a terminal, else the next line of standard input."""
    import sys

    typed = click.prompt(what, hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    secret = str(typed).strip()
    if not (secret and secret.isascii() and secret.isprintable()):
        raise UsageError("That is no token.", hint="'cmf hub token add' prints one.")
    return secret


def _join(here: Repo, name: str, url: str, invite: str) -> None:
    """Name a remote, and present the invite if there is one; nothing is named if that fails."""
    from cmf import collect
    from cmf.remote.data import check, is_data

    if "://" not in url:
        if "/" not in url and not os.path.isdir(url):
            raise UsageError(
                f"'{url}' is neither a URL nor a folder that is here.",
                hint=f"A hub is https://{url}; a folder that the first push makes is ./{url}.",
            )
        url = os.path.abspath(os.path.expanduser(url))
        if not os.path.isdir(os.path.dirname(url)):
            raise UsageError(f"There is no folder {os.path.dirname(url)}.", hint="Make it, or mount its disk.")
    check(url)
    if is_data(url) and invite:
        raise UsageError(f"{url} takes no invite: whoever may read it may read all that it holds.")
    if not is_data(url) and not url.startswith(("http://", "https://")):
        raise UsageError(
            f"'{url}' is no remote that cmf can use.",
            hint="A hub starts with http:// or https://; data may be in a folder, or at ssh://, s3://, gs:// or az://.",
        )
    previous = here.remotes.named.get(name)
    here.remotes.set(name, url)
    if not invite:
        return
    try:
        client = here.remotes.hub(name)
        client.enrol(invite, collect.writer_key(here.folder, os.getuid()), here.site)
    except BaseException:  # ctrl-C too: a remote that did not let us in is not kept
        if previous is None:
            here.remotes.remove(name)
        else:
            here.remotes.set(name, previous)
        raise
    click.echo(f"Joined {url} as {here.site}.")


@remote.command("remove")
@click.argument("name", shell_complete=completion.remotes)
def remote_remove(name: str) -> None:
    """Forget a hub. Nothing that was pushed or pulled is touched."""
    with _here() as here:
        here.remotes.remove(name)
    click.echo(f"Remote {name} is forgotten.")


@remote.command("trust")
@click.argument("name", shell_complete=completion.remotes)
def remote_trust(name: str) -> None:
    """Accept a hub's key and log as they are now: after it was set up anew, or restored from a backup."""
    with _here() as here:
        here.remotes.trust(name)
    click.echo(f"What is known of {name} is forgotten; the next pull believes what it sees.")


@remote.command("follow")
@click.argument("name", shell_complete=completion.remotes)
@choosing
@click.option("--all", "everything", is_flag=True, help="Everything.")
def remote_follow(name: str, *, view: View, everything: bool) -> None:
    """Say what 'cmf pull' brings from a hub when it is told nothing else; nothing moves, and what is here stays.

    \b
      cmf remote follow origin --scope 'detector/*' --site lab
      cmf remote follow origin --all
      cmf remote follow origin             # tell what is followed
    """
    from cmf import following
    from cmf.model.exchange import EVERYTHING

    if everything and view != EVERYTHING:
        raise UsageError("--all goes with no other choice.")
    with _here() as here:
        if everything or view != EVERYTHING:
            here.remotes.follow(name, [view])
        follows = here.remotes.followed(name) or (EVERYTHING,)
    for each in follows:
        click.echo(following.described(each))


@remote.command("list")
@JSON
def remote_list(as_json: bool) -> None:
    """List the hubs that this store knows, and what it follows of each if that isn't everything."""
    from cmf import following
    from cmf.cli import render
    from cmf.model.exchange import EVERYTHING

    with _here() as here:
        remotes = here.remotes.named
        follows = {name: here.remotes.followed(name) for name in remotes}
    if as_json:
        render.to_json(remotes)
        return
    for name, url in remotes.items():
        parts = [following.described(view) for view in follows[name] if view != EVERYTHING]
        click.echo("\t".join([name, url, *parts]))
    if not remotes:
        click.echo("No remote yet. Add one: cmf remote add origin URL")


@click.command()
@click.argument("remote", default="", shell_complete=completion.remotes)
@click.option("--data", is_flag=True, help="Send the bytes of every artifact, not only those up to 1 MiB.")
@click.option("--relay", is_flag=True, help="Send what other sites signed as well; takes the role 'relay' at the hub.")
@DRY_RUN
@JSON
def push(remote: str, data: bool, relay: bool, dry_run: bool, as_json: bool) -> None:
    """Send this site's records to a hub, and the objects that go with them.

    Only what the hub lacks moves; a push that was cut goes on where it was when run again.
    """
    from cmf import sync

    with _here() as here, counting("Pushing") as progress:
        moved = here.push(remote, data=data, relay=relay, dry=dry_run, progress=progress)
    _report("Would push" if dry_run else "Pushed", moved, as_json)
    sync.check(moved, "hub")


@click.command()
@click.argument("remote", default="", shell_complete=completion.remotes)
@choosing
@click.option("--all", "everything", is_flag=True, help="Everything, and follow everything from now on.")
@click.option(
    "--ancestors",
    default="",
    metavar="NAME",
    shell_complete=completion.names,
    help="Only this execution or artifact and all it came from.",
)
@click.option(
    "--descendants",
    default="",
    metavar="NAME",
    shell_complete=completion.names,
    help="Only this execution or artifact and all that came from it.",
)
@click.option(
    "--only",
    default="",
    metavar="NAME",
    shell_complete=completion.names,
    help="Only this execution, or the one that made this artifact.",
)
@click.option("--promised", is_flag=True, help="Only what is named here and is not here, from all hubs.")
@click.option("--data", is_flag=True, help="Fetch the bytes of what is pulled, too.")
@click.option(
    "--artifact",
    "artifacts",
    multiple=True,
    metavar="NAME[/PATH]",
    shell_complete=completion.names,
    help="With --data: no records, only the bytes of this artifact, or of these files of a folder.",
)
@DRY_RUN
@JSON
def pull(
    remote: str,
    *,
    view: View,
    everything: bool,
    ancestors: str,
    descendants: str,
    only: str,
    promised: bool,
    data: bool,
    artifacts: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring others' records from a hub: all of them, or some.

    What was chosen is followed: 'cmf pull' without a choice brings what is new of it, and another choice adds to it.
    'cmf remote follow' limits it again. Options that choose are joined by 'and'. A TIME is a date, or a date and a time
    of day, in UTC.

    \b
      cmf pull
      cmf pull --scope 'detector/*' --site lab
      cmf pull --since 2026-11-01 --where 'metrics.f1 > 0.9'
      cmf pull --ancestors detector@best --data
      cmf pull --data --artifact 'images/val/*.png'
    """
    from cmf import following, repo, sync
    from cmf.model.exchange import EVERYTHING

    chosen = view != EVERYTHING
    root = ancestors or descendants or only
    if bool(ancestors) + bool(descendants) + bool(only) + chosen + everything > 1:
        raise UsageError("--all, --ancestors, --descendants and --only go with no other choice.", hint="Pull twice.")
    if promised and (chosen or everything or root or data or artifacts or dry_run):
        raise UsageError("--promised goes with no other option but --json.")
    if artifacts and (chosen or everything or root or dry_run or not data):
        raise UsageError("--artifact goes with --data, and with no other choice of what to pull.")
    with _here(or_make=repo.init) as here, counting("Pulling") as progress:
        if artifacts:
            moved = here.fetch(artifacts, remote=remote, progress=progress)
        elif promised:
            here.collect()
            moved = sync.pull_promised(here.store, here.remotes.hubs(remote), progress=progress)
        elif root:
            way: Direction = "down" if descendants else "up"
            depth = 0 if only else None
            moved = here.pull_lineage(
                root, way, depth_max=depth, remote=remote, data=data, dry=dry_run, progress=progress
            )
        else:
            before = here.remotes.followed(remote)
            moved = here.pull(
                remote,
                scopes=view.scopes,
                sites=view.sites,
                where=view.where,
                everything=everything,
                data=data,
                dry=dry_run,
                progress=progress,
            )
            follows = here.remotes.followed(remote)
            if chosen and follows != before and not as_json:
                said = ", and ".join(following.described(each) for each in follows)
                click.echo(f"'cmf pull' now brings {said}; 'cmf pull --all' brings everything.")
    _report("Would pull" if dry_run else "Pulled", moved, as_json)
    sync.check(moved, "store here")


@click.command()
@click.argument("remote", default="", shell_complete=completion.remotes)
@click.option("--data", is_flag=True, help="Exchange the bytes of every artifact, too.")
@click.option(
    "--watch", type=click.FloatRange(min=1), metavar="SECONDS", help="Go on until ctrl-C, once every so many seconds."
)
def sync(remote: str, data: bool, watch: float | None) -> None:
    """Pull what others recorded, then push what was recorded here.

    With --watch a hub that cannot be reached is tried again the next time: what a site with a poor line needs.
    """
    import time

    from cmf.errors import UnreachableError

    while True:
        try:
            _exchange(remote, data=data, quiet=watch is not None)
        except UnreachableError as error:
            if watch is None:
                raise
            click.echo(f"{time.strftime('%H:%M:%S')}  {error.message}", err=True)
        if watch is None:
            return
        time.sleep(watch)


def _exchange(remote: str, *, data: bool, quiet: bool) -> None:
    """Pull and push once. ``quiet``: say something only if something moved."""
    from cmf import repo, sync

    with _here(or_make=repo.init) as here, counting("Exchanging") as progress:
        pulled = here.pull(remote, data=data, progress=progress)
        pushed = here.push(remote, data=data, progress=progress)
    done = (("Pulled", pulled, "store here"), ("Pushed", pushed, "hub"))
    for what, moved, whose in done:
        if moved.segments or moved.objects or moved.warnings or moved.refused:
            _report(what, moved, as_json=False)
        sync.check(moved, whose)
    if not quiet and not any(moved.segments or moved.objects for _, moved, _ in done):
        click.echo("Nothing new.")


@click.command()
@click.argument("url")
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--invite", default="", metavar="CODE", help="The one-time code that 'cmf hub invite' printed.")
@click.option("--site", default="", metavar="NAME", help="What this site is called; the host's name if left out.")
@SCOPES
@click.option("--data", is_flag=True, help="Fetch the bytes of what is pulled, too.")
def clone(url: str, folder: Path | None, *, invite: str, site: str, scopes: tuple[str, ...], data: bool) -> None:
    """Make a store in FOLDER (here, if left out), join the hub at URL as 'origin', and pull.

    \b
      cmf clone https://hub.example.org lab --invite CODE
    """
    from cmf import repo, sync
    from cmf.errors import ConflictError

    where = (folder or Path.cwd()).absolute()
    if (where / ".cmf").exists():
        raise ConflictError(f"There is a store in {where} already.", hint=f"There: cmf remote add origin {url}")
    is_new = not where.exists()
    where.mkdir(parents=True, exist_ok=True)
    with repo.init(where, site=site) as here, counting("Cloning") as progress:
        try:
            _join(here, "origin", url, invite)
        except BaseException:  # ctrl-C too: a hub that did not let us in leaves no store behind
            shutil.rmtree(where if is_new else here.folder, ignore_errors=True)
            raise
        moved = here.pull("origin", scopes=scopes, data=data, progress=progress)
    _report("Pulled", moved, as_json=False)
    sync.check(moved, "store here")
    click.echo(f"Store of site {here.site} in {here.folder}. Next: cmf log")


@click.group()
def bundle() -> None:
    """Carry records and data in a file, to and from sites that no network reaches."""


@bundle.command("create")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@SCOPES
@SITES
@click.option(
    "--since", default="", metavar="BUNDLE", help="Leave out what the maker of this bundle, the receiver, held."
)
@click.option("--data", is_flag=True, help="Put in the bytes of every artifact, not only those up to 1 MiB.")
@JSON
def bundle_create(
    file: Path, scopes: tuple[str, ...], sites: tuple[str, ...], since: str, data: bool, as_json: bool
) -> None:
    """Write what is here into FILE: all of it, some scopes, or what the receiver lacks.

    \b
      cmf bundle create lab.bundle
      cmf bundle create more.bundle --since from-edge.bundle --data
    """
    from cmf import sync

    with _here() as here, counting("Packing") as progress:
        moved = here.pack(file, scopes=scopes, sites=sites, since=since, data=data, progress=progress)
    _report("Packed", moved, as_json)
    sync.check(moved, "bundle")
    if not as_json:
        click.echo(f"Next, where it is to go: cmf bundle apply {file.name}")


@bundle.command("apply")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@JSON
def bundle_apply(file: Path, as_json: bool) -> None:
    """Take in what FILE holds. It is checked whole before anything is taken; taking it in twice changes nothing."""
    from cmf import repo, sync

    with _here(or_make=repo.init) as here, counting("Unpacking") as progress:
        moved = here.unpack(file, progress=progress)
    _report("Took in", moved, as_json)
    sync.check(moved, "store here")


def _report(what: str, moved: Moved, as_json: bool) -> None:
    from cmf.cli import render

    if as_json:
        render.to_json(moved)
        return
    for warning in moved.warnings:
        click.echo(f"{click.style('warning', fg='yellow')}  {warning}", err=True)
    if moved.resealed:
        told = render.count(moved.resealed, "record")
        click.echo(f"The hub takes nothing more of your old key: {told} sealed again with the new one.")
    if moved.segments or moved.objects:
        records = f"{render.count(moved.records, 'record')} in {render.count(moved.segments, 'segment')}"
        objects = f"{render.count(moved.objects, 'object')} ({render.size(moved.object_bytes)})"
        both = [text for text, is_some in ((records, moved.segments), (objects, moved.objects)) if is_some]
        click.echo(f"{what} {', and '.join(both)}.")
    elif not moved.refused:
        click.echo("Nothing new.")
    if moved.scopes:
        click.echo(f"  scopes: {', '.join(moved.scopes)}")
    if moved.known:
        click.echo(f"  there already: {render.count(moved.known, 'segment')}")
    for _, start, size in moved.resumed:
        click.echo(f"  resumed at {render.size(start)} of {render.size(size)}")
    if moved.stayed:
        more = f" ({render.size(moved.stayed_bytes)}); --data takes them along" if what in ("Pushed", "Packed") else ""
        click.echo(f"  stayed behind: {render.count(moved.stayed, 'object')}{more}")
