"""A line to another machine over ssh: who it is, whether it may be trusted, and what happens when it is cut.

The only one who knows how asyncssh connects. What is done by way of a line, `cmf.objects.ssh` knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from urllib.parse import unquote

from cmf.errors import CmfError, DeniedError, NotFoundError, UnreachableError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from asyncssh import SFTPClient, SSHClientConnection, SSHClientConnectionOptions, SSHKey

PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)
"""After a line was cut it is tried again this often, each time after such a pause."""

CONNECT_SECONDS = 15
ALIVE_SECONDS = 15
"""A line that says nothing is asked this often whether it still lives, and given up after the third time."""

WINDOW_BYTES = 16 << 20
"""How much the other end may send before we have read it: what a fast line holds."""

ASKED = 64
"""How many questions are on their way at once."""

CLOSE_SECONDS = 5
PORT_MAX = 65_535
THREAD = "cmf-ssh"

_URL = re.compile(r"ssh://(?:([^@/]*)@)?(\[[0-9A-Fa-f:.]+\]|\w[\w.-]*)(?::([0-9]{1,5}))?(/.*)?", re.ASCII)
_USER = re.compile(r"\w[\w.+-]*", re.ASCII)
_KNOWN = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
_Made = TypeVar("_Made")
_Given = TypeVar("_Given")


class Address(NamedTuple):
    """Where a folder is: ``ssh://[user@]host[:port]/path``; what isn't said, ``~/.ssh/config`` says."""

    host: str
    path: str
    user: str = ""
    port: int = 0

    @classmethod
    def of(cls, url: str) -> Self:
        """Read an address; `UsageError` if it is none, or has a password, which is not repeated."""
        match = _URL.fullmatch(url)
        if match is None or (match[1] is not None and not _USER.fullmatch(match[1])):
            if "@" in url and ":" in url.removeprefix("ssh://").rpartition("@")[0]:
                raise UsageError(
                    "An address with a password is refused: others could read it.",
                    hint="Log in with a key: ssh-keygen makes one, ssh-copy-id takes it there.",
                )
            raise UsageError("That is no address for ssh.", hint="It looks like ssh://user@host/absolute/path.")
        path = unquote(match[4] or "").rstrip("/")
        if not path or not path.isprintable():
            raise UsageError(f"{url} names no folder.", hint="It looks like ssh://user@host/absolute/path.")
        port = int(match[3] or 0)
        if port > PORT_MAX:
            raise UsageError(f"{url} names port {port}, and ports end at {PORT_MAX}.")
        return cls(match[2].strip("[]"), path, match[1] or "", port)


class Line:
    """A connection to one machine, made when it is needed and made anew when it was cut, for several threads.

    asyncssh lives in an event loop; this has one in a thread of its own, and hands it work that is waited for.
    Work may be done more than once: it must not matter.
    """

    def __init__(self, url: str, address: Address) -> None:
        try:
            import asyncssh  # noqa: F401  # only whether it is there
        except ImportError as error:
            raise UnsupportedError(
                f"{url} needs the package asyncssh.",
                hint="pip install 'common-metadata-framework[ssh]'",
                kind="missing-extra",
            ) from error
        self._url = url
        self._address = address
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connecting = asyncio.Lock()
        self._connection: SSHClientConnection | None = None
        self._client: SFTPClient | None = None
        self._was_up = False
        self._shown = ""

    @property
    def is_up(self) -> bool:
        """Tell whether there is a connection; it may have been cut a moment ago."""
        return self._client is not None

    def run(self, work: Callable[[SFTPClient], Awaitable[_Made]]) -> _Made:
        """Do some work and return what it made."""
        return self.start(work).result()

    def all(self, work: Callable[[SFTPClient, _Given], Awaitable[_Made]], given: Iterable[_Given]) -> list[_Made]:
        """Do some work for each of these, many at once; return what was made, in order."""
        made: list[_Made] = []
        items = iter(given)
        waiting: deque[Future[_Made]] = deque()

        def begin(item: _Given) -> None:
            waiting.append(self.start(lambda client: work(client, item)))

        for item in islice(items, ASKED):
            begin(item)
        try:
            while waiting:
                made.append(waiting.popleft().result())
                for item in islice(items, 1):
                    begin(item)
        finally:
            for each in waiting:
                each.cancel()  # who refused one of them isn't asked for the others
        return made

    def start(self, work: Callable[[SFTPClient], Awaitable[_Made]]) -> Future[_Made]:
        """Begin some work; its future raises what the work raised, as the error that it is."""
        return self._submit(self._tried(work))

    def output(self, command: str, size: int) -> bytes:
        """Return the first bytes that a command at the other end writes; none if it writes fewer, or may not be run."""
        return self.start(lambda _: self._output(command, size)).result()

    async def _output(self, command: str, size: int) -> bytes:
        from asyncssh import DEVNULL, ChannelOpenError

        connection = self._connection
        if connection is None:
            return b""
        try:
            async with connection.create_process(command, stdin=DEVNULL, stderr=DEVNULL, encoding=None) as process:
                told: bytes = await process.stdout.readexactly(size)
                return told
        except (ChannelOpenError, asyncio.IncompleteReadError):
            return b""

    def close(self) -> None:
        """End the connection and the thread."""
        thread = self._thread
        self.leave()
        if thread is not None:
            thread.join()

    def leave(self) -> None:
        """End the connection and the thread, and don't wait for that."""
        with self._lock:
            loop, self._loop, self._thread = self._loop, None, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._hang_up(), loop).add_done_callback(
                lambda _: loop.call_soon_threadsafe(loop.stop)
            )

    def _submit(self, work: Coroutine[Any, Any, _Made]) -> Future[_Made]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_exception_handler(_stray)
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=THREAD, daemon=True)
                logging.getLogger("asyncio").addFilter(_is_worth_telling)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _hang_up(self) -> None:
        # asyncssh's own tasks end with the connection; those that wait for it, or connect, end first.
        ours = asyncio.all_tasks() - {asyncio.current_task()} if self._connection is None else set()
        for task in ours:
            task.cancel()
        if ours:
            await asyncio.wait(ours, timeout=CLOSE_SECONDS)
        connection, self._connection, self._client = self._connection, None, None
        if connection is not None:
            connection.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.wait_closed(), CLOSE_SECONDS)
            connection.abort()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_SECONDS)

    async def _tried(self, work: Callable[[SFTPClient], Awaitable[_Made]]) -> _Made:
        """Do some work, again if the line was cut meanwhile."""
        from asyncssh import ConnectionLost, DisconnectError, Error, SFTPConnectionLost, SFTPNoConnection

        lost = (ConnectionLost, SFTPConnectionLost, SFTPNoConnection, ConnectionError, TimeoutError)
        pauses = iter(PAUSES_SECONDS)
        while True:
            client = None
            try:
                client = await self._connected()
                return await work(client)
            except CmfError:
                raise
            except (Error, OSError, ValueError) as error:
                is_lost = isinstance(error, lost) or (client is not None and isinstance(error, DisconnectError))
                if is_lost and client is not None:
                    self._drop(client)
                # A machine that never answered is not waited for; one that is busy drops who has just come.
                is_there = self._was_up or isinstance(error, (ConnectionLost, ConnectionResetError))
                pause = next(pauses, None) if is_lost and is_there else None
                if pause is None:
                    raise self._told(error) from error
            await asyncio.sleep(pause)

    def _drop(self, client: SFTPClient) -> None:
        """Forget a connection that was cut, unless another has taken its place."""
        if self._client is client and self._connection is not None:
            self._connection.abort()
            self._connection = self._client = None

    async def _connected(self) -> SFTPClient:
        import asyncssh

        async with self._connecting:
            if self._client is None:
                options = await self._options()
                self._shown = ""
                connection = await asyncssh.connect(
                    self._address.host, options=options, window=WINDOW_BYTES, encoding=None
                )
                try:
                    self._client = await connection.start_sftp_client()
                except BaseException:  # a cancelled one too: nobody else would end it
                    connection.abort()
                    raise
                self._connection = connection
                self._was_up = True
            return self._client

    async def _options(self) -> SSHClientConnectionOptions:
        """Return what the user's files say of this host, and what they leave open."""
        from asyncssh import SSHClient, SSHClientConnectionOptions

        line = self

        class Client(SSHClient):
            def validate_host_public_key(self, host: str, addr: str, port: int, key: SSHKey) -> bool:
                line._shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
                return False

        said: dict[str, Any] = {"config": (), "host": self._address.host, "client_factory": Client}
        if self._address.user:
            said["username"] = self._address.user
        if self._address.port:
            said["port"] = self._address.port
        found = await SSHClientConnectionOptions.construct(None, **said)
        known = _there(found.known_hosts if isinstance(found.known_hosts, list) else [])
        # No file at all, even if the user's configuration asks for none, means that no host is known: to asyncssh it
        # would mean that any host will do.
        said["known_hosts"] = known or (lambda *_: ([], [], []))
        if not found.connect_timeout:
            said["connect_timeout"] = CONNECT_SECONDS
        if not found.keepalive_interval:
            said["keepalive_interval"] = ALIVE_SECONDS
        made: SSHClientConnectionOptions = await SSHClientConnectionOptions.construct(None, **said)
        return made

    def _told(self, error: Exception) -> CmfError:
        """Return what asyncssh raised as the error that it is."""
        import asyncssh

        said = "it did not answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", "") or str(error)
        said = said.rstrip(".") or type(error).__name__
        user, port = self._address.user, self._address.port
        login = f"ssh {f'-p {port} ' if port else ''}{f'{user}@' if user else ''}{self._address.host}"
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return DeniedError(
                f"The host key of {self._url} is not known: {self._shown or said}.",
                hint=f"Compare it with what its keeper says, then accept it: {login}",
                kind="host-key",
            )
        if isinstance(error, asyncssh.PermissionDenied):
            return DeniedError(
                f"{self._url} refuses us: {said}.",
                hint=f"A key must let you in without a password: try '{login}', and see ssh-add and ssh-copy-id.",
                kind="remote",
            )
        if isinstance(error, asyncssh.SFTPPermissionDenied):
            return DeniedError(f"{self._url} may not be used so: {said}.", hint="Change its permissions.")
        if isinstance(error, asyncssh.SFTPNoSuchFile):
            return NotFoundError(f"{self._url} does not hold what was asked for.", kind="remote")
        if isinstance(error, (asyncssh.ChannelOpenError, asyncssh.SFTPOpUnsupported)):
            return UnsupportedError(f"{self._url} does not offer SFTP as it is needed: {said}.")
        if isinstance(error, (ValueError, asyncssh.ConfigParseError, asyncssh.KeyImportError)):
            return UsageError(f"{self._url} cannot be used with this ~/.ssh: {said}.")
        if isinstance(error, asyncssh.SFTPError) and not isinstance(error, asyncssh.SFTPConnectionLost):
            return UnreachableError(
                f"{self._url} could not do what was asked: {said}.",
                hint="Look whether its disk is full.",
                kind="remote",
            )
        return UnreachableError(
            f"{self._url} cannot be reached: {said}.",
            hint="Nothing is lost: run the command again when it can be.",
            kind="remote",
        )


def _there(files: Sequence[str]) -> list[str]:
    """Return those of the files of known hosts that are there; of the usual ones if none is named."""
    return [path for path in map(os.path.expanduser, files or _KNOWN) if os.path.isfile(path)]


def _stray(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say nothing of what a cut line did to asyncssh's own tasks: whoever waits for one of them is told."""
    from asyncssh import Error

    if not isinstance(context.get("exception"), (Error, OSError)):
        loop.default_exception_handler(context)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Drop what asyncio logs of each packet that was still on its way when a line was cut."""
    return record.threadName != THREAD or record.levelno >= logging.ERROR


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()
