"""What those who run a hub see of it: its health, its metrics, and one log line for each request, with an id.

Knows requests by their route and their outcome. Refuses to know what is in them: no token, path or record is logged.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from cmf import errors
from cmf.errors import UnreachableError
from cmf.model import wire

REQUEST_ID = "x-request-id"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


PeerMeasures = Callable[[], dict[str, tuple[str, dict[str, float]]]]


class Operations:
    """The metrics of one hub. ``counts``: called when they are read, returns gauges by name. ``log``: write lines.

    ``peers``: called then, too, returns of the other hubs what is measured: name -> (what it is, peer -> value).

    ``counted``: the folder where all workers of this hub count, if there are several.
    """

    def __init__(
        self, counts: Callable[[], dict[str, float]], peers: PeerMeasures, *, log: bool, counted: str = ""
    ) -> None:
        self._log = log
        self._counted = counted
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "cmf_hub_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "cmf_hub_request_seconds",
            "Time until a request was answered whole.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._bytes = Counter("cmf_hub_bytes", "Bytes of bodies, by direction.", ("direction",), registry=self.registry)
        self._running = Gauge(
            "cmf_hub_requests_running", "Requests being answered.", registry=self.registry, multiprocess_mode="livesum"
        )
        self._counts = _Counts(counts, peers)

    def page(self) -> bytes:
        """Return the metrics in Prometheus's text format: of all workers, whichever is asked."""
        shown = self.registry
        if self._counted:
            shown = CollectorRegistry()
            MultiProcessCollector(shown, self._counted)  # type: ignore[no-untyped-call]  # prometheus's
        return generate_latest(shown) + generate_latest(self._counts)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application: each request gets an id, is counted and timed, and leaves a line."""

        async def observed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            headers = dict(scope["headers"])
            given = headers.get(REQUEST_ID.encode(), b"").decode("latin-1")
            request_id = given if _ID.fullmatch(given) else os.urandom(8).hex()
            started = time.monotonic()
            status, is_begun = 500, False
            moved = {"in": 0, "out": 0}

            async def receiving() -> Any:
                message = await receive()
                if message["type"] == "http.request":
                    moved["in"] += len(message["body"])
                return message

            async def sending(message: Message) -> None:
                nonlocal status, is_begun
                if message["type"] == "http.response.start":
                    status, is_begun = message["status"], True
                    message["headers"] = [*message["headers"], (REQUEST_ID.encode(), request_id.encode())]
                elif message["type"] == "http.response.body":
                    moved["out"] += len(message["body"])
                await send(message)

            self._running.inc()
            try:
                await app(scope, receiving, sending)
            except asyncio.CancelledError:  # the hub ends, and has waited for this one for long enough
                if is_begun:
                    raise
                await _put_off(sending)
            finally:
                self._running.dec()
                self._note(scope, request_id, status, time.monotonic() - started, moved)

        return observed

    def _note(self, scope: Any, request_id: str, status: int, seconds: float, moved: dict[str, int]) -> None:
        route = str(scope.get("path_template") or "other")
        method = str(scope["method"])
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        for direction, count in moved.items():
            self._bytes.labels(direction).inc(count)
        if self._log:
            client = scope.get("client")
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "id": request_id,
                "client": client[0] if client else "",
                "method": method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "bytes_in": moved["in"],
                "bytes_out": moved["out"],
            }
            sys.stderr.write(json.dumps(line) + "\n")


async def _put_off(send: Send) -> None:
    """Answer that the hub is about to end: whoever asked asks again, of the next process or later."""
    error = UnreachableError("The hub is being stopped.", hint="Nothing is lost: try again in a moment.", kind="ending")
    body = wire.encode(wire.Problem(kind=error.kind, message=error.message, hint=error.hint))
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": errors.http_status(error), "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _Counts(Collector):
    """What the hub holds, looked up when the metrics are read."""

    def __init__(self, counts: Callable[[], dict[str, float]], peers: PeerMeasures) -> None:
        self._counts = counts
        self._peers = peers

    def collect(self) -> Iterable[Metric]:
        """Yield one gauge for each count, and for each measure of its peers."""
        for name, value in self._counts().items():
            yield GaugeMetricFamily(f"cmf_hub_{name}", f"How many of {name} the hub has.", value)
        for name, (what, values) in self._peers().items():
            family = GaugeMetricFamily(f"cmf_hub_peer_{name}", what, labels=("peer",))
            for peer, value in values.items():
                family.add_metric((peer,), value)
            yield family
