"""A simulated network: requests of the real client reach the real hub, or don't, or twice, or late, or half answered.

The client is the product's own but for the socket; `answer` stands for the routes of `cmf.hub.app`.
"""

import contextlib
import io
import random
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import urllib3

from cmf import errors
from cmf.errors import CmfError, UnreachableError
from cmf.graph.questions import AskLineage
from cmf.hub.auth import Caller
from cmf.hub.pushing import Push
from cmf.hub.service import Hub
from cmf.model import wire
from cmf.remote import HubClient
from tests.simulator.disk import Crash

if TYPE_CHECKING:
    from tests.simulator.nodes import HubNode

REMEMBERED = 40


class Request(NamedTuple):
    """One request as it travels."""

    method: str
    path: str
    body: bytes
    token: str


class Weather:
    """What the network does to requests: the chance of a fault, and who cannot reach whom."""

    def __init__(self, chance: random.Random, fault: float) -> None:
        self.chance = chance
        self.fault = fault
        self.parted: set[tuple[str, str]] = set()
        self.past: list[tuple[str, Request]] = []
        self.requests = 0
        self.bytes = 0

    def calm(self) -> None:
        """Have every request come through from now on."""
        self.fault = 0.0
        self.parted.clear()
        self.past.clear()

    def fate(self) -> str:
        """Draw what becomes of one request."""
        if self.chance.random() >= self.fault:
            return ""
        return self.chance.choice(("lost", "answer lost", "answer cut", "twice", "hub dies"))


class Answer:
    """An answer's body, cut after some bytes if ``cut`` is not negative."""

    status = 200

    def __init__(self, data: bytes, cut: int = -1) -> None:
        self._body = io.BytesIO(data if cut < 0 else data[:cut])
        self._is_cut = cut >= 0

    def read(self, size: int = -1) -> bytes:
        data = self._body.read(size)
        if not data and self._is_cut:
            raise urllib3.exceptions.ProtocolError("the connection was cut")
        return data

    def close(self) -> None:
        self._body.close()


class Client(HubClient):
    """The product's client over the simulated network."""

    def __init__(self, weather: Weather, site: str, hub: "HubNode", token: str) -> None:
        self.url = hub.url
        self._weather = weather
        self._site = site
        self._hub = hub
        self._token = token
        self._watch = None
        self.passes_through, self.warnings = True, []

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        headers: Any = None,
        with_token: bool = True,
        goes_on: bool = False,
        read_s: float = 0,
    ) -> Iterator[Any]:
        data = body if isinstance(body, bytes) else b"".join(body) if body is not None else b""
        try:
            response = self._send(Request(method, path, data, self.token() if with_token else ""))
            yield response
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, CmfError):
                raise
            raise self._unreachable(error) from error

    def _send(self, request: Request) -> Answer:
        weather = self._weather
        weather.requests += 1
        weather.bytes += len(request.body)
        if (self._site, self._hub.name) in weather.parted:
            raise urllib3.exceptions.ProtocolError("no way there")
        weather.past = [*weather.past[-REMEMBERED:], (self._hub.name, request)]
        fate = weather.fate()
        if fate == "lost":
            raise urllib3.exceptions.ProtocolError("the request was lost")
        if fate == "hub dies":
            self._hub.disk.arm(weather.chance.randint(1, 6))
        try:
            if fate == "twice":
                self._hub.receive(request)
            data = self._hub.receive(request)
        finally:
            self._hub.disk.arm(0)
        weather.bytes += len(data)
        if fate == "answer lost":
            raise urllib3.exceptions.ProtocolError("the answer was lost")
        return Answer(data, weather.chance.randrange(len(data)) if fate == "answer cut" and data else -1)


def refusal(error: CmfError) -> CmfError:
    """Return an error of the hub as its client raises it."""
    return errors.from_http(errors.http_status(error), error.message, hint=error.hint, kind=error.kind)


def answer(hub: Hub, caller: Caller, request: Request) -> bytes:
    """Do what a request asks for, as the routes do; return the body of the answer."""
    parts = urllib.parse.urlsplit(request.path)
    query = dict(urllib.parse.parse_qsl(parts.query))
    body = request.body
    match request.method, parts.path:
        case "GET", "/v1/hub":
            return wire.encode(hub.info(caller))
        case "POST", "/v1/streams":
            return wire.encode(hub.streams(caller, wire.decode(body, wire.AskStreams)))
        case "POST", "/v1/digests":
            return wire.encode(hub.digests(caller, wire.decode(body, wire.AskDigests)))
        case "POST", "/v1/have":
            return wire.encode(hub.have(caller, wire.decode(body, wire.Having)))
        case "POST", "/v1/push":
            (found,) = hub.pushing.push_all([Push(caller, body, "wanted" in query)])
            if isinstance(found, CmfError):
                raise found
            return found
        case "POST", "/v1/pull":
            return hub.pull(caller, wire.decode(body, wire.Asked))
        case "POST", "/v1/log":
            return wire.encode(hub.standing(caller, wire.decode(body, wire.Since)))
        case "POST", "/v1/matching":
            return wire.encode(hub.matching(caller, wire.decode(body, wire.AskMatching)))
        case "POST", "/v1/proofs":
            return wire.encode(hub.proofs(caller, wire.decode(body, wire.AskProofs)))
        case "POST", "/v1/get":
            return hub.get(caller, wire.decode(body, wire.Hashes))
        case "POST", "/v1/lineage":
            return wire.encode(hub.lineage(caller, wire.decode(body, AskLineage)))
        case "POST", "/v1/objects/missing":
            return wire.encode(hub.grants.missing(caller, wire.decode(body, wire.Missing)))
        case "POST", "/v1/objects":
            return wire.encode(hub.grants.put_all(caller, query["scope"], body))
        case "POST", "/v1/objects/get":
            return hub.grants.get_all(caller, wire.decode(body, wire.Digests))
    raise AssertionError(request)


def delivered(hub: Hub, request: Request, now: int) -> bytes:
    """Have a hub answer one request; raise what its client is told, or the crash that befell it."""
    try:
        return answer(hub, hub.auth.caller(request.token, now=now), request)
    except CmfError as error:
        raise refusal(error) from error


__all__ = ["Answer", "Client", "Crash", "Request", "UnreachableError", "Weather", "answer", "delivered", "refusal"]
