"""Run a hub: where it listens, its token on this machine, its start and its end."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from cmf.errors import ConflictError, UsageError
from cmf.hub import access
from cmf.hub import workers as keeping
from cmf.hub.auth import Auth
from cmf.hub.migrate import Carried, Progress, migrate
from cmf.hub.migrate import carry as copied
from cmf.hub.objects import open_objects
from cmf.hub.rates import RATE, Rates
from cmf.hub.service import DATABASE, Hub, open_database
from cmf.model import wire
from cmf.remote import LocalHub
from cmf.store.sql import SqlStore
from cmf.worktree import machine

GRACE_SECONDS = 10
IDLE_SECONDS = 30
PATIENCE_SECONDS = 60.0
FILES_BESIDE = 1_000
"""Open files of a hub that are no connections, at most."""
CONNECTIONS_MAX = 4_000
"""More connections at once are told 503. Sites keep theirs open for a while, so it is not only who is being served."""
OF_ADDRESS_MAX = CONNECTIONS_MAX // 2
"""So many of them one address may have, so that none alone shuts the others out."""


def serve(
    folder: Path,
    *,
    database: str = "",
    objects: str = "",
    endpoint: str = "",
    cloud_secret: str = "",
    host: str = "127.0.0.1",
    port: int = 8899,
    state_home: Path,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    behind_proxy: bool = False,
    insecure: bool = False,
    log: bool = False,
    workers: int = 1,
    rate: float = RATE,
    patience_s: float = PATIENCE_SECONDS,
    of_address_max: int = OF_ADDRESS_MAX,
    ready: Callable[[str], None],
) -> None:
    """Serve the hub in a folder until the process is told to stop; ``ready`` gets its URL once it listens.

    Its store is a file there, or in the ``database`` of a URL. Its objects are there, or in the bucket of a URL,
    ``objects``, whose server is asked at an ``endpoint`` if it isn't the cloud's own; with the secret of the key to it
    sites' uploads go there past the hub. ``workers``: how many processes
    serve it, which takes a database that several can write at once: `UsageError`. ``rate``: how many requests a second
    each of them takes of one principal; 0 is any number. A client that owes the rest of a request, or to read its
    answer, for ``patience_s`` seconds is cut off. ``of_address_max``: how many connections to each process one address
    may have, 0 any number; behind a proxy all are the proxy's, and none are counted.

    Beyond this machine it wants TLS, its own or a declared proxy's, or to be told explicitly: `UsageError`. A free port
    is taken for port 0. The hub's own user gets a token in ``state_home``, which their commands find by themselves.
    """
    loopback = _is_loopback(host)
    if not (loopback or tls_cert or behind_proxy or insecure):
        raise UsageError(
            f"A hub on {host} can be reached by others, and without TLS its tokens can be overheard.",
            hint="Give --tls-cert and --tls-key, or --behind-proxy if a proxy does TLS, or --insecure if you mean it.",
        )
    if workers > 1 and not database:
        raise UsageError(
            "A hub over SQLite is served by one process: the file has one writer.",
            hint="Leave --workers out, or give --database postgresql://… ('cmf hub migrate' moves a hub there).",
        )
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    hub = Hub(folder, database, objects, _options(endpoint), cloud_secret)
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if tls_cert else 'http'}://{shown}:{port}"
    note = state_home / "hubs" / f"{port}.json"
    settings = keeping.Settings(
        folder=str(folder),
        database=database,
        objects=objects,
        endpoint=endpoint,
        cloud_secret=cloud_secret,
        socket=listener.fileno(),
        loopback=loopback,
        log=log,
        rate=rate,
        patience_s=patience_s,
        of_address_max=0 if behind_proxy else of_address_max,
        behind_proxy=behind_proxy,
        tls_cert=str(tls_cert or ""),
        tls_key=str(tls_key or ""),
    )
    try:
        _leave_token(note, hub, url)
        if workers == 1:
            _run(hub, listener, settings, started=lambda: ready(url))
        else:
            hub.close()  # each worker has its own
            keeping.keep(settings, workers, grace_s=GRACE_SECONDS + 5, started=lambda: ready(url))
    finally:
        note.unlink(missing_ok=True)
        hub.close()
        listener.close()


def work(settings: keeping.Settings, listener: socket.socket, *, started: Callable[[], None]) -> None:
    """Serve a hub as one of several processes, until this one is told to stop."""
    options = _options(settings.endpoint)
    hub = Hub(Path(settings.folder), settings.database, settings.objects, options, settings.cloud_secret)
    try:
        _run(hub, listener, settings, started=started)
    finally:
        hub.close()


def invite(folder: Path, *, database: str = "", scope: str, role: str, expires_s: int, name: str) -> str:
    """Make a one-time code for somebody to join the hub in a folder, whether it is running or not."""
    if not database:
        _must_hold(folder)
    dialect = open_database(folder, database)
    try:
        Auth(dialect)  # makes the tables of a hub that never ran
        asked = wire.AskInvite(name=name, role=wire.Role(scope, role), expires_s=expires_s)
        return access.Access(dialect, Hub.now).invite(access.console(), asked).secret
    finally:
        dialect.close()


def move(folder: Path, to: str, *, progress: Progress) -> dict[str, int]:
    """Copy the database of the hub in a folder into that of a URL; return how many rows of each table there were."""
    _must_hold(folder)
    source, target = open_database(folder), open_database(folder, to)
    try:
        return migrate(source, target, progress=progress)
    finally:
        source.close()
        target.close()


def carry(
    folder: Path, url: str, *, endpoint: str = "", back: bool = False, dry: bool = False, progress: Progress
) -> Carried:
    """Copy the objects of the hub in a folder from there into the bucket of a URL; ``back``: from the bucket to there.

    ``dry``: say how many would go.
    """
    _must_be_hub(folder)
    options = _options(endpoint)
    here, there = open_objects(folder, "", options), open_objects(folder, url, options)
    try:
        source, target = (there, here) if back else (here, there)
        return copied(source, target, dry=dry, progress=progress)
    finally:
        here.close()
        there.close()


def rebuild(folder: Path, *, database: str = "") -> int:
    """Fold what a hub's database derives anew, beside a running hub or not; return the record count."""
    if not database:
        _must_hold(folder)
    dialect = open_database(folder, database)
    try:
        return SqlStore(dialect).rebuild()
    finally:
        dialect.close()


def _options(endpoint: str) -> dict[str, str]:
    return {"endpoint": endpoint} if endpoint else {}


def _must_be_hub(folder: Path) -> None:
    """Check that a folder is a hub's, whose database may be elsewhere."""
    if not (folder / "keys" / "hub").is_file():
        raise ConflictError(f"There is no hub in {folder}.", hint="Start one there first: cmf hub serve.")


def _must_hold(folder: Path) -> None:
    if not (folder / DATABASE).is_file():
        raise ConflictError(f"There is no hub in {folder}.", hint="Start one there first: cmf hub serve.")


def _run(hub: Hub, listener: socket.socket, settings: keeping.Settings, *, started: Callable[[], None]) -> None:
    import uvicorn

    from cmf.hub.app import make_app
    from cmf.hub.connections import watched

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

    _open_files()
    config = uvicorn.Config(
        make_app(
            hub,
            loopback=settings.loopback,
            rates=Rates(settings.rate),
            log=settings.log,
            counted=settings.counted,
        ),
        http=watched(settings.patience_s, settings.of_address_max),
        ws="none",
        proxy_headers=settings.behind_proxy,  # else anybody on this machine may say that they come from elsewhere
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=CONNECTIONS_MAX,
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )
    # The server ends itself on these signals and then raises them again, for whoever ran it: that is us; we end too.
    handlers = {number: signal.signal(number, _ended) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        Server(config).run(sockets=[listener])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _ended(_: int, __: object) -> None:
    """Let a signal pass that the server has answered already."""


def _open_files() -> None:
    """Let this process have as many connections open as it takes, as far as its user may."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = CONNECTIONS_MAX + FILES_BESIDE
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small answers at once (TCP_NODELAY) only where the protocol is named; else each waits some 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConflictError(
            f"Port {port} of {host} cannot be taken: {error.strerror}.", hint="Give another --port; 0 takes a free one."
        ) from error
    return listener


def _leave_token(note: Path, hub: Hub, url: str) -> None:
    """Leave the hub's own user a token where only they can read it."""
    note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = machine.process()
    content = LocalHub(
        url=url,
        hub=hub.key.public.hex(),
        pid=process.pid,
        start=process.start,
        token=hub.auth.local_token(now=hub.now()),
    )
    temporary = note.with_name(f".{note.name}.{process.pid}")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(content))
    os.replace(temporary, note)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
