"""Many connections to one hub: how many an address may have, whose an address is, and open files for all of them."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hubs import HubProcess, running, until

MOST = 40
TOLD = 64
ANOTHER = "127.0.0.2"
"""Another address of this machine, as long as nobody asks for the first one."""


def connected(hub: HubProcess, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", hub.port), timeout=60, source_address=(source, 0))


def told(line: socket.socket, *headers: str, path: str = "/v1/health") -> tuple[int, bytes]:
    """Ask on a connection; return the status and what came with it."""
    head = "".join(f"{header}\r\n" for header in headers)
    line.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}\r\n".encode())
    answer = b""
    while (data := line.recv(1 << 16)) and not (answer := answer + data).rstrip().endswith(b"}"):  # all are JSON
        pass
    return int(answer.split(b" ")[1]), answer


def asked(hub: HubProcess, *headers: str, source: str = "127.0.0.1", path: str = "/v1/health") -> tuple[int, bytes]:
    with connected(hub, source) as line:
        return told(line, "connection: close", *headers, path=path)


@contextlib.contextmanager
def held(hub: HubProcess, count: int) -> Iterator[list[socket.socket]]:
    """Hold connections that the hub has taken, each of which has asked something once."""
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(connected(hub)) for _ in range(count)]
        assert {told(line)[0] for line in lines} == {200}
        yield lines


def test_one_address_has_so_many_connections_and_others_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path / "hub", tmp_path / "state", options=("--connections", str(MOST))) as hub:
        client = hub.client(tmp_path)
        assert client.token()
        with held(hub, MOST) as lines:
            status, answer = asked(hub)
            assert status == 429
            assert b"retry-after: 5" in answer
            assert f"more than {MOST} connections".encode() in answer
            assert asked(hub, source=ANOTHER)[0] == 200
            with contextlib.ExitStack() as stack:
                idle = [stack.enter_context(connected(hub)) for _ in range(2 * TOLD)]
                for line in idle:  # those that say nothing are let go of soon, each
                    with contextlib.suppress(ConnectionResetError):
                        assert line.recv(1) == b""
            assert asked(hub, source=ANOTHER)[0] == 200
            found: list[str] = []
            waiting = threading.Thread(target=lambda: found.append(client.hub().principal))
            waiting.start()
            until(lambda: "is asked too much" in caplog.text)
            lines.pop().close()
            waiting.join(60)
            assert found == ["local"], "a client waits as it is told to, and goes on"
        until(lambda: asked(hub)[0] == 200)


def test_behind_a_proxy_connections_are_the_proxys_and_are_not_counted(tmp_path: Path) -> None:
    options = ("--connections", "2", "--behind-proxy")
    with running(tmp_path / "hub", tmp_path / "state", options=options) as hub, held(hub, 20):
        assert asked(hub)[0] == 200


def test_whose_an_address_is(tmp_path: Path) -> None:
    said = {}
    for options in ((), ("--behind-proxy",)):
        with running(tmp_path / "hub", tmp_path / "state", options=("--log", *options)) as hub:
            for number, (header, source) in enumerate(
                [
                    ("203.0.113.7", "127.0.0.1"),
                    ("198.51.100.1, 203.0.113.8", "127.0.0.1"),
                    ("203.0.113.9", ANOTHER),
                    ("no address", "127.0.0.1"),
                ]
            ):
                asked(hub, f"x-forwarded-for: {header}", f"x-request-id: {number}", source=source)
            if options:
                statuses = []
                while 429 not in statuses:
                    statuses.append(asked(hub, "x-forwarded-for: 203.0.113.7", path="/v1/principals")[0])
                assert set(statuses[:-1]) == {401}
                assert asked(hub, "x-forwarded-for: 203.0.113.8", path="/v1/principals")[0] == 401
                forged = "x-forwarded-for: 203.0.113.99, 203.0.113.7"
                assert asked(hub, forged, path="/v1/principals")[0] == 429, "what the proxy did not say is not believed"
        lines = [json.loads(line) for line in hub.said.splitlines() if line.startswith("{")]
        said[options] = {line["id"]: line["client"] for line in lines if len(line["id"]) == 1}
    assert said[()] == {"0": "127.0.0.1", "1": "127.0.0.1", "2": ANOTHER, "3": "127.0.0.1"}
    behind = said[("--behind-proxy",)]
    assert {behind[n] for n in "012"} == {"203.0.113.7", "203.0.113.8", ANOTHER}


def test_a_hub_raises_its_limit_of_open_files_for_its_connections(tmp_path: Path) -> None:
    few = ("sh", "-c", 'ulimit -S -n 128; exec "$@"', "sh")
    hub = HubProcess(tmp_path / "hub", tmp_path / "state", within=few)
    try:
        text = Path(f"/proc/{hub.process.pid}/limits").read_text()
        (line,) = [line for line in text.splitlines() if line.startswith("Max open files")]
        soft, hard = line.split()[3:5]
        assert int(soft) == (5_000 if hard == "unlimited" else min(5_000, int(hard)))
        with held(hub, 300):
            assert asked(hub)[0] == 200
    finally:
        hub.stop()
