"""A real hub process on a free port of this machine, started and stopped by the tests."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import urllib3

from cmf.hub import serve as serving
from cmf.remote import HubClient, LocalHub
from tests.histories import Writer


class HubProcess:
    """`cmf hub serve` in a process of its own. ``url`` is set once it listens, ``said`` once it has ended."""

    said: str
    """What it wrote to standard error."""

    def __init__(
        self,
        folder: Path,
        state: Path,
        *,
        port: int = 0,
        options: tuple[str, ...] = (),
        database: str = "",
        within: tuple[str, ...] = (),
    ) -> None:
        """Start it; ``within``: a command that runs it in a network of its own."""
        options = ("--database", database, *options) if database else options
        self.folder = folder
        self.database = database
        self.state = state
        self._err = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # a pipe that nobody reads fills up
        self.process = subprocess.Popen(
            [
                *within,
                sys.executable,
                "-m",
                "cmf",
                "hub",
                "serve",
                "--folder",
                str(folder),
                "--port",
                str(port),
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=self._err,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": str(state)},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "ready at" not in line:
            self._reap()
            raise AssertionError(f"The hub is not ready; it says {line!r}.")
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    @property
    def state_home(self) -> Path:
        return self.state / "cmf"

    @property
    def token(self) -> str:
        note = self.state_home / "hubs" / f"{self.port}.json"
        return msgspec.json.decode(note.read_bytes(), type=LocalHub).token

    def client(self, keys: Path) -> HubClient:
        """Return a client of the hub's own user."""
        return HubClient(self.url, state_home=self.state_home, keys=keys)

    def kill(self) -> None:
        """Kill it, as a power switch would."""
        self.process.send_signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> int:
        """Ask it to end, and wait until it has."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        self.process.communicate(timeout=30)
        with self._err as err:
            err.seek(0)
            self.said = err.read()
        sys.stderr.write(self.said)  # shown with a test that fails
        return self.process.returncode


@contextlib.contextmanager
def running(
    folder: Path, state: Path, *, port: int = 0, options: tuple[str, ...] = (), database: str = ""
) -> Iterator[HubProcess]:
    """Run a hub for the length of a block."""
    hub = HubProcess(folder, state, port=port, options=options, database=database)
    try:
        yield hub
    finally:
        if hub.process.poll() is None:
            hub.stop()


def until(holds: Callable[[], bool], *, seconds: float = 60) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it did not come true in time"
        time.sleep(0.05)


class Raw:
    """Requests made by hand."""

    def __init__(self, hub: HubProcess, token: str | None = None) -> None:
        """Speak with a token; as the hub's own user if none is given."""
        self._pool = urllib3.PoolManager(retries=False)
        self._url = hub.url
        self._token = hub.token if token is None else token

    def __call__(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Return the status and the answer, decoded if it is JSON."""
        sent = {"authorization": f"Bearer {self._token}"} if self._token else {}
        answer = self._pool.request(
            method, self._url + path, body=body, headers={**sent, **(headers or {})}, redirect=False
        )
        try:
            return answer.status, json.loads(answer.data)
        except ValueError:
            return answer.status, answer.data


def joined(hub: HubProcess, folder: Path, writer: Writer, *, scope: str, role: str = "write") -> HubClient:
    """Return a client that joined with an invite, enrolled with the writer's key."""
    code = serving.invite(hub.folder, database=hub.database, scope=scope, role=role, expires_s=600, name=writer.name)
    client = HubClient(hub.url, state_home=folder / "no-state", keys=folder / writer.name)
    client.enrol(code, writer.key, writer.name)
    return client
