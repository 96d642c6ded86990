"""`cmf hub`: the shared hub, and who may join it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import click

from cmf.cli import access
from cmf.cli.peer import peer
from cmf.cli.progress import counting
from cmf.cli.quota import quota
from cmf.errors import CorruptError, UnsupportedError, UsageError

FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("cmf-hub"),
    show_default=True,
    help="Where the hub keeps its database and objects.",
)

DATABASE = click.option(
    "--database",
    default="",
    envvar="CMF_HUB_DATABASE",
    metavar="URL",
    help="Keep the store in PostgreSQL (postgresql://USER@HOST/NAME) and not in the folder. A password belongs into "
    "PGPASSWORD or ~/.pgpass, where no other user of the machine reads it.",
)


@click.group()
def hub() -> None:
    """Run a shared hub, and say who may do what there."""


for _command in (*access.COMMANDS, quota, peer):
    hub.add_command(_command)


@hub.command()
@FOLDER
@DATABASE
@click.option(
    "--objects",
    default="",
    envvar="CMF_HUB_OBJECTS",
    metavar="URL",
    help="Keep objects in a bucket of the hub's own (s3://BUCKET/PREFIX) and not in the folder. Credentials come from "
    "the environment.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8899, show_default=True, help="0 takes a free one.")
@click.option("--tls-cert", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A certificate (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Its key (PEM).")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front of this hub does TLS.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without TLS: tokens can be overheard.")
@click.option("--log", is_flag=True, help="Write one line of JSON for each request to standard error.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="How many processes serve: more than one takes --database.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=500,
    show_default=True,
    help="How many requests a second each process takes of one principal, ten seconds' at once; 0: any number.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long a client may keep the hub waiting inside a request, or not read its answer, before it is cut off.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=0),
    default=2000,
    show_default=True,
    help="How many connections to each process one address may have; 0: any number. Behind a proxy none are counted.",
)
def serve(
    *,
    folder: Path,
    database: str,
    objects: str,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    insecure: bool,
    log: bool,
    workers: int,
    rate: float,
    patience: float,
    connections: int,
) -> None:
    """Serve a hub until it is stopped with ctrl-C.

    On this machine your own commands find its token by themselves: 'cmf remote add origin URL' and 'cmf push' are all
    it takes.
    """
    from cmf import config

    if (tls_cert is None) != (tls_key is None):
        raise UsageError("TLS takes both --tls-cert and --tls-key.")
    serving = _serving()
    environment = config.environment()
    serving.serve(
        folder,
        database=database,
        objects=objects,
        endpoint=environment.endpoint,
        cloud_secret=environment.cloud_secret,
        host=host,
        port=port,
        state_home=environment.state_home,
        tls_cert=tls_cert,
        tls_key=tls_key,
        behind_proxy=behind_proxy,
        insecure=insecure,
        log=log,
        workers=workers,
        rate=rate,
        patience_s=patience,
        of_address_max=connections,
        ready=lambda url: click.echo(
            f"Hub ready at {url}\n  data in {folder.absolute()}\n  next: cmf remote add origin {url}"
        ),
    )
    click.echo("Hub stopped.")


@hub.command()
@FOLDER
@DATABASE
@access.AT
@access.SCOPE
@click.option(
    "--role", type=access.ROLE, default="write", show_default=True, help="What may be done there; each includes read."
)
@click.option(
    "--hours", type=click.FloatRange(min=0.01), default=72.0, show_default=True, help="How long it is good for."
)
@click.argument("name")
def invite(*, folder: Path, database: str, at: str, scope: str, role: str, hours: float, name: str) -> None:
    """Print a one-time code with which somebody, called NAME, can join the hub.

    On the hub's machine it is written into the hub's database. With --hub, a hub elsewhere is asked for it, by its
    admin or that of the scope.
    """
    expires_s = int(hours * 3600)
    if at:
        from cmf.model.wire import Role

        with access.access(at) as there:
            code = there.invite(name, Role(scope, role), expires_s=expires_s).secret
    else:
        code = _serving().invite(folder, database=database, scope=scope, role=role, expires_s=expires_s, name=name)
    click.echo(code)
    click.echo(f"Give it to {name}: cmf remote add origin URL --invite {code}", err=True)


@hub.command()
@FOLDER
@click.option("--to", default="", metavar="URL", help="An empty database in PostgreSQL (postgresql://USER@HOST/NAME).")
@click.option("--objects", default="", metavar="URL", help="A bucket for the objects (s3://BUCKET/PREFIX).")
@click.option("--back", is_flag=True, help="Bring the objects from the bucket into the folder.")
@click.option("--dry-run", "dry", is_flag=True, help="Say how many objects would be copied, and copy nothing.")
def migrate(*, folder: Path, to: str, objects: str, back: bool, dry: bool) -> None:
    """Move a hub's database from its folder into PostgreSQL, or its objects into a bucket, or both.

    Stop the hub first: what it takes in later stays behind. The folder keeps the hub's key, and its objects and the old
    database as they were. Objects are verified on the way; what is in the bucket already is not copied again, so run
    the command once more if it was cut.
    """
    if not (to or objects) or ((dry or back) and (to or not objects)):
        raise UsageError(
            "Say where to: --to for the database, --objects for the objects.",
            hint="--back and --dry-run are for objects alone.",
        )
    if objects:
        _carry(folder, objects, back=back, dry=dry)
    if to:
        _move(folder, to)


def _carry(folder: Path, url: str, *, back: bool, dry: bool) -> None:
    from cmf import config
    from cmf.cli import render

    endpoint = config.environment().endpoint
    with counting("Copying") as progress:
        done = _serving().carry(folder, url, endpoint=endpoint, back=back, dry=dry, progress=progress)
    click.echo(
        f"{'Would copy' if dry else 'Copied'} {render.count(done.objects, 'object')} "
        f"({render.size(done.object_bytes)}); there already: {done.held}."
    )
    if done.damaged:
        raise CorruptError(
            f"{render.count(len(done.damaged), 'object')} stayed behind, damaged: {', '.join(done.damaged[:10])}.",
            hint="A site that has them sends them again: cmf verify --remote NAME --repair.",
            kind="object",
        )
    if not dry:
        click.echo(f"Next: cmf hub serve --folder {folder}{'' if back else f' --objects {url}'}")


def _move(folder: Path, to: str) -> None:
    from cmf.cli import render
    from cmf.worktree.uri import bare

    serving = _serving()
    with counting("Moving") as progress:
        counts = serving.move(folder, to, progress=progress)
    click.echo(f"Moved {render.count(counts['segment'], 'segment')} and {render.count(counts['hub_token'], 'token')}.")
    click.echo(f"Next: cmf hub serve --folder {folder} --database {bare(to)}")


@hub.command()
@FOLDER
@DATABASE
def rebuild(folder: Path, database: str) -> None:
    """Compute anew all that a hub's database derives from its records.

    Nothing is lost by it, and the hub may run meanwhile: questions are answered from what was there until the new is
    whole, pushes wait.
    """
    from cmf.cli import render

    click.echo(f"Folded {render.count(_serving().rebuild(folder, database=database), 'record')}.")


def _serving() -> ModuleType:
    try:
        import cmf.hub.serve as serving
    except ImportError as error:
        raise UnsupportedError(
            f"The hub needs a part that is not installed: {error.name}.",
            hint="pip install 'common-metadata-framework[hub]'",
            kind="extra",
        ) from error
    return serving
