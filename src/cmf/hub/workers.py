"""Several processes that serve one hub, and the one that keeps them running.

They share the listening socket, the database and the folder, and nothing else: whichever takes a connection answers it.
One that dies is started again; its connections are cut, and what it had acknowledged is in the database. When the
keeper is told to stop it lets each finish what it answers; when it dies itself, they stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import msgspec

from cmf.errors import CmfError, ConflictError, exit_code

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which the metrics library of each worker, when it is imported, knows where all of them count."""

READY = b"ready\n"
YOUNG_SECONDS = 2.0
"""One that died younger than this is started again only after as long a pause: it may die of the same again."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told on its standard input: the URL of a database may hold a password, so never as arguments."""

    folder: str
    database: str
    objects: str
    endpoint: str
    cloud_secret: str
    socket: int
    loopback: bool
    log: bool
    rate: float
    patience_s: float
    of_address_max: int
    behind_proxy: bool
    tls_cert: str = ""
    tls_key: str = ""
    counted: str = ""
    """The folder where several workers count for the metrics."""


def keep(settings: Settings, count: int, *, grace_s: float, started: Callable[[], None]) -> None:
    """Keep ``count`` workers running until the process is told to stop; ``started`` is called once all of them serve.

    Each then has ``grace_s`` seconds to end. `ConflictError` if one dies before all have served once.
    """
    told: SimpleQueue[str] = SimpleQueue()
    handlers = {
        number: signal.signal(number, lambda *_: told.put("stop")) for number in (signal.SIGINT, signal.SIGTERM)
    }
    with tempfile.TemporaryDirectory(prefix="cmf-hub-metrics-") as counted:
        settings = msgspec.structs.replace(settings, counted=counted)
        keepers = [_Keeper(settings, number, told) for number in range(1, count + 1)]
        try:
            serving = 0
            while (what := told.get()) != "stop":
                if what == "failed" and serving < count:
                    raise ConflictError("A worker of the hub ended before it served.", hint="What it wrote says why.")
                serving += what == "ready"
                if what == "ready" and serving == count:
                    started()
        finally:
            ends = time.monotonic() + grace_s
            for keeper in keepers:
                keeper.stop()
            for keeper in keepers:
                keeper.join(ends)
            for number, handler in handlers.items():
                signal.signal(number, handler)


class _Keeper(threading.Thread):
    """Keeps one worker running. Tells ``ready`` each time that it serves, ``failed`` when it ended unasked."""

    def __init__(self, settings: Settings, number: int, told: SimpleQueue[str]) -> None:
        super().__init__(name=f"worker-{number}", daemon=True)
        self._settings = settings
        self._number = number
        self._told = told
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def run(self) -> None:
        """Start the worker, wait for its end, and again."""
        while (process := self._begin()) is not None:
            began = time.monotonic()
            assert process.stdout is not None
            if process.stdout.readline() == READY:
                self._told.put("ready")
            code = process.wait()
            process.stdout.close()
            _forget(self._settings.counted, process.pid)
            if self._stopping.is_set():
                return
            self._told.put("failed")
            how = f"of signal {-code}" if code < 0 else f"with exit status {code}"
            sys.stderr.write(f"Worker {self._number} of the hub ended {how}; it is started again.\n")
            if time.monotonic() - began < YOUNG_SECONDS:
                self._stopping.wait(YOUNG_SECONDS)

    def _begin(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "cmf.hub.workers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self._settings.socket,),
                env={**os.environ, METRICS_FOLDER: self._settings.counted},  # noqa: TID251  # handed on as it is
            )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once, which is seen when it is waited for
            process.stdin.write(msgspec.json.encode(self._settings) + b"\n")
            process.stdin.flush()
        return process

    def stop(self) -> None:
        """Tell the worker to finish what it answers and to end."""
        self._stopping.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()

    def join(self, ends: float | None = None) -> None:
        """Wait for the worker's end until a time of the monotonic clock, then end it."""
        super().join(None if ends is None else max(0.0, ends - time.monotonic()))
        if self.is_alive() and self._process is not None:
            self._process.kill()
            super().join()


def _forget(counted: str, pid: int) -> None:
    """Take a dead worker's requests that were running from the metrics; what it had counted stays."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid, counted)  # type: ignore[no-untyped-call]  # prometheus's


def main() -> int:
    """Serve as one worker: told how on standard input, until told to stop or until that closes; return the status."""
    from cmf.hub import serve

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the keeper too, which tells each worker
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    threading.Thread(target=_end_with_keeper, daemon=True).start()
    try:
        with socket.socket(fileno=settings.socket) as listener:
            serve.work(settings, listener, started=_say_ready)
    except CmfError as error:
        sys.stderr.write(f"{error.message} {error.hint}\n")
        return exit_code(error)
    return 0


def _say_ready() -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


def _end_with_keeper() -> None:
    """Wait until the keeper is gone, however it went; then end as if told to."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
