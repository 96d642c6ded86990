"""A hub over HTTP, as its clients hold it: one end of a transfer, an index, and an object store.

The only module that speaks to a network. Every answer is bounded before it is read, and every byte is checked again on
this side.
"""

from __future__ import annotations

import contextlib
import io
import os
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import msgspec
import urllib3
from urllib3.util import Retry, Timeout

from cmf import errors
from cmf.errors import CorruptError, DeniedError, UnreachableError, UsageError
from cmf.graph import views
from cmf.graph.filter import Query
from cmf.graph.index import Direction, Edge, Node, Target
from cmf.graph.questions import Answer, Ask, AskLineage, LineageAnswer
from cmf.model import digest as digests
from cmf.model import wire
from cmf.model.exchange import Admission, Head, Sample, View
from cmf.objects import CHUNK_BYTES, Digests, check_name

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
ANSWER_BYTES_MAX = 256 << 20
PROBLEM_BYTES_MAX = 64 << 10

_Message = TypeVar("_Message")
Listing = list[tuple[str, int]]
"""(digest, size) of objects. (Inside an object store, `list` is a method.)"""


class LocalHub(msgspec.Struct, frozen=True, kw_only=True):
    """What a hub leaves its own user on this machine: where it is, who it is, and a token."""

    url: str
    hub: str
    pid: int
    start: int
    token: str


class HubClient:
    """A hub by its URL. The token is found by itself: one kept from joining, or that of our own hub on this machine."""

    def __init__(self, url: str, *, state_home: Path, keys: Path) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"'{url}' is not a hub's address.", hint="Such as https://hub.example.org.")
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._kept = keys / "tokens" / urllib.parse.quote(self.url, safe="")
        self._state_home = state_home
        self._token: str | None = None
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

    def enrol(self, invite: str, key: bytes, name: str) -> wire.Enrolled:
        """Present an invite; keep the token that it gives."""
        message = wire.Enrol(invite=invite, key=key.hex(), name=name)
        enrolled = self.ask("POST", "/v1/enrol", message, wire.Enrolled, with_token=False)
        self._kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._kept.with_name(f".{os.getpid()}.{os.urandom(4).hex()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(enrolled.token)
        os.replace(temporary, self._kept)
        self._token = enrolled.token
        return enrolled

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
        return HubPeer(self)

    @property
    def index(self) -> HubIndex:
        """Return the hub as an index."""
        return HubIndex(self)

    def objects(self, scope: str) -> HubObjects:
        """Return the hub's objects as they are granted under a scope."""
        return HubObjects(self, scope)

    def wanted(self, streams: Iterable[bytes], after: tuple[str, str] | None = None) -> wire.Held:
        """Return (digest, scope) of objects that the hub lacks in these streams' scopes: those behind ``after``."""
        message = wire.Having(streams={stream.hex(): [] for stream in streams}, after=after)
        return self.ask("POST", "/v1/have", message, wire.Held)

    def lineage(self, root: str, *, direction: Direction = "up", all_producers: bool = False) -> LineageAnswer:
        """Walk at the hub; the answer names the segments that hold every record about what was met."""
        message = AskLineage(root=root, direction=direction, all_producers=all_producers)
        return self.ask("POST", "/v1/lineage", message, LineageAnswer)

    def get(self, hashes: Sequence[str]) -> Iterator[bytes]:
        """Return segments by hash, each stream's first one before them."""
        left = dict.fromkeys(hashes)
        while left:
            asked = list(left)[: wire.HASHES_MAX]
            got = 0
            for wire_bytes in self._frames("/v1/get", wire.Hashes(hashes=asked))[0]:
                header = wire_bytes[2 : 2 + int.from_bytes(wire_bytes[:2], "little")]
                got += left.pop(digests.sha256(header).hex(), 0) is None
                yield wire_bytes
            if not got:
                return  # the hub does not hold the rest, or we may not read it

    # ---- requests --------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, message: Any, kind: type[_Message], *, with_token: bool = True) -> _Message:
        """Send a JSON message; return the JSON answer."""
        body = None if message is None else wire.encode(message)
        with self.request(method, path, body, with_token=with_token) as response:
            return wire.decode(_bounded(response, wire.JSON_BYTES_MAX), kind)

    def _frames(self, path: str, message: Any) -> tuple[list[bytes], bool]:
        """Send a JSON message; return the segments of the bulk answer, and whether there are more to ask for."""
        with self.request("POST", path, wire.encode(message)) as response:
            return _framed(_bounded(response, ANSWER_BYTES_MAX), wire.SEGMENT)

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        path: str,
        body: bytes | BinaryIO | Iterator[bytes] | None,
        *,
        headers: Mapping[str, str] | None = None,
        with_token: bool = True,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Make one request; raise what the hub answered, as the error that it is."""
        token = self.token() if with_token else ""
        sent = {
            "content-type": "application/json" if isinstance(body, bytes) else "application/octet-stream",
            "accept-encoding": urllib3.util.SKIP_HEADER,
            "user-agent": "cmf",
        }
        sent |= {"authorization": f"Bearer {token}"} if token else {}
        retries = Retry(connect=2, read=2 if method == "GET" else 0, redirect=0, status=0, other=0, backoff_factor=0.2)
        try:
            response = self._pool.request(
                method,
                self.url + path,
                body=body,
                headers={**sent, **(headers or {})},
                preload_content=False,
                retries=retries,
                redirect=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from error
        try:
            if response.status >= 300:
                raise _refused(response)
            yield response
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, errors.CmfError):
                raise
            raise self._unreachable(error) from error
        finally:
            response.close() if response.status >= 300 else response.drain_conn()
            response.release_conn()

    def _unreachable(self, error: Exception) -> UnreachableError:
        while isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
            error = error.reason
        why = "it did not answer in time" if isinstance(error, urllib3.exceptions.TimeoutError) else "no connection"
        if isinstance(error, urllib3.exceptions.ProtocolError):
            why = "the connection was cut"
        return UnreachableError(
            f"The hub {self.url} cannot be reached: {why}.",
            hint="Nothing is lost: run the command again when it can be.",
            kind="hub",
        )


class HubPeer:
    """A hub as one end of a transfer.

    ``wanted``: what it lacks, as `HubClient.wanted` has it, if its answers have told all of that already.
    """

    def __init__(self, client: HubClient) -> None:
        self._client = client
        self.wanted: wire.Held | None = None

    def streams(self, view: View) -> Iterator[Sample]:
        """Return sampled positions of the hub's streams in a view."""
        found = self._client.ask("POST", "/v1/streams", wire.Asked(scopes=list(view.scopes)), wire.Streams)
        yield from wire.to_samples(found.streams)

    def have(self, samples: Iterable[Sample]) -> Mapping[bytes, tuple[Head, ...]]:
        """Return what the hub holds of these streams."""
        message = wire.Having(streams=wire.from_samples(samples))
        held = self._client.ask("POST", "/v1/have", message, wire.Held)
        self.wanted = held
        return {wire.raw(stream): tuple(wire.to_heads(points)) for stream, points in held.streams.items()}

    def segments(self, view: View, after: Mapping[bytes, tuple[Head, ...]]) -> Iterator[bytes]:
        """Return what the hub holds beyond these heads, page by page."""
        from cmf.model import segment as segments

        have = {stream: {head.hash: head.n for head in heads} for stream, heads in after.items()}
        while True:
            asked = wire.Asked(
                scopes=list(view.scopes),
                have={stream.hex(): [(n, h.hex()) for h, n in heads.items()] for stream, heads in have.items()},
            )
            page, more = self._client._frames("/v1/pull", asked)  # noqa: SLF001  # one module, one secret
            for wire_bytes in page:
                segment = segments.from_wire(wire_bytes)
                heads = have.setdefault(segment.stream, {})
                if segment.n and hasattr(segment.fields, "prev"):
                    heads.pop(wire.raw(segment.fields.prev), None)
                heads[segment.hash] = segment.n
                yield wire_bytes
            if not more or not page:
                return

    def admit(self, segments: Iterable[bytes]) -> Iterator[Admission]:
        """Send segments in batches; return what the hub says of each as its batch is answered."""
        batch: list[bytes] = []
        size = 0
        before, self.wanted = self.wanted, None
        alone = before is not None and not before.more
        for segment in segments:
            if batch and size + len(segment) > wire.PUSH_BYTES:
                yield from self._send(batch)[0]
                batch, size, alone = [], 0, False
            batch.append(segment)
            size += len(segment)
        if not batch:
            self.wanted = before
            return
        found, end = self._send(batch, wanted=alone)
        if alone and before is not None and not end.more:
            self.wanted = wire.Held(wanted=list(dict.fromkeys([*before.wanted, *end.wanted])))
        yield from found

    def _send(self, batch: Sequence[bytes], *, wanted: bool = False) -> tuple[list[Admission], wire.End]:
        body = b"".join(wire.frame(wire.SEGMENT, segment) for segment in batch)
        octets = {"content-type": "application/octet-stream"}
        with self._client.request("POST", f"/v1/push{'?wanted=true' * wanted}", body, headers=octets) as response:
            answer = _bounded(response, ANSWER_BYTES_MAX)
        frames = list(wire.frames(answer))
        found = [wire.decode(data, Admission) for tag, data in frames if tag == wire.ADMISSION]
        if len(found) != len(batch):
            raise UnreachableError(
                f"The hub {self._client.url} answered for {len(found)} of {len(batch)} segments.",
                hint="Run the command again: what it took in stays.",
                kind="hub",
            )
        ends = [wire.decode(data, wire.End) for tag, data in frames if tag == wire.END]
        return found, ends[-1] if ends else wire.End(count=len(found), more=True)


class HubIndex:
    """A hub as an index; its nodes are node texts."""

    def __init__(self, client: HubClient) -> None:
        self._client = client

    def _ask(self, ask: Ask) -> Answer:
        return self._client.ask("POST", "/v1/query", ask, Answer)

    def resolve(self, text: str) -> Target:
        """Return what a text names at the hub."""
        found = self._ask(Ask(resolve=text)).resolve
        if found is None:
            raise CorruptError("The hub gave no answer to a question.", kind="wire")
        return found

    def nodes(self, texts: Sequence[str]) -> dict[str, Node]:
        """Return those node texts that the hub knows."""
        return {text: text for text in self._ask(Ask(nodes=list(texts))).nodes}

    def executions(self, nodes: Sequence[Node]) -> dict[Node, views.Execution]:
        """Return a view of each execution."""
        return {view.node: view for view in self._ask(Ask(executions=_texts(nodes))).executions}

    def artifacts(self, nodes: Sequence[Node]) -> dict[Node, views.Artifact]:
        """Return a view of each artifact."""
        return {f"artifact:{view.digest}": view for view in self._ask(Ask(artifacts=_texts(nodes))).artifacts}

    def select(self, query: Query) -> views.Page:
        """Return a page of executions, newest first."""
        return self._ask(Ask(select=query)).select or views.Page()

    def edges(self, nodes: Sequence[Node], direction: Direction) -> list[Edge]:
        """Return the steps that lead up or down from some executions."""
        return [Edge(*edge) for edge in self._ask(Ask(edges=_texts(nodes), direction=direction)).edges]

    def series(self, execution: str, name: str) -> list[views.ChunkRef]:
        """Return the chunks of one name of an execution's step metrics."""
        return self._ask(Ask(series=(execution, name))).series

    def history(self, subject: str) -> list[views.Write]:
        """Return every write to every register of a node, newest first."""
        return self._ask(Ask(history=subject)).history


class HubObjects:
    """A hub's objects under one scope: what may be written there, and read by grant."""

    def __init__(self, client: HubClient, scope: str) -> None:
        self._client = client
        self._scope = scope

    def absent(self, digests: Iterable[str]) -> Digests:
        """Return those that were not yet sent under the scope."""
        asked = [check_name(digest) for digest in digests]
        found: Digests = []
        for at in range(0, len(asked), wire.MISSING_MAX):
            message = wire.Missing(scope=self._scope, digests=asked[at : at + wire.MISSING_MAX])
            found += self._client.ask("POST", "/v1/objects/missing", message, Digests)
        return found

    def open(self, digest: str, offset: int = 0) -> BinaryIO:
        """Return a reader of an object's bytes from an offset on."""
        headers = {"range": f"bytes={offset}-"} if offset else {}
        stack = contextlib.ExitStack()
        path = f"/v1/objects/{check_name(digest)}"
        response = stack.enter_context(self._client.request("GET", path, None, headers=headers))
        return cast("BinaryIO", io.BufferedReader(_Body(response, stack), CHUNK_BYTES))

    def put(self, digest: str, source: BinaryIO | bytes, *, folder: bool = False) -> int:
        """Send an object under the scope; ``folder``: it is a manifest whose members were sent before."""
        query = urllib.parse.urlencode({"scope": self._scope, "folder": str(folder).lower()})
        broken: list[OSError] = []
        body = source if isinstance(source, bytes) else _reading(source, broken)
        octets = {"content-type": "application/octet-stream"}
        path = f"/v1/objects/{check_name(digest)}?{query}"
        try:
            with self._client.request("PUT", path, body, headers=octets) as response:
                return wire.decode(_bounded(response, PROBLEM_BYTES_MAX), dict[str, int])["size"]
        except UnreachableError as error:
            raise (broken[0] if broken else error) from None

    def put_all(self, found: Iterable[wire.Small]) -> Iterator[tuple[wire.Small, errors.CmfError | None]]:
        """Send small objects under the scope, many in a request; say of each, as it is answered, why it was not taken.

        A manifest comes behind the last of its files.
        """
        batch: list[wire.Small] = []
        frames: list[bytes] = []
        size = 0
        for small in found:
            data = wire.frame(wire.OBJECT, wire.from_small(small))
            if batch and (size + len(data) > wire.BULK_BYTES_MAX or len(batch) == wire.BULK_MAX):
                yield from self._put_batch(batch, b"".join(frames))
                batch, frames, size = [], [], 0
            batch.append(small)
            frames.append(data)
            size += len(data)
        if batch:
            yield from self._put_batch(batch, b"".join(frames))

    def _put_batch(
        self, batch: Sequence[wire.Small], body: bytes
    ) -> Iterator[tuple[wire.Small, errors.CmfError | None]]:
        path = "/v1/objects?" + urllib.parse.urlencode({"scope": self._scope})
        octets = {"content-type": "application/octet-stream"}
        with self._client.request("POST", path, body, headers=octets) as response:
            answer = wire.decode(_bounded(response, ANSWER_BYTES_MAX), wire.Taken)
        count = answer.count + len(answer.refused)
        if count != len(batch):
            raise UnreachableError(
                f"The hub {self._client.url} answered for {count} of {len(batch)} objects.",
                hint="Run the command again: what it took in stays.",
                kind="hub",
            )
        refused = {
            why.digest: errors.from_http(why.status, why.message, hint=why.hint, kind=why.kind)
            for why in answer.refused
        }
        for small in batch:
            yield small, refused.get(small.digest)

    def get_all(self, asked: Iterable[str]) -> Iterator[Sequence[wire.Small]]:
        """Yield objects, a page at a time, in the order asked for; what may not be read is left out.

        Of a large one there are no bytes: `open` has them. They are not verified yet: `put` into a store does it.
        """
        left = [check_name(digest) for digest in asked]
        while left:
            part = left[: wire.MISSING_MAX]
            message = wire.encode(wire.Digests(digests=part))
            with self._client.request("POST", "/v1/objects/get", message) as response:
                frames, more = _framed(_bounded(response, ANSWER_BYTES_MAX), wire.OBJECT)
            found = [wire.to_small(data) for data in frames]
            names = {digest: at for at, digest in enumerate(part)}
            if any(small.digest not in names for small in found) or (more and not found):
                raise CorruptError("The hub answered with objects that were not asked for.", kind="wire")
            yield found
            left = left[names[found[-1].digest] + 1 if more else len(part) :]

    def list(self) -> Iterator[tuple[str, int]]:
        """Return (digest, size) of every object sent under the scope, sorted by digest."""
        last = ""
        while True:
            query = urllib.parse.urlencode({"scope": self._scope, "after": last})
            page = self._client.ask("GET", f"/v1/objects?{query}", None, Listing)
            yield from page
            if not page:
                return
            last = page[-1][0]

    def remove(self, digests: Iterable[str]) -> int:
        """Take the objects' grants under the scope back; return how many there were."""
        query = urllib.parse.urlencode({"scope": self._scope})
        paths = [f"/v1/objects/{check_name(digest)}?{query}" for digest in digests]
        return sum(self._client.ask("DELETE", path, None, dict[str, int])["removed"] for path in paths)


class _Body(io.RawIOBase):
    """An answer's body as a file, which gives its connection back when it is closed."""

    def __init__(self, response: urllib3.BaseHTTPResponse, stack: contextlib.ExitStack) -> None:
        self._response = response
        self._stack = stack

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._response.read(len(buffer))
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(
                "The connection to the hub was cut.", hint="Run the command again.", kind="hub"
            ) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._response.close()
            self._stack.close()
        super().close()


def _reading(source: BinaryIO, broken: list[OSError]) -> Iterator[bytes]:
    """Yield a source's bytes; what breaks the source is not taken for a broken connection."""
    try:
        while data := source.read(CHUNK_BYTES):
            yield data
    except OSError as error:
        broken.append(error)
        raise


def own_token(url: str, state_home: Path) -> str:
    """Return the token of our own hub on this machine, or "".

    Used only if the note that the hub left is ours, its process lives under our user, and that process owns the port.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1") or parts.port is None:
        return ""
    try:
        note = state_home / "hubs" / f"{parts.port}.json"
        found = msgspec.json.decode(note.read_bytes(), type=LocalHub)
        if note.stat().st_uid != os.getuid() or os.stat(f"/proc/{found.pid}").st_uid != os.getuid():
            return ""
    except (OSError, msgspec.MsgspecError):
        return ""
    return found.token if _owns_port(found.pid, found.start, parts.port) else ""


def _owns_port(pid: int, start: int, port: int) -> bool:
    """Tell whether a process, which started at this clock tick, holds the listening socket of a port."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[19]) != start:
                return False
        sockets = set()
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{table}", encoding="ascii") as file:
                for line in list(file)[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                        sockets.add(f"socket:[{fields[9]}]")
        return any(os.readlink(f"/proc/{pid}/fd/{name}") in sockets for name in os.listdir(f"/proc/{pid}/fd"))
    except (OSError, ValueError, IndexError):
        return False


def _texts(nodes: Sequence[Node]) -> list[str]:
    return [str(node) for node in nodes]


def _bounded(response: urllib3.BaseHTTPResponse, bytes_max: int) -> bytes:
    """Return a body, refused once it is over a limit."""
    parts: list[bytes] = []
    size = 0
    while data := response.read(CHUNK_BYTES):
        size += len(data)
        if size > bytes_max:
            raise CorruptError(f"The hub's answer is over the limit of {bytes_max} bytes.", kind="limit")
        parts.append(data)
    return b"".join(parts)


def _framed(body: bytes, wanted: int) -> tuple[list[bytes], bool]:
    found = []
    end: wire.End | None = None
    for tag, data in wire.frames(body):
        if tag == wanted:
            found.append(data)
        elif tag == wire.END:
            end = wire.decode(data, wire.End)
    if end is None or end.count != len(found):
        raise UnreachableError("The hub's answer was cut short.", hint="Run the command again.", kind="hub")
    return found, end.more


def _refused(response: urllib3.BaseHTTPResponse) -> errors.CmfError:
    """Return the error that an answer says."""
    try:
        problem = msgspec.json.decode(_bounded(response, PROBLEM_BYTES_MAX), type=wire.Problem)
    except (msgspec.MsgspecError, CorruptError, urllib3.exceptions.HTTPError):
        problem = wire.Problem(kind="http", message=f"The hub answered with HTTP status {response.status}.")
    if 300 <= response.status < 400:
        return DeniedError("The hub wants to send us elsewhere; that is not followed.", kind="redirect")
    message = problem.message or f"The hub answered with HTTP status {response.status}."
    status = 400 if response.status == 413 else response.status
    return errors.from_http(status, message, hint=problem.hint, kind=problem.kind)
