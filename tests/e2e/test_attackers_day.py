"""An attacker's day at a real hub, second part: tokens, bytes of others, addresses and paths.

Each attempt is refused with the right code, and the hub holds, tells and uses what it did before.
"""

import contextlib
import dataclasses
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmf.model import digest as digests
from cmf.model import wire
from cmf.model.exchange import View
from cmf.objects import manifest
from cmf.transfer import LocalPeer, transfer
from tests.attacks import unharmed
from tests.histories import Writer
from tests.hubs import HubProcess, Raw, joined, running

SECRET = b"canary-7f3a"
"""What the victim's records and bytes hold, and nobody else's."""
OPEN_TO_ALL = {("GET", "/v1/hub"), ("GET", "/v1/health"), ("GET", "/v1/ready"), ("POST", "/v1/enrol")}


@dataclasses.dataclass
class Day:
    """A hub with a victim's records and bytes, and an attacker who may write in a scope of their own."""

    hub: HubProcess
    folder: Path
    attacker: Writer
    token: str
    digest: str
    node: str
    hashes: list[str]
    streams: list[str]
    routes: list[tuple[str, str]]
    """(method, path) of every request that the hub describes."""

    def ask(self, token: str = "") -> Raw:
        return Raw(self.hub, token or self.token)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("day")
    with running(folder / "hub", folder / "state", options=("--rate", "0")) as hub:
        victim, attacker = Writer("victim", seed=71), Writer("attacker", seed=72)
        client = joined(hub, folder, victim, scope="team")
        node = victim.execution("team/train", 1, writes=(SECRET.decode(),))
        victim.seal()
        list(transfer(LocalPeer(victim.store), client.peer, View(own=True)))
        data = SECRET + b" bytes of the team"
        digest = digests.file_digest(data)
        client.objects("team/train").put(digest, data)
        thief = joined(hub, folder, attacker, scope="attic")
        attacker.execution("attic/own", 9)
        attacker.seal()
        list(transfer(LocalPeer(attacker.store), thief.peer, View(own=True)))
        samples = list(victim.store.samples(View(own=True)))
        described = Raw(hub, "")("GET", "/v1/openapi.json")[1]["paths"]
        yield Day(
            hub=hub,
            folder=folder,
            attacker=attacker,
            token=thief.token(),
            digest=digest,
            node=node,
            hashes=[point.hash.hex() for sample in samples for point in sample.points],
            streams=[sample.stream.hex() for sample in samples],
            routes=[(method.upper(), path) for path, found in described.items() for method in found],
        )


def bodies(day: Day) -> list[Any]:
    """Return what each request could be told so that it gives away, or changes, something of the victim's."""
    role = {"prefix": "team", "role": "read"}
    return [
        None,
        {},
        {"scopes": ["team/*", "team"], "streams": day.streams},
        {"scopes": ["team"], "prefixes": {"": "0" * 64}},
        {"streams": {stream: [] for stream in day.streams}, "below": ["", "team"]},
        {"hashes": day.hashes, "size": 1},
        {"where": "name ~ 'run'", "scopes": ["team/*"]},
        {"root": day.node},
        {"resolve": day.node},
        {"select": {"scopes": ["team/*"]}},
        {"executions": [day.node]},
        {"history": {"subject": day.node}},
        {"digests": [day.digest], "scope": "team/train"},
        {"digests": [day.digest]},
        {"scope": "team/train", "size": 16 << 20},
        {"scope": "team/train", "size": 28, "ticket": "00000000-" + "0" * 32 + "-" + "0" * 64},
        {"name": "friend", "role": role},
        {"principal": 1, "roles": [role]},
        {"principal": 3, "role": {"prefix": "", "role": "admin"}},
        {"name": "evil", "url": "http://127.0.0.1:1", "scopes": []},
        {"invite": "x" * 43, "key": "0" * 64, "name": "friend"},
    ]


def requests(day: Day) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield every request of the hub, told each of these things, with names of the victim's in its path."""
    for method, path in day.routes:
        for name in (day.digest, day.hashes[0]):
            filled = path
            while "{" in filled:
                filled = filled[: filled.index("{")] + name + filled[filled.index("}") + 1 :]
            for query in ("?scope=team/train", "?scope=team%2Ftrain&direct=true&folder=true&wanted=true"):
                for body in bodies(day) if method != "GET" else [None]:
                    yield method, filled + query, None if body is None else json.dumps(body).encode()


def test_nothing_that_a_token_for_another_scope_may_ask_tells_or_changes_anything(day: Day) -> None:
    mine = Raw(day.hub, day.hub.token)("GET", f"/v1/objects/{day.digest}")
    assert SECRET in mine[1], "so that it would be seen"
    asked = 0
    with unharmed(day.hub):
        ask = day.ask()
        for method, path, body in requests(day):
            if path.startswith("/v1/tokens") and method == "POST" and b'"roles"' not in (body or b""):
                continue  # a token of one's own is one's own to make
            status, answer = ask(method, path, body)
            told = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            assert SECRET not in told, (method, path, body)
            assert status < 500, (method, path, body, answer)
            asked += 1
    assert asked > 1000


def test_a_token_that_was_revoked_or_never_was_opens_nothing(day: Day) -> None:
    own = day.ask()
    issued = own("POST", "/v1/tokens", b'{"expires_s": 600}')[1]
    stolen = day.ask(issued["secret"])
    assert stolen("GET", "/v1/hub")[1]["principal"].startswith("attacker")
    assert own("DELETE", f"/v1/tokens/{issued['id']}")[0] == 204
    guessed = [issued["secret"][:-1], issued["secret"] + "A", issued["id"], "", " ", "é" * 40, "x" * 8000]
    with unharmed(day.hub):
        for token in (issued["secret"], *guessed):
            ask = Raw(day.hub, "")
            header = {"authorization": f"Bearer {token}".encode().decode("latin-1")}
            for method, path in day.routes:
                if (method, path) in OPEN_TO_ALL - {("GET", "/v1/hub")}:
                    continue
                body = b"\x01\x00\x00\x00\x00" if method in ("POST", "PUT") else None
                filled = path.replace("{digest}", day.digest).replace("{name}", "x").replace("{key}", "0" * 64)
                status, answer = ask(method, filled + "?scope=attic/own", body, header)
                assert status in (400, 401), (method, path, token)
                assert "principal" not in answer
        assert stolen("GET", "/v1/hub")[0] == 401


def test_bytes_of_another_scope_are_not_had_by_their_digest_by_any_way(day: Day) -> None:
    own = day.ask()
    other = digests.file_digest(b"never here")
    folder = manifest.encode([manifest.Entry("stolen", day.digest, 28)])
    name = digests.file_digest(folder)
    with unharmed(day.hub):
        for digest in (day.digest, other):
            for query in ("", "?scope=team/train", "?scope=attic/own", "?direct=true"):
                status, problem = own("GET", f"/v1/objects/{digest}{query}", headers={"range": "bytes=0-"})
                assert (status, problem["kind"]) == (404, "object"), "known or not, it is the same"
                assert problem["message"].replace(digest, "") == "Object  is not here."
            status, lent = own("POST", f"/v1/objects/{digest}/upload", b'{"scope":"attic/own","size":16777216}')
            assert (status, lent) == (200, {})
            missing = json.dumps({"scope": "attic/own", "digests": [digest]}).encode()
            assert own("POST", "/v1/objects/missing", missing) == (200, [digest])
        status, problem = own("PUT", f"/v1/objects/{day.digest}?scope=attic/own", b"not these bytes")
        assert status == 422
        status, problem = own("PUT", f"/v1/objects/{name}?scope=attic/own&folder=true", folder)
        assert (status, problem["kind"]) == (400, "members"), "a folder of it opens nothing"
        status, _ = own("PUT", f"/v1/objects/{day.digest}?scope=team/train", SECRET + b" bytes of the team")
        assert status == 403
        assert own("DELETE", f"/v1/objects/{day.digest}?scope=team/train")[0] == 403
        status, page = own("POST", "/v1/objects/get", json.dumps({"digests": [day.digest]}).encode())
        assert (status, SECRET in page) == (200, False)


def test_bytes_over_a_quota_are_refused_before_they_are_kept(day: Day) -> None:
    admin = Raw(day.hub, day.hub.token)
    quota = {"kind": "each", "bytes_max": 1 << 20, "streams_max": 10}
    assert admin("POST", "/v1/quotas", json.dumps(quota).encode())[0] == 204
    digest = digests.file_digest(b"whatever")
    path = f"/v1/objects/{digest}?scope=attic/own"
    small = b"".join(
        wire.frame(wire.OBJECT, wire.from_small(wire.Small(digests.file_digest(data), data)))
        for data in (bytes([n]) * (200 << 10) for n in range(10))
    )
    assert day.ask()("POST", "/v1/objects?scope=attic/own", small)[1]["count"] == 5, "as many as there is room for"
    with unharmed(day.hub):
        pieces = (b"x" * (1 << 20) for _ in range(64))  # which says nothing of their number
        for body in (b"x" * (64 << 20), pieces, b"x" * (300 << 10)):
            status, problem = day.ask()("PUT", path, body)
            assert (status, problem["kind"]) == (507, "quota")
        status, taken = day.ask()("POST", "/v1/objects?scope=attic/own", small)
        assert (status, taken["count"], {one["status"] for one in taken["refused"]}) == (200, 5, {507})
    assert admin("POST", "/v1/quotas/clear", b'{"kind": "each"}')[0] == 204


def spoken(hub: HubProcess, head: bytes) -> bytes:
    """Send a request as it is; return what is answered."""
    with socket.create_connection(("127.0.0.1", hub.port), timeout=30) as line:
        line.sendall(head)
        answer = b""
        with contextlib.suppress(OSError):
            while part := line.recv(1 << 16):
                answer += part
        return answer


REBOUND = (
    b"evil.example",
    b"127.0.0.1.evil.example",
    b"localhost.evil.example:80",
    b"127.0.0.1@evil.example",
    b"evil.example@127.0.0.1:80",
    b"127.0.0.1:80:80",
    b"127.0.0.1.",
    b"[::1]evil",
    b"[::ffff:127.0.0.1]",
    b"2130706433",
    b"0x7f.1",
    b"0.0.0.0",
    b"127.0.0.1 evil.example",
    b"127.0.0.1\tevil.example",
    b"127.0.0.1/evil.example",
    b"\xff127.0.0.1",
    b"",
)


def test_a_name_that_was_pointed_at_this_machine_is_refused_by_every_route(day: Day) -> None:
    token = day.hub.token.encode()
    asked = [(host, *route) for host in REBOUND for route in (("GET", "/v1/hub"), ("GET", "/v1/openapi.json"))]
    asked += [(b"evil.example", *route) for route in day.routes]
    with unharmed(day.hub):
        for host, method, path in asked:
            line = f"{method} {path.replace('{', '').replace('}', '')} HTTP/1.1".encode()
            answer = spoken(
                day.hub,
                b"%b\r\nhost: %b\r\nx-forwarded-host: 127.0.0.1\r\nauthorization: Bearer %b\r\n"
                b"content-length: 2\r\nconnection: close\r\n\r\n{}" % (line, host, token),
            )
            assert answer.split(b" ")[1] in ((b"400", b"403") if host in REBOUND[1:] else (b"403",)), (line, answer)
            assert b"principal" not in answer


def test_a_request_that_names_two_hosts_or_is_for_a_proxy_is_not_served(day: Day) -> None:
    token = day.hub.token.encode()
    for head in (
        b"GET /v1/hub HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n",
        b"GET /v1/hub HTTP/1.1\r\nhost: evil.example\r\nhost: 127.0.0.1\r\n",
        b"GET http://evil.example/v1/hub HTTP/1.1\r\nhost: evil.example\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nhost: 127.0.0.1\r\n",
        b"GET /v1/hub HTTP/1.0\r\n",
    ):
        answer = spoken(day.hub, head + b"authorization: Bearer %b\r\nconnection: close\r\n\r\n" % token)
        assert answer.split(b" ")[1][:1] == b"4", (head, answer[:200])
        assert b"principal" not in answer


OUTSIDE = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "%252e%252e%252fetc%252fpasswd",
    "..%5c..%5cetc%5cpasswd",
    "..%c0%af..%c0%afetc",
    "%00",
    "sha256:%00" + "0" * 63,
    "sha256:..%2f..%2fhub.db",
    "sha256:" + "0" * 62 + "%2f.",
    "sha256:" + "G" * 64,
    "tree:sha256:" + "0" * 64,
    "%2fetc%2fpasswd",
    "keys%2fhub",
    "hub.db",
    "%ff%fe",
    "C:%5cWindows",
    "x" * 9000,
)


def test_no_path_leads_out_of_what_a_hub_serves(day: Day) -> None:
    admin = day.hub.token.encode()
    key = (day.hub.folder / "keys" / "hub").read_bytes()
    with unharmed(day.hub):
        for name in OUTSIDE:
            quoted = urllib.parse.quote(name, safe="")
            for method, path in (
                ("GET", f"/v1/objects/{name}"),
                ("GET", f"/{name}"),
                ("GET", f"/v1/{name}"),
                ("PUT", f"/v1/objects/{name}?scope=a/b"),
                ("DELETE", f"/v1/peers/{name}"),
                ("DELETE", f"/v1/tokens/{name}"),
                ("DELETE", f"/v1/keys/{name}"),
                ("DELETE", f"/v1/invites/{name}"),
                ("POST", f"/v1/peers/{name}/sync"),
                ("GET", f"/v1/objects?scope={quoted}"),
                ("PUT", f"/v1/objects/{digests.file_digest(b'x')}?scope={quoted}"),
            ):
                head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1\r\nconnection: close\r\n"
                answer = spoken(day.hub, head.encode() + b"authorization: Bearer %b\r\n\r\nx" % admin)
                status = answer.split(b" ")[1] if answer else b"cut"
                assert status[:1] == b"4" or (status == b"200" and answer.endswith(b"\r\n\r\n[]")), (path, answer[:300])
                assert key not in answer
                assert b"SQLite format" not in answer
                assert b"root:" not in answer


@contextlib.contextmanager
def canary() -> Iterator[tuple[int, list[bytes]]]:
    """Run a server that nobody should speak to; lend its port, and what came, whose answer is a way elsewhere."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = listener.accept()
                heard.append(b"")
                with line, contextlib.suppress(OSError):
                    heard[-1] = line.recv(1 << 16)
                    line.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    worker = threading.Thread(target=serve, daemon=True)
    worker.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        worker.join(30)


def test_a_hub_speaks_to_no_address_because_somebody_names_it(day: Day) -> None:
    from cmf.model import records as model

    with canary() as (port, heard):
        url = f"http://127.0.0.1:{port}/x"
        with unharmed(day.hub):
            peer = {"name": "evil", "url": url, "token": "t", "invite": "i"}
            for asked in (peer, {**peer, "scopes": ["attic"]}, {**peer, "direction": "push", "scopes": ["attic/own"]}):
                status, problem = day.ask()("POST", "/v1/peers", json.dumps(asked).encode())
                assert (status, problem["kind"]) == (403, "scope")
        node = day.attacker.execution("attic/own", 77, reads=(url,))
        for key in ("remote", "process/1-aaaaaaaa/0", "code", "origin"):
            value = {"url": url, "uri": url, "remote": url, "site": {"name": url}}
            day.attacker.add("attic/own", model.Property(subject=node, key=key, value=value, t=9))
        day.attacker.seal()
        body = b"".join(wire.frame(wire.SEGMENT, data) for data in day.attacker.store.segments(View(own=True), {}))
        assert day.ask()("POST", "/v1/push?wanted=true", body)[0] == 200
        assert day.ask()("POST", "/v1/lineage", json.dumps({"root": node}).encode())[0] == 200
        assert day.ask()("GET", "/v1/hub", headers={"referer": url, "x-forwarded-for": url})[0] == 200
        assert heard == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://127.0.0.1:1/x",
        "ftp://127.0.0.1/",
        "unix:///run/docker.sock",
        "http+unix://%2frun%2fdocker.sock",
        "http://",
        "http:///x",
        "//127.0.0.1",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://127.0.0.1:0",
        "http://exa mple.org",
        "http://evil.example\r\nhost: x",
        "http://\0",
        "",
    ],
)
def test_even_an_admin_adds_no_peer_at_what_is_no_address_of_a_hub(day: Day, url: str) -> None:
    with unharmed(day.hub):
        asked = json.dumps({"name": "evil", "url": url, "invite": "i"}).encode()
        status, problem = day.ask(day.hub.token)("POST", "/v1/peers", asked)
        assert status in (400, 503), problem


def test_a_peer_sends_a_hub_nowhere_else(day: Day) -> None:
    with canary() as (port, heard):
        for code in (301, 302, 303, 307, 308):
            sent = f"HTTP/1.1 {code} x\r\nlocation: http://127.0.0.1:{port}/v1/hub\r\ncontent-length: 0\r\n\r\n"
            with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as lure:

                def answer(lure: socket.socket = lure, sent: str = sent) -> None:
                    line, _ = lure.accept()
                    with line:
                        line.recv(1 << 16)
                        line.sendall(sent.encode())

                worker = threading.Thread(target=answer, daemon=True)
                worker.start()
                asked = {"name": "lure", "url": f"http://127.0.0.1:{lure.getsockname()[1]}", "token": "t"}
                status, problem = day.ask(day.hub.token)("POST", "/v1/peers", json.dumps(asked).encode())
                worker.join(30)
                assert status in (403, 503), problem
        assert heard == []
        assert day.ask(day.hub.token)("GET", "/v1/peers") == (200, [])
