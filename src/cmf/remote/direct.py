"""Bytes between here and a hub's bucket, at addresses that the hub signs. The hub's token never goes there.

A hub could send us anywhere. So an address is followed only as far as the hub itself is trusted: over https if the hub
is spoken to over https, and to no machine that is nearer to us than the hub is. One on the internet can't make us speak
to our own network, and none to what is at a link-local address, where clouds hand out credentials. Which machine it is
is looked at once the connection stands and before a byte is sent, so that no name can be pointed elsewhere meanwhile.
"""

from __future__ import annotations

import ipaddress
import socket
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Timeout

from cmf.errors import DeniedError, UnreachableError
from cmf.objects.bucket import checked
from cmf.objects.presigned import put_headers
from cmf.remote.body import PIECE_BYTES

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
TAKEN = 412
"""How a store answers if the file is there already: it was sent before, and the answer was lost."""


def nearness(address: str) -> int:
    """Return how near a machine is by its address: 0 the internet, 1 our network, 2 here; 3 is never asked."""
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    if found.is_loopback:
        return 2
    if found.is_link_local or found.is_multicast or found.is_unspecified:
        return 3
    return 0 if found.is_global else 1


class _TooNearError(Exception):
    """What was connected to may not be. No `OSError`: that would be taken for a line that fails."""


class Direct:
    """What is sent to and got from the bucket of a hub that is at a URL and so near."""

    def __init__(self, hub: str, near: int) -> None:
        self._secure = hub.startswith("https:")
        limit = min(near, 2)

        def checked_socket(made: socket.socket) -> socket.socket:
            if nearness(made.getpeername()[0]) > limit:
                made.close()
                raise _TooNearError
            made.settimeout(READ_SECONDS)  # for each piece that is sent: a line that is slow was connected all the same
            return made

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return checked_socket(super()._new_conn())

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return checked_socket(super()._new_conn())

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self._pool = urllib3.PoolManager(retries=False, timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS))
        self._pool.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def put(self, url: str, digest: str, source: BinaryIO, size: int) -> None:
        """Send an object's bytes; `CorruptError`, and no file there, if they are others or of another size."""
        body = checked(digest, source, PIECE_BYTES)
        answer = self._ask("PUT", url, put_headers(digest, size), body)
        status = answer.status
        answer.close()
        if status == TAKEN:
            for _ in body:
                pass  # who has put it had its bytes; so have we
        elif status != 200:
            raise UnreachableError(f"The hub's bucket answers {status}.", kind="bucket")

    def get(self, url: str, offset: int) -> urllib3.BaseHTTPResponse:
        """Return the answer with a file's bytes from an offset on; they are believed only by their hash."""
        answer = self._ask("GET", url, {"range": f"bytes={offset}-"} if offset else {}, None)
        if answer.status != (206 if offset else 200):
            answer.close()
            raise UnreachableError(f"The hub's bucket answers {answer.status}.", kind="bucket")
        return answer

    def _ask(
        self, method: str, url: str, headers: dict[str, str], body: Iterator[bytes] | None
    ) -> urllib3.BaseHTTPResponse:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "https" and (self._secure or parts.scheme != "http"):
            raise DeniedError("The hub wants us to go on without TLS; that is not followed.", kind="url")
        if parts.username is not None:
            raise DeniedError("The hub names an address with a password; that is not followed.", kind="url")
        sent = {**headers, "accept-encoding": "identity", "user-agent": "cmf"}
        try:
            return self._pool.request(
                method, url, body=body, headers=sent, preload_content=False, redirect=False, decode_content=False
            )
        except _TooNearError:
            raise DeniedError(
                "The hub's bucket is nearer to us than the hub is; that is not followed.", kind="url"
            ) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise UnreachableError("The hub's bucket cannot be reached.", kind="bucket") from error


def tried(url: str, digest: str, bodies: Iterable[bytes]) -> list[int]:
    """Return what our own bucket answers (HTTP statuses) when these are put, one by one, as an object of a digest.

    They are as long as the object. The address is not looked at: it is one that we signed.
    """
    found = []
    with urllib3.PoolManager(retries=False, timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)) as pool:
        for body in bodies:
            headers = put_headers(digest, len(body))
            try:
                found.append(pool.request("PUT", url, body=body, headers=headers, redirect=False).status)
            except (urllib3.exceptions.HTTPError, OSError):
                found.append(0)
    return found
