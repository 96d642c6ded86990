"""A proxy between a client and a server that counts bytes, and at one of them acts or cuts; or lets nothing by."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self


class Proxy:
    """Passes bytes on between a client and the hub, and acts once after so many of them."""

    def __init__(self, read_bytes: int = 2048, *, target: int = 0) -> None:
        """Listen; ``target``: the server's port, which may be set later."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.target = target
        self._read_bytes = read_bytes
        self.bytes = 0
        self._act: Callable[[], None] | None = None
        self._after = 0
        self._is_cut = self._is_mortal = False
        self._is_parted = False
        self._open: set[socket.socket] = set()
        self._lock = threading.RLock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arm(self, after: int, act: Callable[[], None] | None) -> None:
        """From now on, count; after so many bytes, act once."""
        with self._lock:
            self.bytes, self._after, self._act = 0, after, act
            self._is_cut = self._is_mortal = False

    def cut(self, after: int) -> None:
        """From now on, count; after exactly so many bytes, cut the connection that carries them, once."""
        self.arm(after, None)
        self._is_cut = True

    def die(self, after: int) -> None:
        """From now on, count; after exactly so many bytes, let nothing by until it is mended."""
        self.cut(after)
        self._is_mortal = True

    def part(self) -> None:
        """Let nothing by from now on: who is connected is cut off, and whoever comes is turned away."""
        with self._lock:
            self._is_parted = True
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let everybody by again."""
        self._is_parted = False

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_parted:
                    client.close()
                    continue
                try:
                    hub = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                for end in (client, hub):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # it is no line with a delay
                for one, other in ((client, hub), (hub, client)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with self._lock:
            self._open.add(source)
        with contextlib.suppress(OSError):
            while data := source.recv(self._read_bytes):
                act = None
                with self._lock:
                    before = self.bytes
                    self.bytes += len(data)
                    if self._is_cut and self.bytes >= self._after:
                        self._is_cut = False
                        target.sendall(data[: self._after - before])
                        if self._is_mortal:
                            self.part()
                        break
                    if self._act is not None and self.bytes >= self._after:
                        act, self._act = self._act, None
                if act is not None:
                    act()
                target.sendall(data)
        with self._lock:
            self._open.discard(source)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
