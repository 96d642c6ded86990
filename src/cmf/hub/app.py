"""The hub over HTTP: routes, limits and errors. What a request does is in `service`; this module only carries it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, BinaryIO

from litestar import Litestar, Response, delete, get, post, put
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import Parameter
from litestar.response import Stream

from cmf import errors
from cmf.errors import CmfError, DeniedError, UsageError
from cmf.graph.questions import Answer, Ask, AskLineage, LineageAnswer
from cmf.hub import administration
from cmf.hub.auth import Caller
from cmf.hub.calls import AnyRequest, caller_of, callers_of, count_stranger, hub_of
from cmf.hub.federation import Federation
from cmf.hub.gathered import Gathered
from cmf.hub.operations import Operations
from cmf.hub.pushing import Push
from cmf.hub.rates import Rates, TooManyError
from cmf.hub.service import Hub
from cmf.model import wire
from cmf.model.prefixes import Below

OBJECT_BYTES_MAX = 1 << 40
READ_BYTES = 1 << 20
GATHERED_BYTES_MAX = 256 << 10
"""Pushes up to this size are admitted together with others, up to this size in all."""
BULK = "application/octet-stream"
LOOK_SECONDS, LOOKS_MIN, LOOKS = 0.25, 20, 260
"""How often it is looked whether a request still writes to a part: longer than a silent client is waited for."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names that a request to a loopback hub may give as its host: a web page elsewhere can point any other name here."""

Under = Annotated[str, Parameter(query="scope", description="The scope that the object is sent under.")]
Granted = Annotated[str, Parameter(query="scope", description="Only if the object was sent under this scope.")]
AsksWanted = Annotated[
    bool, Parameter(query="wanted", description="The end frame names the objects that these scopes lack.")
]
IsDirect = Annotated[
    bool, Parameter(query="direct", description="The caller would be sent to the hub's bucket: 307 if it can be.")
]
From = Annotated[int, Parameter(query="from", ge=0, description="How many bytes came before, and are not sent.")]
IsFolder = Annotated[bool, Parameter(query="folder", description="It is a folder's manifest; its files were sent.")]

Pushes = Gathered[tuple[AnyRequest, bytes, bool], bytes]


def make_app(hub: Hub, *, loopback: bool, rates: Rates, log: bool = False, counted: str = "") -> Litestar:
    """Make the application that serves a hub.

    ``loopback``: refuse requests that name another host or origin. ``rates``: how much anybody may ask. ``log``: one
    line for each request. ``counted``: the folder where several workers count for the metrics.
    """
    operations = Operations(hub.counts, hub.peers.measures, log=log, counted=counted)
    federation = Federation(hub)
    pushes: Pushes = Gathered(_push_all, size=lambda asked: len(asked[1]), size_max=GATHERED_BYTES_MAX)
    return Litestar(
        route_handlers=ROUTES,
        middleware=[operations.middleware],
        before_request=_local_only if loopback else None,
        exception_handlers={CmfError: _problem, HTTPException: _http_problem, Exception: _unexpected},
        openapi_config=OpenAPIConfig(
            title="CMF hub",
            version=f"v{wire.API_VERSION}",
            path="/v1",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
            security=[{"token": []}],
        ),
        request_max_body_size=wire.JSON_BYTES_MAX,
        on_startup=[federation.start],
        on_shutdown=[federation.stop],
        logging_config=None,
        opt={"hub": hub, "operations": operations, "federation": federation, "rates": rates, "pushes": pushes},
    )


# ---- routes ------------------------------------------------------------------------------------------------------


@get("/v1/hub", sync_to_thread=True, security=[])
def about(request: AnyRequest) -> wire.HubInfo:
    """Say who this hub is, what it speaks and its limits; to a caller with a token, also who the caller is."""
    hub = hub_of(request)
    return hub.info(caller_of(request) if "authorization" in request.headers else None)


@get("/v1/health", sync_to_thread=False, security=[])
def health() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@get("/v1/ready", sync_to_thread=True, security=[])
def ready(request: AnyRequest) -> dict[str, str]:
    """Say that the hub can serve: its database answers; 503 if it does not."""
    hub_of(request).check()
    return {"status": "ready"}


@get("/metrics", sync_to_thread=True, media_type="text/plain; version=0.0.4; charset=utf-8")
def metrics(request: AnyRequest) -> bytes:
    """Return what Prometheus reads. It needs a token that is admin everywhere."""
    caller = caller_of(request)
    if not caller.may("admin", ""):
        raise DeniedError(f"{caller.name} is not admin of this hub.", kind="scope")
    operations: Operations = request.app.opt["operations"]
    return operations.page()


@post("/v1/enrol", sync_to_thread=True, status_code=200, security=[])
def enrol(request: AnyRequest, data: wire.Enrol) -> wire.Enrolled:
    """Take an invite: enrol a site's key, and give it a token."""
    count_stranger(request)
    return hub_of(request).enrol(data)


@post("/v1/streams", sync_to_thread=True, status_code=200)
def streams(request: AnyRequest, data: wire.AskStreams) -> wire.Streams:
    """Return sampled positions of the streams that the caller may read, in some scopes, a page at a time."""
    return hub_of(request).streams(caller_of(request), data)


@post("/v1/digests", sync_to_thread=True, status_code=200)
def compare(request: AnyRequest, data: wire.AskDigests) -> dict[str, Below]:
    """Compare what two ends hold, by digests over the streams whose ids begin alike."""
    return hub_of(request).digests(caller_of(request), data)


@post("/v1/have", sync_to_thread=True, status_code=200)
def have(request: AnyRequest, data: wire.Having) -> wire.Held:
    """Return what this hub holds of the caller's streams, and which of their objects it still lacks."""
    return hub_of(request).have(caller_of(request), data)


@post("/v1/push", status_code=200, media_type=BULK, request_max_body_size=wire.PUSH_BYTES_MAX)
async def push(request: AnyRequest, *, asks_wanted: AsksWanted = False) -> Stream | Response[bytes]:
    """Admit segments. The body is segment frames; the answer an admission frame for each, then an end frame."""
    body = await request.body()
    if len(body) <= GATHERED_BYTES_MAX:
        gathered: Pushes = request.app.opt["pushes"]
        return Response(await gathered.ask((request, body, asks_wanted)), media_type=BULK)
    pushed = await asyncio.to_thread(lambda: hub_of(request).pushing.push(Push(caller_of(request), body, asks_wanted)))
    return Stream(pushed, media_type=BULK)


def _push_all(asked: Sequence[tuple[AnyRequest, bytes, bool]]) -> list[bytes | CmfError]:
    """Answer small pushes together."""
    callers = callers_of([request for request, _, _ in asked])
    pushes = [
        Push(caller, body, wanted)
        for caller, (_, body, wanted) in zip(callers, asked, strict=True)
        if isinstance(caller, Caller)
    ]
    answers = iter(hub_of(asked[0][0]).pushing.push_all(pushes) if pushes else ())
    return [next(answers) if isinstance(caller, Caller) else caller for caller in callers]


@post("/v1/pull", sync_to_thread=True, status_code=200, media_type=BULK)
def pull(request: AnyRequest, data: wire.Asked) -> Response[bytes]:
    """Return the next page of segment frames beyond what the caller holds, then an end frame."""
    return Response(hub_of(request).pull(caller_of(request), data), media_type=BULK)


@post("/v1/log", sync_to_thread=True, status_code=200)
def standing(request: AnyRequest, data: wire.Since) -> wire.Standing:
    """Return the log's signed checkpoint, the proof that it begins as it was at a size, and the cursor of a view."""
    return hub_of(request).standing(caller_of(request), data)


@post("/v1/proofs", sync_to_thread=True, status_code=200)
def proofs(request: AnyRequest, data: wire.AskProofs) -> wire.Proofs:
    """Say where segments are in the log, with the parts of its tree that show it, and the signed checkpoint."""
    return hub_of(request).proofs(caller_of(request), data)


@post("/v1/matching", sync_to_thread=True, status_code=200)
def matching(request: AnyRequest, data: wire.AskMatching) -> wire.Matching:
    """Find executions by filter; name the segments that hold every record about them, a page at a time."""
    return hub_of(request).matching(caller_of(request), data)


@post("/v1/get", sync_to_thread=True, status_code=200, media_type=BULK)
def get_segments(request: AnyRequest, data: wire.Hashes) -> Response[bytes]:
    """Return segments by hash, each stream's first one too, as frames."""
    return Response(hub_of(request).get(caller_of(request), data), media_type=BULK)


@post("/v1/lineage", sync_to_thread=True, status_code=200)
def lineage(request: AnyRequest, data: AskLineage) -> LineageAnswer:
    """Walk up or down from a name; name the segments that hold every record about what was met."""
    return hub_of(request).lineage(caller_of(request), data)


@post("/v1/query", sync_to_thread=True, status_code=200)
def query(request: AnyRequest, data: Ask) -> Answer:
    """Answer any question of an index: names, lists by filter, views, edges, series, histories."""
    return hub_of(request).ask(caller_of(request), data)


@post("/v1/objects/missing", sync_to_thread=True, status_code=200)
def missing(request: AnyRequest, data: wire.Missing) -> list[str]:
    """Return which objects were not yet sent under a scope."""
    return hub_of(request).grants.missing(caller_of(request), data)


@post("/v1/objects", status_code=200, request_max_body_size=wire.BULK_BYTES_MAX)
async def put_objects(request: AnyRequest, under: Under) -> wire.Taken:
    """Take in many small objects under a scope. The body is object frames: files before a manifest of theirs."""
    hub, caller = await asyncio.to_thread(lambda: (hub_of(request), caller_of(request)))
    hub.grants.check(caller, under)
    body = await request.body()
    return await asyncio.to_thread(hub.grants.put_all, caller, under, body)


@post("/v1/objects/get", sync_to_thread=True, status_code=200, media_type=BULK)
def get_objects(request: AnyRequest, data: wire.Digests) -> Response[bytes]:
    """Return the next page of object frames, in the order asked for, then an end frame; unreadable ones are left out.

    If the end frame says more, ask on behind the last object of the page.
    """
    return Response(hub_of(request).grants.get_all(caller_of(request), data), media_type=BULK)


@put("/v1/objects/{digest:str}", status_code=200, request_max_body_size=OBJECT_BYTES_MAX)
async def put_object(
    request: AnyRequest, digest: str, under: Under, start: From = 0, *, is_folder: IsFolder = False
) -> dict[str, int]:
    """Take in an object's bytes under a scope: verified, then granted there; or a folder's manifest.

    Large ones may go on behind what came before: 409 if that is not there any more.
    """
    hub, caller = await asyncio.to_thread(lambda: (hub_of(request), caller_of(request)))
    said = request.headers.get("content-length", "")
    expected = int(said) if said.isdecimal() else None
    incoming = await asyncio.to_thread(hub.grants.begin, caller, under, digest, start, expected=expected)
    try:
        async for chunk in request.stream():
            await asyncio.to_thread(incoming.write, chunk)
        size = await asyncio.to_thread(lambda: hub.grants.put(caller, under, digest, incoming, folder=is_folder))
    finally:
        await asyncio.to_thread(incoming.close)
    return {"size": size}


@get("/v1/objects/{digest:str}/part", status_code=200)
async def part_of_object(request: AnyRequest, digest: str, under: Under) -> wire.Part:
    """Say how much of a large object is here whose sending under a scope was cut, and which bytes those are."""
    hub, caller = await asyncio.to_thread(lambda: (hub_of(request), caller_of(request)))
    seen = 0
    for look in range(LOOKS):
        found = await asyncio.to_thread(hub.grants.part, caller, under, digest)
        if isinstance(found, wire.Part):
            return found
        if look > LOOKS_MIN and found > seen:
            break  # somebody sends it
        seen = found
        await asyncio.sleep(LOOK_SECONDS)  # a line that was cut may look alive to the request that still reads it
    return wire.Part()


@post("/v1/objects/{digest:str}/upload", sync_to_thread=True, status_code=200)
def lend_upload(request: AnyRequest, digest: str, data: wire.AskUpload) -> wire.Upload:
    """Say where to put a large object's bytes past the hub, if it can; "" if they have to pass through it."""
    return hub_of(request).grants.lend(caller_of(request), digest, data)


@post("/v1/objects/{digest:str}/uploaded", sync_to_thread=True, status_code=200)
def settle_upload(request: AnyRequest, digest: str, data: wire.Uploaded) -> dict[str, int]:
    """Take in, under a scope, an object that was put past the hub."""
    return {"size": hub_of(request).grants.settle(caller_of(request), digest, data)}


@get("/v1/objects", sync_to_thread=True)
def list_objects(request: AnyRequest, under: Under, after: str = "") -> list[tuple[str, int]]:
    """Return (digest, size) of objects sent under a scope, sorted, a page at a time: those behind ``after``."""
    return hub_of(request).grants.sent(caller_of(request), under, after)


@delete("/v1/objects/{digest:str}", sync_to_thread=True, status_code=200)
def revoke_object(request: AnyRequest, digest: str, under: Under) -> dict[str, int]:
    """Take an object's grant under a scope back, which needs admin there; other scopes keep theirs."""
    return {"removed": hub_of(request).grants.revoke(caller_of(request), under, digest)}


@get("/v1/objects/{digest:str}", media_type=BULK)
async def get_object(
    request: AnyRequest, digest: str, granted: Granted = "", *, is_direct: IsDirect = False
) -> Stream | Response[bytes]:
    """Return an object's bytes, from the offset on that a Range header names; or where to get them, if asked."""
    hub = hub_of(request)
    size = await asyncio.to_thread(lambda: hub.grants.size(caller_of(request), digest, granted))
    start = _range(request.headers.get("range", ""), size)
    if is_direct and start < size and (url := await asyncio.to_thread(hub.grants.address, digest, size)):
        return Response(b"", status_code=307, headers={"location": url, "cache-control": "no-store"})
    headers = {"content-length": str(size - start), "accept-ranges": "bytes"}
    if start:
        headers["content-range"] = f"bytes {start}-{size - 1}/{size}"
    file = await asyncio.to_thread(hub.objects.open, digest, start)
    status = 206 if start else 200
    # A client that goes away in the middle leaves the chunks where they are, and their file open.
    return Stream(
        _chunks(file), media_type=BULK, headers=headers, status_code=status, background=BackgroundTask(file.close)
    )


ROUTES = (
    *(
        about,
        health,
        ready,
        metrics,
        compare,
        enrol,
        streams,
        have,
        push,
        pull,
        standing,
        proofs,
        matching,
        get_segments,
        lineage,
        query,
    ),
    *(
        missing,
        put_objects,
        get_objects,
        put_object,
        part_of_object,
        lend_upload,
        settle_upload,
        get_object,
        list_objects,
        revoke_object,
    ),
    *administration.ROUTES,
)


for _route in ROUTES:  # said here: litestar's own way takes its wrapper's text where two of a path run in threads
    _route.description = inspect.getdoc(_route.fn)


# ---- what every request needs ------------------------------------------------------------------------------------


def _local_only(request: AnyRequest) -> None:
    """Refuse a request whose host or origin is not this machine: another name may have been pointed here."""
    hosts = request.headers.getall("host", [])
    host = re.sub(r":\d+$", "", hosts[0]) if len(hosts) == 1 else ""
    origin = request.headers.get("origin", "")
    if host not in LOOPBACK:
        raise DeniedError("This hub serves its own machine only, under its loopback address.", kind="host")
    if origin and re.sub(r":\d+$", "", origin.partition("://")[2]) not in LOOPBACK:
        raise DeniedError("This hub does not serve pages of other origins.", kind="origin")


def _range(header: str, size: int) -> int:
    if not header:
        return 0
    match = re.fullmatch(r"bytes=(\d{1,19})-", header)
    if match is None:
        raise UsageError("This range cannot be served.", hint="Ask for 'bytes=N-'.", kind="range")
    return min(int(match[1]), size)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while data := file.read(READ_BYTES):
            yield data


def _problem(_: AnyRequest, error: CmfError) -> Response[wire.Problem]:
    status = 413 if error.kind == "limit" else errors.http_status(error)
    headers = {"retry-after": str(error.retry_s)} if isinstance(error, TooManyError) else None
    problem = wire.Problem(kind=error.kind, message=error.message, hint=error.hint)
    return Response(problem, status_code=status, headers=headers)


def _http_problem(_: AnyRequest, error: HTTPException) -> Response[wire.Problem]:
    return Response(wire.Problem(kind="http", message=str(error.detail)[:500]), status_code=error.status_code)


def _unexpected(request: AnyRequest, error: Exception) -> Response[wire.Problem]:
    if isinstance(error, CmfError):
        return _problem(request, error)
    if isinstance(error, HTTPException):
        return _http_problem(request, error)
    if isinstance(error, RecursionError):
        return Response(wire.Problem(kind="http", message="The request is nested too deeply."), status_code=400)
    logging.getLogger("uvicorn.error").error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Response(wire.Problem(kind="internal", message="The hub failed at this request."), status_code=500)
