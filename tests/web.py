"""A real web server for the tests that need one: on the loopback, with the answers that a test gives it."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Answer(NamedTuple):
    """What a path answers: headers (`content-length` is the body's if there is none), the body, the status.

    ``heads``: HEAD is known. ``before`` is called first, with the request's headers.
    """

    headers: dict[str, str]
    body: bytes = b""
    status: int = 200
    heads: bool = True
    before: Callable[[dict[str, str]], object] | None = None


@contextlib.contextmanager
def running(answers: dict[str, Answer]) -> Iterator[tuple[str, list[str]]]:
    """Serve these paths; yield the server's address, and the requests that it got: ``METHOD PATH``."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(f"{self.command} {self.path}")
            found = answers.get(path, Answer({}, status=404))
            if self.command == "HEAD" and not found.heads:
                found = Answer({}, status=403)
            if found.before is not None:
                found.before({name.lower(): value for name, value in self.headers.items()})
            self.send_response(found.status)
            for name, value in {"content-length": str(len(found.body)), **found.headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(OSError):  # who asked has gone
                    self.wfile.write(found.body)

        do_GET = do_HEAD = answer  # noqa: N815  # as the library wants it

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
