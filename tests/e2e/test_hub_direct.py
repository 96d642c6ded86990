"""Large objects go between a site and its hub's bucket past it; nobody is let do there what they may not."""

import contextlib
import http.client
import io
import os
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import urllib3

from cmf.errors import ConflictError, CorruptError, DeniedError, NotFoundError, UnreachableError
from cmf.hub import direct as lending
from cmf.hub import serve as serving
from cmf.hub.direct import INCOMING
from cmf.hub.objects import BucketObjects
from cmf.model import wire
from cmf.model.digest import file_digest
from cmf.objects import read
from cmf.objects.cloud import CloudBucket
from cmf.objects.presigned import put_headers
from cmf.remote import HubClient
from cmf.remote.direct import Direct, nearness
from tests import buckets, databases
from tests.commands import cmf, script
from tests.histories import Writer
from tests.hubs import HubProcess, running, until

pytestmark = pytest.mark.xdist_group("s3")
DATA = os.urandom(wire.DIRECT_BYTES_MIN + 4321)
DIGEST = file_digest(DATA)
SCOPE = "lab/direct"


def ports_of(pid: int) -> set[int]:
    """Return the local ports that a process has connections from."""
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[9] in held}


class Counting:
    """A proxy in front of a server that counts the bytes it passes, by whether a process is one of the two ends."""

    def __init__(self, target: int) -> None:
        self.theirs = self.others = 0
        self.pid = 0
        self.lets_others_by = True
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, (_, port) = self._listener.accept()
                ports = ports_of(self.pid) if self.pid else set()
                if not self.lets_others_by and port not in ports:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._both, args=(client, server, port in ports), daemon=True).start()

    def _both(self, client: socket.socket, server: socket.socket, theirs: bool) -> None:
        with client, server:
            back = threading.Thread(target=self._pass, args=(server, client, theirs), daemon=True)
            back.start()
            self._pass(client, server, theirs)
            back.join()

    def _pass(self, source: socket.socket, target: socket.socket, theirs: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if theirs:
                    self.theirs += len(data)
                else:
                    self.others += len(data)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def s3_line(s3: str) -> Iterator[Counting]:
    line = Counting(int(s3.rpartition(":")[2]))
    yield line
    line.close()


@pytest.fixture(scope="module")
def hub(s3_line: Counting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Run a hub whose objects are in a bucket."""
    top = tmp_path_factory.mktemp("direct")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in buckets.environment(s3_line.url).items():
            patch.setenv(name, value)
        with running(top / "hub", top / "state", options=("--objects", f"s3://{buckets.NAME}/{top.name}")) as process:
            s3_line.pid = process.process.pid
            yield process


@pytest.fixture
def bucket(s3: str, hub: HubProcess) -> CloudBucket:
    return CloudBucket(f"s3://{buckets.NAME}/{hub.folder.parent.name}", buckets.options(s3))


def joined(hub: HubProcess, folder: Path, scope: str, seed: int) -> HubClient:
    code = serving.invite(hub.folder, scope=scope, role="write", expires_s=600, name=scope)
    client = HubClient(hub.url, state_home=folder / "no-state", keys=folder / scope)
    client.enrol(code, Writer(scope, seed=seed).key, scope)
    return client


def lent(client: HubClient, scope: str, data: bytes) -> wire.Upload:
    asked = wire.AskUpload(scope=scope, size=len(data))
    return client.ask("POST", f"/v1/objects/{file_digest(data)}/upload", asked, wire.Upload)


def settle(client: HubClient, scope: str, data: bytes, ticket: str) -> int:
    told = wire.Uploaded(scope=scope, size=len(data), ticket=ticket)
    return client.ask("POST", f"/v1/objects/{file_digest(data)}/uploaded", told, dict[str, int])["size"]


def put(url: str, body: bytes, headers: dict[str, str]) -> int:
    with urllib3.PoolManager(retries=False) as pool:
        return pool.request("PUT", url, body=body, headers=headers).status


def fresh() -> bytes:
    return os.urandom(wire.DIRECT_BYTES_MIN)


# ---- what goes past the hub ----------------------------------------------------------------------------------------


def test_a_hub_sees_no_byte_of_what_goes_to_its_bucket_and_back(
    hub: HubProcess, s3_line: Counting, tmp_path: Path, bucket: CloudBucket
) -> None:
    front = Counting(hub.port)
    try:
        client = HubClient(front.url, state_home=tmp_path / "none", keys=tmp_path / "keys")
        client.keep(hub.token)
        store = client.objects(SCOPE)
        theirs, others = s3_line.theirs, s3_line.others
        assert store.put(DIGEST, io.BytesIO(DATA)) == len(DATA)
        assert store.absent([DIGEST]) == []
        assert read(store, DIGEST) == DATA
        with store.open(DIGEST, 1_000_000) as source:
            assert source.read() == DATA[1_000_000:], "a fetch that was cut goes on behind what came"
        with store.open(DIGEST, len(DATA)) as source:
            assert source.read() == b""
        assert front.others < 64 << 10, "between the site and the hub"
        assert s3_line.theirs - theirs < 256 << 10, "between the hub and the bucket"
        assert s3_line.others - others > 2 * len(DATA), "between the site and the bucket"
        assert client.warnings == []
        assert [*bucket.names(INCOMING)] == []
    finally:
        front.close()


def test_push_and_pull_go_past_the_hub(hub: HubProcess, s3_line: Counting, tmp_path: Path, home: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        cmf(tmp_path / name, "init", "--site", name)
    code = [serving.invite(hub.folder, scope="", role="write", expires_s=600, name=name) for name in ("one", "two")]
    (tmp_path / "one" / "model.bin").write_bytes(fresh())
    cmf(tmp_path / "one", "remote", "add", "origin", hub.url, "--invite", code[0])
    cmf(tmp_path / "two", "remote", "add", "origin", hub.url, "--invite", code[1])
    script(
        tmp_path / "one", "import cmf\nwith cmf.run('lab/push') as run:\n    run.output('model.bin', name='model')\n"
    )
    before = s3_line.theirs
    assert cmf(tmp_path / "one", "push", "--data").err == ""
    cmf(tmp_path / "two", "pull", "--data")
    assert s3_line.theirs - before < wire.DIRECT_BYTES_MIN // 2
    cmf(tmp_path / "two", "get", "model", "copy.bin")
    assert (tmp_path / "two" / "copy.bin").read_bytes() == (tmp_path / "one" / "model.bin").read_bytes()


def test_a_source_that_has_other_bytes_is_refused_and_leaves_nothing(
    hub: HubProcess, tmp_path: Path, bucket: CloudBucket
) -> None:
    store = hub.client(tmp_path).objects(SCOPE)
    digest = file_digest(fresh())
    with pytest.raises(CorruptError):
        store.put(digest, io.BytesIO(fresh()))
    assert store.absent([digest]) == [digest]
    assert [*bucket.names(INCOMING)] == []


# ---- an attacker's day ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        lambda data: (bytes(len(data)), put_headers(file_digest(data), len(data))),
        lambda data: (data[:-1], put_headers(file_digest(data), len(data) - 1)),
        lambda data: (data, {"if-none-match": "*", "content-length": str(len(data))}),
        lambda data: (bytes(len(data)), put_headers(file_digest(bytes(len(data))), len(data))),
    ],
    ids=["other bytes", "fewer bytes", "no checksum", "another checksum"],
)
def test_the_bucket_refuses_other_bytes_at_an_address_for_some(
    hub: HubProcess,
    tmp_path: Path,
    bucket: CloudBucket,
    changed: Callable[[bytes], tuple[bytes, dict[str, str]]],
) -> None:
    client, data = hub.client(tmp_path), fresh()
    upload = lent(client, SCOPE, data)
    body, headers = changed(data)
    assert put(upload.url, body, headers) in (400, 403)
    with pytest.raises(NotFoundError):
        settle(client, SCOPE, data, upload.ticket)
    assert client.objects(SCOPE).absent([file_digest(data)]) == [file_digest(data)]
    assert [*bucket.names(INCOMING)] == []


def test_what_another_scope_has_is_not_granted_to_who_knows_its_digest(hub: HubProcess, tmp_path: Path) -> None:
    mine, theirs = joined(hub, tmp_path, "mine", 71), joined(hub, tmp_path, "theirs", 72)
    secret = fresh()
    digest = file_digest(secret)
    mine.objects("mine/a").put(digest, io.BytesIO(secret))
    upload = lent(theirs, "theirs/a", secret)
    assert upload.url, "whether it is there is not told"
    with pytest.raises(NotFoundError):
        settle(theirs, "theirs/a", secret, upload.ticket)
    for scope in ("", "theirs/a"):
        with pytest.raises(NotFoundError):
            theirs.objects(scope).open(digest)
    with pytest.raises(DeniedError):
        lent(theirs, "mine/a", secret)
    theirs.objects("theirs/a").put(digest, io.BytesIO(secret))
    assert read(theirs.objects("theirs/a"), digest) == secret, "who has the bytes sends them"


def test_a_ticket_is_good_for_its_own_caller_scope_and_object(hub: HubProcess, tmp_path: Path) -> None:
    ada, eve, data = joined(hub, tmp_path, "ada", 73), joined(hub, tmp_path, "eve", 74), fresh()
    upload = lent(ada, "ada/a", data)
    assert put(upload.url, data, put_headers(file_digest(data), len(data))) == 200
    assert put(upload.url, data, put_headers(file_digest(data), len(data))) == 412, "an address makes one file"
    for client, scope, other, ticket in (
        (eve, "eve/a", data, upload.ticket),
        (ada, "ada/b", data, upload.ticket),
        (ada, "ada/a", data[:-1], upload.ticket),
        (ada, "ada/a", data, upload.ticket[:-1] + ("0" if upload.ticket[-1] != "0" else "1")),
        (ada, "ada/a", data, "../files/aa/bb"),
    ):
        with pytest.raises(DeniedError):
            settle(client, scope, other, ticket)
    assert settle(ada, "ada/a", data, upload.ticket) == len(data)
    assert settle(ada, "ada/a", data, upload.ticket) == len(data), "an answer that was lost is given again"


def test_what_goes_past_a_hub_counts_from_when_its_address_is_given_out(hub: HubProcess, tmp_path: Path) -> None:
    ada, data, other = joined(hub, tmp_path, "quota", 78), fresh(), fresh()
    access = hub.client(tmp_path).access
    access.set_quota(wire.AskQuota(kind="scope", whom="quota", bytes_max=len(data)))
    upload = lent(ada, "quota/a", data)
    for scope in ("quota/a", "quota/b"):
        with pytest.raises(ConflictError, match=r"The scope quota has [\d,]+ of at most") as error:
            lent(ada, scope, other)
        assert error.value.kind == "quota"
        with pytest.raises(ConflictError):
            ada.objects(scope).put(file_digest(other), io.BytesIO(other))
    assert put(upload.url, data, put_headers(file_digest(data), len(data))) == 200
    for _ in range(2):
        assert settle(ada, "quota/a", data, upload.ticket) == len(data)
        assert [one.bytes for one in access.quotas() if one.whom == "quota"] == [len(data)]
    assert lent(ada, "quota/a", data).url, "what was sent there may come again"
    with pytest.raises(ConflictError):
        lent(ada, "quota/a", other)
    hub.client(tmp_path).tell("DELETE", f"/v1/objects/{file_digest(data)}?scope=quota/a")
    assert lent(ada, "quota/a", other).url, "there is room again"


def test_an_address_says_nothing_for_another_object_and_ends(hub: HubProcess, tmp_path: Path) -> None:
    store = hub.client(tmp_path).objects(SCOPE)
    store.put(DIGEST, io.BytesIO(DATA))
    with urllib3.PoolManager(retries=False) as pool:
        headers = {"authorization": f"Bearer {hub.token}"}
        asked = f"{hub.url}/v1/objects/{DIGEST}?direct=true"
        url = pool.request("GET", asked, headers=headers, redirect=False).headers["location"]
        assert pool.request("GET", asked, redirect=False).status == 401, "an address takes a token"
        assert pool.request("GET", url).status == 200
        assert pool.request("PUT", url, body=b"x").status == 403
        assert pool.request("DELETE", url).status == 403
        path = url.partition("?")[0]
        assert pool.request("GET", url.replace(path, path[:-1] + "0")).status == 403
        assert "X-Amz-Expires=300&" in url
        assert pool.request("GET", url.replace("X-Amz-Expires=300", "X-Amz-Expires=90000")).status in (400, 403)


# ---- where a client goes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "near"),
    [
        *(
            ("1.1.1.1", 0),
            ("2606:4700::1111", 0),
            ("10.1.2.3", 1),
            ("192.168.1.1", 1),
            ("fd00::1", 1),
            ("100.64.0.1", 1),
        ),
        *(("127.0.0.1", 2), ("::1", 2), ("::ffff:127.0.0.1", 2), ("169.254.169.254", 3), ("fe80::1%eth0", 3)),
        *(("::ffff:169.254.169.254", 3), ("0.0.0.0", 3), ("224.0.0.1", 3)),
    ],
)
def test_how_near_a_machine_is(address: str, near: int) -> None:
    assert nearness(address) == near


def test_a_hub_cannot_send_a_client_to_what_is_nearer_than_itself_or_without_tls(s3: str) -> None:
    for near in (0, 1):
        with pytest.raises((DeniedError, UnreachableError)) as caught:
            Direct("http://hub.example.org", near).get(f"{s3}/data/anything", 0)
        assert "nearer" in caught.value.message
    for url in (f"{s3}/data/x", "ftp://example.org/x", "file:///etc/passwd", ""):
        with pytest.raises(DeniedError):
            Direct("https://hub.example.org", 2).get(url, 0)
    with pytest.raises(DeniedError):
        Direct("http://hub.example.org", 2).get(s3.replace("://", "://user:password@"), 0)


class Bucket(BaseHTTPRequestHandler):
    """A server that a hub's owner put in the bucket's place: it notes what it is told, and answers as it likes."""

    seen: list[dict[str, str]] = []  # noqa: RUF012
    answer = b""
    status = 200

    def do_GET(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(self.status)
        self.send_header("location", "http://169.254.169.254/")
        self.send_header("content-length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def rogue() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_bucket_is_told_no_token_and_a_redirect_of_its_is_not_followed(rogue: HTTPServer) -> None:
    url = f"http://127.0.0.1:{rogue.server_port}/x"
    Bucket.seen.clear()
    Bucket.status = 307
    with pytest.raises(UnreachableError):
        Direct("http://127.0.0.1:1", 2).get(url, 0)
    assert len(Bucket.seen) == 1
    assert not Bucket.seen[0].keys() & {"authorization", "cookie"}


def test_where_the_bucket_cannot_be_reached_bytes_pass_through_the_hub_and_that_is_said_once(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Counting(int(s3.rpartition(":")[2]))
    for name, value in buckets.environment(line.url).items():
        monkeypatch.setenv(name, value)
    with running(tmp_path / "hub", tmp_path / "state", options=("--objects", f"s3://{buckets.NAME}/cut")) as hub:
        client = hub.client(tmp_path / "keys")
        store = client.objects(SCOPE)

        line.pid, line.lets_others_by = hub.process.pid, False  # the site is in another network than the bucket
        for data in (DATA, fresh()):
            store.put(file_digest(data), io.BytesIO(data))
            assert read(store, file_digest(data)) == data
        assert [warning.count("pass through the hub") for warning in client.warnings] == [1]
    line.close()


# ---- what takes long, and what is left behind -----------------------------------------------------------------------


@pytest.fixture
def two(s3: str, tmp_path: Path) -> tuple[lending.Direct, lending.Direct, CloudBucket]:
    """Return what two workers of one hub lend, and their bucket."""
    place = CloudBucket(f"s3://{buckets.NAME}/{tmp_path.name}", buckets.options(s3))
    first, second = (lending.Direct(tmp_path, BucketObjects(place), buckets.SECRET) for _ in range(2))
    return first, second, place


def test_what_was_put_and_never_claimed_is_deleted_after_a_day_and_what_is_younger_stays(
    two: tuple[lending.Direct, lending.Direct, CloudBucket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, place = two
    now, left = lending._hour(), {}
    for hours in (0, 1, 24, 25, 240):
        monkeypatch.setattr(lending, "_hour", lambda hours=hours: now - hours)
        upload = lending.Direct(tmp_path, BucketObjects(place), buckets.SECRET).lend(
            "ada", DIGEST, wire.AskUpload(scope=SCOPE, size=len(DATA))
        )
        assert put(upload.url, DATA, put_headers(DIGEST, len(DATA))) == 200
        left[hours] = INCOMING + upload.ticket
    monkeypatch.setattr(lending, "_hour", lambda: now)
    place.write("files/ab/other", DIGEST, DATA)
    first.lend("ada", DIGEST, wire.AskUpload(scope=SCOPE, size=len(DATA)))
    assert {name for name, _ in place.names(INCOMING)} == {left[0], left[1], left[24]}
    assert place.sizes(["files/ab/other"]), "objects are not what was left"
    told = wire.Uploaded(scope=SCOPE, size=len(DATA), ticket=left[25].removeprefix(INCOMING))
    with pytest.raises(NotFoundError):
        second.settle("ada", DIGEST, told, granted=lambda: False, grant=lambda: None)


def test_a_worker_takes_the_ticket_of_another(two: tuple[lending.Direct, lending.Direct, CloudBucket]) -> None:
    first, second, place = two
    upload = first.lend("ada", DIGEST, wire.AskUpload(scope=SCOPE, size=len(DATA)))
    assert put(upload.url, DATA, put_headers(DIGEST, len(DATA))) == 200
    told = wire.Uploaded(scope=SCOPE, size=len(DATA), ticket=upload.ticket)
    granted: list[bool] = []
    for each in (second, first):  # the second time since the answer was lost
        size = each.settle("ada", DIGEST, told, granted=lambda: bool(granted), grant=lambda: granted.append(True))
        assert size == len(DATA)
    assert granted == [True]
    assert [*place.names(INCOMING)] == []


def test_a_transfer_goes_on_when_its_address_ends_and_none_begins_then(
    two: tuple[lending.Direct, lending.Direct, CloudBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "URL_SECONDS", 2)
    asked = wire.AskUpload(scope=SCOPE, size=len(DATA))
    two[0].lend("ada", DIGEST, asked)  # the bucket is tried, which takes its time
    upload = two[0].lend("ada", DIGEST, asked)
    parts = urllib.parse.urlsplit(upload.url)
    ends = time.monotonic() + 3
    line = http.client.HTTPConnection(parts.netloc, timeout=60)
    line.putrequest("PUT", f"{parts.path}?{parts.query}", skip_accept_encoding=True)
    for name, value in put_headers(DIGEST, len(DATA)).items():
        line.putheader(name, value)
    line.endheaders()
    line.send(DATA[:1000])
    until(lambda: time.monotonic() > ends)
    line.send(DATA[1000:])
    assert line.getresponse().status == 200
    line.close()
    again = two[0].lend("ada", DIGEST, asked)
    ends = time.monotonic() + 3
    until(lambda: time.monotonic() > ends)
    assert put(again.url, DATA, put_headers(DIGEST, len(DATA))) == 403


def test_an_upload_that_was_swept_before_it_was_claimed_passes_through_the_hub(
    hub: HubProcess, tmp_path: Path, bucket: CloudBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Direct.put

    def swept(self: Direct, url: str, digest: str, source: BinaryIO, size: int) -> None:
        send(self, url, digest, source, size)
        bucket.delete([name for name, _ in bucket.names(INCOMING)])

    monkeypatch.setattr(Direct, "put", swept)
    data, client = fresh(), hub.client(tmp_path)
    assert client.objects(SCOPE).put(file_digest(data), io.BytesIO(data)) == len(data)
    assert read(client.objects(SCOPE), file_digest(data)) == data


def test_sites_send_the_same_and_other_objects_past_two_workers_at_once(
    s3: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in buckets.environment(s3).items():
        monkeypatch.setenv(name, value)
    options = ("--workers", "2", "--objects", f"s3://{buckets.NAME}/{tmp_path.name}")
    place = CloudBucket(f"s3://{buckets.NAME}/{tmp_path.name}", buckets.options(s3))
    same = [fresh() for _ in range(2)]
    with running(tmp_path / "hub", tmp_path / "state", database=databases.another(database), options=options) as hub:
        clients = [hub.client(tmp_path / f"{number}") for number in range(4)]

        def send(client: HubClient) -> None:
            for data in (*same, fresh()):
                assert client.objects(SCOPE).put(file_digest(data), io.BytesIO(data)) == len(data)

        with ThreadPoolExecutor(4) as pool:
            for sent in [pool.submit(send, client) for client in clients]:
                sent.result()
        assert [client.warnings for client in clients] == [[]] * 4, "all went past the hub"
        assert len([*clients[0].objects(SCOPE).list()]) == 6
        assert all(read(clients[0].objects(SCOPE), file_digest(data)) == data for data in same)
    assert [*place.names(INCOMING)] == []
