"""Clients that keep a hub waiting: each is cut off in time, and all others are served meanwhile."""

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hubs import HubProcess, running, until

IDLE = 1_000
BOUND_SECONDS = 60


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running(folder / "hub", folder / "state", options=("--patience", "2", "--rate", "0")) as process:
        yield process


def connected(hub: HubProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", hub.port), timeout=BOUND_SECONDS)


def open_files(hub: HubProcess) -> int:
    """Return how many connections and objects the hub's process has open."""
    found = 0
    for link in Path(f"/proc/{hub.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found += os.readlink(link).startswith(("socket:", f"{hub.folder}/objects"))
    return found


def resident(hub: HubProcess) -> int:
    """Return how many bytes of memory the hub's process holds."""
    text = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) << 10


def dripped(line: socket.socket, data: bytes) -> None:
    """Send byte after byte, until all are sent or the other end is gone."""
    stop = time.monotonic() + BOUND_SECONDS
    line.settimeout(0.05)
    for byte in data:
        assert time.monotonic() < stop, "it was not cut off"
        try:
            line.sendall(bytes([byte]))
            if line.recv(1 << 16) == b"":
                return
        except TimeoutError:
            continue  # nothing was answered, and the line is still there
        except OSError:
            return
    raise AssertionError("all was sent, and nobody had enough of it")


def asked(hub: HubProcess, digest: str) -> bytes:
    token = f"authorization: Bearer {hub.token}"
    return f"GET /v1/objects/{digest} HTTP/1.1\r\nhost: 127.0.0.1\r\n{token}\r\n\r\n".encode()


HEAD = "POST /v1/push HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {}\r\ncontent-length: 100000\r\n"


@pytest.mark.parametrize("part", ["head", "second head", "body"])
def test_a_request_that_comes_byte_by_byte_is_cut_off(hub: HubProcess, tmp_path: Path, part: str) -> None:
    head = HEAD.format(hub.token).encode()
    with connected(hub) as line:
        if part == "second head":
            line.sendall(b"GET /v1/health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert line.recv(1 << 16).startswith(b"HTTP/1.1 200")
        if part == "body":
            line.sendall(head + b"\r\n")
            dripped(line, b"x" * 100_000)
        else:
            dripped(line, head + b"x-more: " + b"x" * 20_000)
    assert hub.client(tmp_path).hub().principal == "local"


def test_a_client_that_does_not_read_its_answer_is_cut_off(hub: HubProcess, tmp_path: Path) -> None:
    data = b"\x01" * (32 << 20)
    digest = digest_of(data)
    with hub.client(tmp_path).request("PUT", f"/v1/objects/{digest}?scope=a/b", data) as answer:
        assert answer.status == 200
    before = open_files(hub)
    lines = []
    for _ in range(8):
        line = connected(hub)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(asked(hub, digest))
        lines.append(line)
    try:
        until(lambda: open_files(hub) <= before, seconds=BOUND_SECONDS)
    finally:
        for line in lines:
            line.close()
    assert hub.client(tmp_path).hub().principal == "local"


def test_a_reader_that_is_only_slow_gets_all_of_its_answer(hub: HubProcess, tmp_path: Path) -> None:
    data = bytes(range(256)) * (16 << 10)
    digest = digest_of(data)
    with hub.client(tmp_path).request("PUT", f"/v1/objects/{digest}?scope=a/b", data):
        pass
    never = threading.Event()
    got = bytearray()
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        line.settimeout(BOUND_SECONDS)
        line.connect(("127.0.0.1", hub.port))
        line.sendall(asked(hub, digest))
        while not got.endswith(data[-1024:]) or len(got) < len(data):
            part = line.recv(8 << 10)
            assert part, "it was cut off"
            got += part
            never.wait(0.01)  # this is what is tested: it takes several times as long as the hub is patient
    assert got.partition(b"\r\n\r\n")[2] == data


def test_a_thousand_idle_connections_hold_nobody_up_and_are_let_go(hub: HubProcess, tmp_path: Path) -> None:
    before, memory = open_files(hub), resident(hub)
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(connected(hub))
        assert hub.client(tmp_path).hub().principal == "local"
        until(lambda: open_files(hub) <= before, seconds=BOUND_SECONDS)
    assert resident(hub) - memory < 64 << 20
