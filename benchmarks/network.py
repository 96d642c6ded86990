"""A hub as a process on this machine, and a relay that counts the bytes on the way to it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from benchmarks import processes

LOOPBACK = "127.0.0.1"
PIECE_BYTES = 1 << 18
STOP_SECONDS = 30


@contextlib.contextmanager
def hub(folder: Path, name: str = "hub", database: str = "") -> Iterator[str]:
    """Run `cmf hub serve` for the length of a block, on its own file or a database by its URL; lend its URL."""
    command = [sys.executable, "-m", "cmf", "hub", "serve", "--folder", str(folder / name), "--port", "0"]
    command += ["--database", database] if database else []
    with open(folder / f"{name}.log", "w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=processes.environment(folder / "home"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "ready at" not in line:
                log.seek(0)
                raise RuntimeError(f"The hub did not start: {line}{log.read()}")
            yield line.split()[-1]
        finally:
            process.terminate()
            try:
                process.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


class Relay:
    """Passes bytes on between a port of its own and another, and counts them both ways before they go on.

    A connection to its second port is told the counts: whoever measures may be another process.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.counts = {"up": 0, "down": 0}
        self._front = socket.create_server((LOOPBACK, 0))
        self._side = socket.create_server((LOOPBACK, 0))
        self.port: int = self._front.getsockname()[1]
        self.counter: int = self._side.getsockname()[1]
        for work in (self._accept, self._tell):
            threading.Thread(target=work, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for listener in (self._front, self._side):
            # A thread that waits in accept() is only woken by the shutdown.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._front.accept()
                far = socket.create_connection((LOOPBACK, self.target))
                for source, sink, way in ((near, far, "up"), (far, near, "down")):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pass_on, args=(source, sink, way), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                self.counts[way] += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _tell(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                asker, _ = self._side.accept()
                with asker:
                    asker.sendall(json.dumps(self.counts).encode())


def passed(counter: int) -> int:
    """Ask a relay how many bytes went through it so far, both ways."""
    with socket.create_connection((LOOPBACK, counter)) as asking:
        told = b"".join(iter(lambda: asking.recv(1024), b""))
    return sum(json.loads(told).values())
