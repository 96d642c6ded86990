"""Requests to a hub: connections, tokens, limits, and the errors that it answers with."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import urllib3
from urllib3.util import Retry, Timeout

from cmf import errors
from cmf.errors import CorruptError, DeniedError, NotFoundError, UnreachableError, UnsupportedError, UsageError
from cmf.graph.index import Direction
from cmf.graph.questions import AskLineage, LineageAnswer
from cmf.model import digest as digests
from cmf.model import enrolment, wire
from cmf.model.exchange import Head, View
from cmf.model.prefixes import Below
from cmf.objects import CHUNK_BYTES, RemoteStore, Watch
from cmf.remote.body import Body
from cmf.remote.local import own_token
from cmf.signing import Key

if TYPE_CHECKING:
    from cmf.remote.access import HubAccess
    from cmf.remote.index import HubIndex
    from cmf.remote.peer import HubPeer

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
SENT_AT_ONCE_BYTES = 16 << 10
ANSWER_BYTES_MAX = 256 << 20
PROBLEM_BYTES_MAX = 64 << 10
WAIT_SECONDS_MAX = 30
"""A hub that asks to be asked again later is waited for so long at most, each time."""
WAITS_MAX = 10

_Message = TypeVar("_Message")
_LOG = logging.getLogger(__name__)


class HubClient:
    """A hub by its URL. The token is found by itself: one kept from joining, or that of our own hub on this machine."""

    def __init__(self, url: str, *, state_home: Path, keys: Path, watch: Watch | None = None) -> None:
        wrong = UsageError(f"'{url[:200]}' is not a hub's address.", hint="Such as https://hub.example.org.")
        try:
            parts = urllib.parse.urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise wrong from None
        if not is_address:
            raise wrong
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._kept = keys / "tokens" / urllib.parse.quote(self.url, safe="")
        self._state_home = state_home
        self._watch = watch
        self._token: str | None = None
        self.passes_through = False
        """Whether all bytes go through the hub, since its bucket could not be reached."""
        self.warnings: list[str] = []
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=4,
            retries=False,
            timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        )

    # ---- who we are ------------------------------------------------------------------------------------------------

    def hub(self) -> wire.HubInfo:
        """Return who the hub is, and who we are to it."""
        return self.ask("GET", "/v1/hub", None, wire.HubInfo)

    def enrol(self, invite: str, key: Key, name: str) -> wire.Enrolled:
        """Present an invite, and show that the key is ours; keep the token that it gives."""
        hub = self.ask("GET", "/v1/hub", None, wire.HubInfo, with_token=False).hub
        public = key.public.hex()
        signature = key.sign(enrolment.payload(invite, public, hub)).hex()
        message = wire.Enrol(invite=invite, key=public, name=name, signature=signature)
        enrolled = self.ask("POST", "/v1/enrol", message, wire.Enrolled, with_token=False)
        self.keep(enrolled.token)
        return enrolled

    def keep(self, token: str) -> None:
        """Speak with this token from now on, and keep it where only its user can read it."""
        self._kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._kept.with_name(f".{os.getpid()}.{os.urandom(4).hex()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(token)
        os.replace(temporary, self._kept)
        self._token = token

    def forget(self) -> None:
        """Speak without the kept token from now on, and remove it."""
        self._kept.unlink(missing_ok=True)
        self._token = None

    def token(self) -> str:
        """Return the token to speak with, or "" if there is none."""
        if self._token is None:
            try:
                self._token = self._kept.read_text(encoding="ascii").strip()
            except OSError:
                self._token = own_token(self.url, self._state_home)
        return self._token

    # ---- the three faces -------------------------------------------------------------------------------------------

    @property
    def peer(self) -> HubPeer:
        """Return the hub as one end of a transfer."""
        from cmf.remote.peer import HubPeer

        return HubPeer(self)

    @property
    def index(self) -> HubIndex:
        """Return the hub as an index."""
        from cmf.remote.index import HubIndex

        return HubIndex(self)

    def objects(self, scope: str) -> RemoteStore:
        """Return the hub's objects as they are granted under a scope; what may be read of all scopes, if that is ""."""
        from cmf.remote.objects import HubObjects

        found = HubObjects(self, scope)
        return found if self._watch is None else self._watch(found, self.url, scope)

    def wanted(
        self, streams: Iterable[bytes], after: tuple[str, str] | None = None, *, below: Sequence[str] = ()
    ) -> wire.Held:
        """Return (digest, scope) of objects that the hub lacks in these streams' scopes: those behind ``after``.

        ``below``: and in all scopes below these prefixes ("" is everything).
        """
        message = wire.Having(streams={stream.hex(): [] for stream in streams}, after=after, below=list(below))
        return self.ask("POST", "/v1/have", message, wire.Held)

    def lineage(
        self, root: str, *, direction: Direction = "up", all_producers: bool = False, depth_max: int | None = None
    ) -> LineageAnswer:
        """Walk at the hub; the answer names the segments that hold every record about what was met."""
        message = AskLineage(root=root, direction=direction, all_producers=all_producers)
        if depth_max is not None:
            message = msgspec.structs.replace(message, depth_max=depth_max)
        return self.ask("POST", "/v1/lineage", message, LineageAnswer)

    def standing(self, view: View, size: int) -> wire.Standing:
        """Return where the hub's log stands: see `wire.Standing`."""
        asked = wire.Since(scopes=list(view.scopes), sites=list(view.sites), where=view.where, size=size)
        return self.ask("POST", "/v1/log", asked, wire.Standing)

    def proofs(self, hashes: Sequence[bytes], size: int, since: int) -> wire.Proofs:
        """Return where segments are in the hub's log, and what shows it: see `wire.Proofs`."""
        asked = wire.AskProofs(hashes=[hash_.hex() for hash_ in hashes], size=size, since=since)
        return self.ask("POST", "/v1/proofs", asked, wire.Proofs)

    def about(self, executions: Sequence[str]) -> Iterator[bytes]:
        """Return the hashes of the segments about those of some executions, by node, that the hub lets us read."""
        for at in range(0, len(executions), wire.EXECUTIONS_MAX):
            asked = wire.AskMatching(executions=list(executions[at : at + wire.EXECUTIONS_MAX]))
            yield from map(wire.raw, self.ask("POST", "/v1/matching", asked, wire.Matching).segments)

    def matching(self, view: View) -> Iterator[bytes]:
        """Return the hashes of the segments about executions that the view's filter finds."""
        cursor, more = "", True
        while more:
            asked = wire.AskMatching(where=view.where, scopes=list(view.scopes), sites=list(view.sites), cursor=cursor)
            try:
                page = self.ask("POST", "/v1/matching", asked, wire.Matching)
            except NotFoundError as error:
                raise UnsupportedError(
                    f"The hub {self.url} is older than filters of executions.",
                    hint="Pull whole scopes with --scope, or ask who runs it to upgrade.",
                    kind="hub",
                ) from error
            yield from (wire.raw(text) for text in page.segments)
            more, cursor = bool(page.cursor) and page.cursor != cursor, page.cursor

    def following(
        self, view: View, cursor: str, own: Mapping[bytes, Sequence[Head]]
    ) -> Iterator[tuple[list[bytes], str]]:
        """Yield (segments, the cursor behind them) page by page, from a cursor on; none behind ``own`` heads.

        `ConflictError` of kind ``cursor`` if the hub cannot go on from there.
        """
        have = {stream.hex(): [(head.n, head.hash.hex()) for head in heads] for stream, heads in own.items()}
        while True:
            asked = wire.Asked(scopes=list(view.scopes), sites=list(view.sites), cursor=cursor, have=have)
            with self.request("POST", "/v1/pull", wire.encode(asked)) as response:
                found, end = framed(bounded(response, ANSWER_BYTES_MAX), wire.SEGMENT)
            yield found, end.cursor
            if not end.more:
                return
            cursor = end.cursor

    def digests(self, scopes: Sequence[str], prefixes: Mapping[str, str]) -> dict[str, Below]:
        """Return what the hub holds in some scopes below those prefixes of which it has another digest."""
        message = wire.AskDigests(scopes=list(scopes), prefixes=dict(prefixes))
        return self.ask("POST", "/v1/digests", message, dict[str, Below])

    def get(self, hashes: Sequence[str]) -> Iterator[bytes]:
        """Return segments by hash, each stream's first one before them."""
        left = dict.fromkeys(hashes)
        while left:
            asked = list(left)[: wire.HASHES_MAX]
            got = 0
            for wire_bytes in self.frames("/v1/get", wire.Hashes(hashes=asked))[0]:
                header = wire_bytes[2 : 2 + int.from_bytes(wire_bytes[:2], "little")]
                got += left.pop(digests.sha256(header).hex(), 0) is None
                yield wire_bytes
            if not got:
                return  # the hub does not hold the rest, or we may not read it

    @property
    def access(self) -> HubAccess:
        """Return who may do what at the hub, to be administered."""
        from cmf.remote.access import HubAccess

        return HubAccess(self)

    # ---- requests --------------------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        message: Any,
        kind: type[_Message],
        *,
        with_token: bool = True,
        read_s: float = READ_SECONDS,
    ) -> _Message:
        """Send a JSON message; return the JSON answer."""
        body = None if message is None else wire.encode(message)
        with self.request(method, path, body, with_token=with_token, read_s=read_s) as response:
            return wire.decode(bounded(response, wire.JSON_BYTES_MAX), kind)

    def tell(self, method: str, path: str, message: Any = None) -> None:
        """Send a JSON message, or none, whose answer is empty."""
        with self.request(method, path, None if message is None else wire.encode(message)):
            pass

    def frames(self, path: str, message: Any) -> tuple[list[bytes], bool]:
        """Send a JSON message; return the segments of the bulk answer, and whether there are more to ask for."""
        with self.request("POST", path, wire.encode(message)) as response:
            found, end = framed(bounded(response, ANSWER_BYTES_MAX), wire.SEGMENT)
            return found, end.more

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        path: str,
        body: bytes | Body | None,
        *,
        headers: Mapping[str, str] | None = None,
        with_token: bool = True,
        goes_on: bool = False,
        read_s: float = READ_SECONDS,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Make one request; raise what the hub answered, as the error that it is.

        ``goes_on``: that the answer is elsewhere (307) is no error; it is not followed here.
        If the hub says that we ask too much, wait for as long as it says and ask again.
        """
        token = self.token() if with_token else ""
        sent = {
            "content-type": "application/json" if isinstance(body, bytes) else "application/octet-stream",
            "accept-encoding": urllib3.util.SKIP_HEADER,
            "user-agent": "cmf",
        }
        sent |= {"authorization": f"Bearer {token}"} if token else {}
        retries = Retry(
            connect=2,
            read=2 if method == "GET" else 0,
            redirect=0,
            status=0,
            other=0,
            backoff_factor=0.2,
            respect_retry_after_header=False,
        )
        carried = Body(body) if isinstance(body, bytes) else body
        is_long = isinstance(body, Body) or (body is not None and len(body) > SENT_AT_ONCE_BYTES)
        sent |= {"content-length": str(len(body))} if isinstance(body, bytes) else {}
        waits = 0
        while True:
            try:
                response = self._pool.request(
                    method,
                    self.url + path,
                    body=carried,
                    headers={**sent, **(headers or {})},
                    preload_content=False,
                    retries=retries,
                    redirect=False,
                    # The first is also how long each piece of a body may take. A short one fits into what is buffered.
                    timeout=Timeout(connect=READ_SECONDS if is_long else CONNECT_SECONDS, read=read_s),
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self._unreachable(error) from error
            if response.status != 429 or waits == WAITS_MAX or not (carried is None or carried.is_repeatable):
                break
            waits += 1
            self._wait(response)
        try:
            if _has_no_end(response):
                raise urllib3.exceptions.ProtocolError("the connection was cut inside the headers")
            if response.status >= 300 and not (goes_on and response.status == 307):
                raise _refused(response)
            yield response
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, errors.CmfError):
                raise
            raise self._unreachable(error) from error
        finally:
            response.close() if response.status >= 300 else response.drain_conn()
            response.release_conn()

    def give_up_direct(self, why: str) -> None:
        """Send and fetch through the hub from now on, and say so once."""
        if not self.passes_through:
            self.passes_through = True
            self.warnings.append(f"Large objects pass through the hub {self.url}: {why}")

    def _wait(self, response: urllib3.BaseHTTPResponse) -> None:
        """Wait for as long as the hub says, and say so."""
        said = response.headers.get("retry-after", "")
        response.close()
        response.release_conn()
        seconds = min(WAIT_SECONDS_MAX, max(1, int(said) if said.isdecimal() and len(said) < 9 else 1))
        _LOG.warning("The hub %s is asked too much; going on in %d s.", self.url, seconds)
        time.sleep(seconds)

    def _unreachable(self, error: Exception) -> UnreachableError:
        while isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
            error = error.reason
        return UnreachableError(
            f"The hub {self.url} cannot be reached: {_why(error)}.",
            hint="Nothing is lost: run the command again when it can be.",
            kind="hub",
        )


def _why(error: Exception) -> str:
    found = urllib3.exceptions
    if isinstance(error, found.NameResolutionError):
        return "nobody knows this name"
    if isinstance(error, found.NewConnectionError):  # a time-out too, says its class
        return "nothing answers there"
    if isinstance(error, found.TimeoutError) or isinstance(error.args[-1] if error.args else None, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, found.SSLError):
        return f"TLS failed ({str(error)[:200]})"
    return "the connection was cut" if isinstance(error, found.ProtocolError) else "no connection"


def bounded(response: urllib3.BaseHTTPResponse, bytes_max: int) -> bytes:
    """Return a body, refused once it is over a limit."""
    parts: list[bytes] = []
    size = 0
    while data := response.read(CHUNK_BYTES):
        size += len(data)
        if size > bytes_max:
            raise CorruptError(f"The hub's answer is over the limit of {bytes_max} bytes.", kind="limit")
        parts.append(data)
    return b"".join(parts)


def framed(body: bytes, wanted: int) -> tuple[list[bytes], wire.End]:
    """Return the frames of one kind in a bulk answer, and its end."""
    found = []
    end: wire.End | None = None
    for tag, data in wire.frames(body):
        if tag == wanted:
            found.append(data)
        elif tag == wire.END:
            end = wire.decode(data, wire.End)
    if end is None or end.count != len(found):
        raise UnreachableError("The hub's answer was cut short.", hint="Run the command again.", kind="hub")
    return found, end


def _has_no_end(response: urllib3.BaseHTTPResponse) -> bool:
    """Tell whether an answer says neither how long it is nor that it ends with its connection: its headers are cut."""
    ends = response.headers.get("connection", "").lower()
    return response.length_remaining is None and not response.chunked and response.version >= 11 and ends != "close"


def _refused(response: urllib3.BaseHTTPResponse) -> errors.CmfError:
    """Return the error that an answer says."""
    try:
        problem = msgspec.json.decode(bounded(response, PROBLEM_BYTES_MAX), type=wire.Problem)
    except (msgspec.MsgspecError, CorruptError, urllib3.exceptions.HTTPError):
        problem = wire.Problem(kind="http", message=f"The hub answered with HTTP status {response.status}.")
    if 300 <= response.status < 400:
        return DeniedError("The hub wants to send us elsewhere; that is not followed.", kind="redirect")
    message = problem.message or f"The hub answered with HTTP status {response.status}."
    status = {405: 404, 413: 400}.get(response.status, response.status)  # 405: an older hub has no such path
    return errors.from_http(status, message, hint=problem.hint, kind=problem.kind)
