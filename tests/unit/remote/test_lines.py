"""Lines that are slow, and what is sent over them."""

import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf.errors import UnreachableError
from cmf.remote import HubClient, client
from cmf.remote.body import Body

STUCK_SECONDS = 1.0
SIZE = 12 << 20  # more than what is buffered on the way
DATA = b"x" * SIZE


class Stuck:
    """A server that reads nothing for a while, and then all; it answers once the body has ended."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.goes_on = threading.Event()
        self.received = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        line, _ = self._listener.accept()
        with line:
            self.goes_on.wait(STUCK_SECONDS)
            is_chunked, end = False, b""
            while data := line.recv(1 << 20):
                is_chunked = is_chunked or b"chunked" in data[:1000].lower()
                self.received += len(data)
                end = (end + data)[-7:]
                if end == b"\r\n0\r\n\r\n" if is_chunked else self.received > SIZE:
                    break
            line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    def close(self) -> None:
        self.goes_on.set()
        self._listener.close()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    found = Stuck()
    yield found
    found.close()


@pytest.mark.parametrize("body", [DATA, Body(io.BytesIO(DATA))], ids=["message", "file"])
def test_a_line_that_is_stuck_for_longer_than_a_connection_may_take_is_waited_for(
    stuck: Stuck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes | Body
) -> None:
    monkeypatch.setattr(client, "CONNECT_SECONDS", STUCK_SECONDS / 10)
    hub = HubClient(stuck.url, state_home=tmp_path, keys=tmp_path)
    with hub.request("POST", "/v1/push", body) as answer:
        assert answer.status == 200
    assert stuck.received > SIZE


def test_a_line_that_is_stuck_for_good_is_given_up(
    stuck: Stuck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_SECONDS", STUCK_SECONDS / 10)
    hub = HubClient(stuck.url, state_home=tmp_path, keys=tmp_path)
    with pytest.raises(UnreachableError, match="did not answer in time"), hub.request("POST", "/v1/push", DATA):
        pass


def test_a_body_is_sent_again_from_where_it_began() -> None:
    source = io.BytesIO(b"before" + DATA[:300_000] + b"end")
    source.seek(6)
    for start in (0, 5, 300_000):
        body = Body(source, start)
        for _ in range(2):
            assert b"".join(body) == source.getvalue()[6 + start :]
        assert body.is_repeatable
        source.seek(6)
