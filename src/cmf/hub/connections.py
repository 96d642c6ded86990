"""Connections whose client keeps the hub waiting, or has too many of them: they are cut, so that others are served.

Knows what a connection's client owes: the head of a request, the rest of its body, or to read its answer; and how many
come from one address. Refuses to know requests. A handler that takes its time owes nothing, nor does a connection whose
reading the hub itself paused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from cmf import errors
from cmf.errors import UnreachableError
from cmf.hub.rates import network
from cmf.model import wire

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

BYTES_PER_SECOND_MIN = 256
"""A body that comes slower, and an answer that is read slower, is one that nobody waits for."""
TICKS = 4
"""How often in its time a connection is looked at."""
TOLD_SECONDS = 1.0
TOLD_MAX = 64
"""So many connections beyond those that an address may have are told so, if they ask soon; more are cut unheard."""
RETRY_SECONDS = 5


def watched(patience_s: float, of_address_max: int = 0) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, but for connections that are cut once their client owed something for that long.

    ``of_address_max``: so many an address may have at once in this process, 0 any number; one more is told so, and cut.
    """
    base: Any = AutoHTTPProtocol
    here: Counter[str] = Counter()

    class Watched(base):  # type: ignore[misc]  # uvicorn chooses its parser when it is imported
        def connection_made(self, transport: asyncio.Transport) -> None:
            counting = _Counting(transport)
            super().connection_made(counting)
            peer = transport.get_extra_info("peername")
            self._address = network(str(peer[0])) if peer else ""
            here[self._address] += 1
            beyond = here[self._address] - of_address_max if of_address_max else 0
            if beyond > 0:
                self.app = _crowded(of_address_max)
            self._watch = _Watch(self, counting, TOLD_SECONDS if beyond > 0 else patience_s)
            if beyond > TOLD_MAX:
                counting.abort()

        def data_received(self, data: bytes) -> None:
            self._watch.received += len(data)
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            here[self._address] -= 1
            if not here[self._address]:
                del here[self._address]
            self._watch.stop()
            super().connection_lost(exc)

    return Watched


def _crowded(of_address_max: int) -> ASGI3Application:
    """Return an application that tells its client that it has too many connections."""
    error = UnreachableError(
        f"Your address has more than {of_address_max:,} connections to this hub.",
        hint="Wait a little and ask again. Nothing is lost.",
        kind="rate",
    )
    body = wire.encode(wire.Problem(kind=error.kind, message=error.message, hint=error.hint))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(RETRY_SECONDS).encode()),
        (b"connection", b"close"),
    ]

    async def tell(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": errors.http_status(error), "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return tell


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
