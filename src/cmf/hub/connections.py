"""Connections whose client keeps the hub waiting: they are cut, so that slow clients hold nothing for long.

Knows what a connection's client owes: the head of a request, the rest of its body, or to read its answer. Refuses to
know requests. A handler that takes its time owes nothing, nor does a connection whose reading the hub itself paused.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

BYTES_PER_SECOND_MIN = 256
"""A body that comes slower, and an answer that is read slower, is one that nobody waits for."""
TICKS = 4
"""How often in its time a connection is looked at."""


def watched(patience_s: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, but for connections that are cut once their client owed something for that long."""
    base: Any = AutoHTTPProtocol

    class Watched(base):  # type: ignore[misc]  # uvicorn chooses its parser when it is imported
        def connection_made(self, transport: asyncio.Transport) -> None:
            counting = _Counting(transport)
            super().connection_made(counting)
            self._watch = _Watch(self, counting, patience_s)

        def data_received(self, data: bytes) -> None:
            self._watch.received += len(data)
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch.stop()
            super().connection_lost(exc)

    return Watched


class _Counting:
    """A transport that counts what is written to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Watch:
    """Looks at one connection now and then, until it is lost."""

    def __init__(self, protocol: Any, transport: _Counting, patience_s: float) -> None:
        self._protocol = protocol
        self._transport = transport
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self.received = 0
        self._owed: tuple[str, int] = ("", 0)
        self._mark = 0
        self._since = self._loop.time()
        self._next = self._loop.call_later(patience_s / TICKS, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._next.cancel()

    def _look(self) -> None:
        owed, moved = self._standing()
        now = self._loop.time()
        enough = BYTES_PER_SECOND_MIN * self._patience_s
        if owed != self._owed or not owed[0] or (moved >= 0 and moved - self._mark >= enough):
            self._owed, self._mark, self._since = owed, moved, now
        elif now - self._since >= self._patience_s:
            self._transport.abort()
            return
        self._next = self._loop.call_later(self._patience_s / TICKS, self._look)

    def _standing(self) -> tuple[tuple[str, int], int]:
        """Return what the client owes, in which request, and how many bytes of it moved; -1: it has to come whole."""
        cycle = self._protocol.cycle
        unread = self._transport.get_write_buffer_size()
        if unread:
            return ("answer", id(cycle)), self._transport.written - unread
        if cycle is None or cycle.response_complete:
            return ("head", id(cycle)), -1
        if cycle.more_body and not self._protocol.flow.read_paused:
            return ("body", id(cycle)), self.received
        return ("", 0), 0
